"""What grids of faces say on C1, C2, C4 (equal faces) and C8, from the records of the interference study."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lipcore.datasets.synthetic import EVALUATION_FACES, people
from lipcore.metrics.paired import Outcomes, Statistic, coefficient, gain, paired, ratio
from lipcore.results import poster
from lipcore.studies.base.verdict_rules import FACTOR, TARGETS, Contrast, Reading, matched

Record = Mapping[str, Any]
#: (faces, pixels between patches).
Cell = tuple[int, int]
#: Where strengths are matched.
ONE: Cell = (1, 40)
NEAR: Cell = (9, 40)
DATASET = "grids"
#: (all faces attacked by, reading): what interference is measured of.
COEFFICIENTS: tuple[tuple[str, Reading], ...] = (
    ("imp-i", "instance"),
    ("imp", "whole map"),
    ("lp", "instance"),
    ("lip-a", "instance"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A contrast to be made wherever its conditions were measured.

    Attributes:
        claim, step, reading, primary: of the contrast.
        conditions: (perturbation, cell) of each.
        poster: the poster's effect, a share; of a ratio the factor.
        statistic: of the conditions' success.
        null: see :class:`lipcore.studies.base.verdict_rules.Contrast`.
    """

    claim: str
    step: str
    reading: Reading
    conditions: tuple[tuple[str, Cell], ...]
    poster: float | None = None
    primary: bool = False
    statistic: Statistic = field(default_factory=lambda: gain)  # a plain default would become a method
    null: float = 0.0


def printed(faces: int, distance: int) -> float:
    """The poster's success of IMP in one cell, a share."""
    found = [r["value"] for r in poster("ipi") if (r["faces"], r["distance"]) == (faces, distance)]
    return float(found[0]) / 100


def across(more: Cell, less: Cell) -> float | None:
    """The poster's effect between two cells; None where it does not print both."""
    cells = {(r["faces"], r["distance"]) for r in poster("ipi")}
    return printed(*more) - printed(*less) if {more, less} <= cells else None


def named(cell: Cell) -> str:
    """A cell as readers name it."""
    return "1 face" if cell[0] == 1 else f"{cell[0]} faces at {cell[1]} px"


@cache
def plans() -> tuple[Plan, ...]:
    """All contrasts between cells and between methods, those that are primary first."""
    made = []
    for claim, more, less, primary in (
        ("C1", ONE, NEAR, True),
        ("C1", ONE, (64, 40), False),
        ("C1", NEAR, (64, 40), False),
        ("C2", (9, 240), NEAR, True),
        ("C2", (9, 160), NEAR, False),
        ("C2", (9, 240), (9, 160), False),
    ):
        for name, reading in (("imp", "whole map"), ("imp-i", "instance")):
            made.append(
                Plan(
                    claim=claim,
                    step=f"{name.upper()}: {named(more)} - {named(less)}",
                    reading=reading,  # type: ignore[arg-type]
                    conditions=((name, more), (name, less)),
                    poster=across(more, less),
                    primary=primary and name == "imp",
                )
            )
    for cell in (NEAR, (9, 160), (9, 240), (64, 40)):
        for more_p, less_p, reading in (
            ("lp-w", "imp", "whole map"),
            ("lip-a", "imp-i", "instance"),
            ("lp", "imp-i", "instance"),
            ("lip-a", "lp", "instance"),
            ("lip-h", "lip-a", "instance"),
        ):
            primary = cell == NEAR and (more_p, less_p) in (("lp-w", "imp"), ("lip-a", "imp-i"))
            made.append(
                Plan(
                    claim="C4",
                    step=f"equal faces: {more_p.upper()} - {less_p.upper()}, {named(cell)}",
                    reading=reading,  # type: ignore[arg-type]
                    conditions=((more_p, cell), (less_p, cell)),
                    primary=primary,
                )
            )
        for less_p, reading in (("imp", "whole map"), ("imp-i", "instance")):
            made.append(
                Plan(
                    claim="C8",
                    step=f"LIP-A / {less_p.upper()}, {named(cell)}",
                    reading=reading,  # type: ignore[arg-type]
                    conditions=(("lip-a", cell), (less_p, cell)),
                    poster=FACTOR,
                    primary=cell == NEAR,
                    statistic=ratio,
                    null=1.0,
                )
            )
    return tuple(sorted(made, key=lambda plan: not plan.primary))


class Grids:
    """The records of one detector by perturbation, epsilon and cell.

    Args:
        records: of one detector and one configuration.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.groups: dict[tuple[str, float, Cell], dict[int, Record]] = defaultdict(dict)
        for r in records:
            self.groups[r["perturbation"], r["epsilon"], (r["faces"], r["distance"])][r["image"]] = r

    def outcomes(self, perturbation: str, epsilon: float, cell: Cell) -> Outcomes | None:
        """Faces lost, by image and person; None where nothing was measured."""
        records = self.groups.get((perturbation, epsilon, cell))
        return None if not records else by_person(records, cell)

    def clean_rate(self, perturbation: str, epsilon: float, cell: Cell) -> float:
        """The share of faces found on the clean images."""
        flags = "".join(r["before"] for r in self.groups[perturbation, epsilon, cell].values())
        return flags.count("1") / len(flags)

    def success(self, reading: Reading) -> dict[float, float]:
        """Epsilon -> success on one face of what a reading calls IMP."""
        name = imp_of(reading)
        found = {e: self.outcomes(p, e, cell) for p, e, cell in sorted(self.groups) if (p, cell) == (name, ONE)}
        return {e: o.rate for e, o in found.items() if o is not None}


def one_face(records: Iterable[Record]) -> dict[str, dict[float, float]]:
    """Detector -> epsilon -> success of IMP-I on one face."""
    return {detector: Grids(own).success("instance") for detector, own in latest(records).items()}


def imp_of(reading: Reading) -> str:
    """The perturbation that the poster's IMP is by a reading of A1."""
    return "imp-i" if reading == "instance" else "imp"


def by_person(records: Mapping[int, Record], cell: Cell) -> Outcomes:
    """Faces lost of those found, by image and person."""
    images, who, lost, found = [], [], [], []
    for image, record in sorted(records.items()):
        for person, before, after in zip(people(cell[0], image), record["before"], record["after"], strict=True):
            images.append(image)
            who.append(person)
            found.append(float(before == "1"))
            lost.append(float(before == "1" and after == "0"))
    return Outcomes.of(images, lost, found, who, n_identities=EVALUATION_FACES)


def contrasts(records: Iterable[Record]) -> Iterator[Contrast]:
    """The contrasts of every detector at its matched strengths."""
    for detector, own in latest(records).items():
        grids = Grids(own)
        for plan in plans():
            success = grids.success(plan.reading)
            for target, epsilon, primary in strengths(success, plan.claim, plan.primary):
                conditions = [grids.outcomes(name, epsilon, cell) for name, cell in plan.conditions]
                known = [o for o in conditions if o is not None]
                if len(known) < len(conditions):
                    continue
                yield Contrast(
                    claim=plan.claim,
                    step=plan.step,
                    reading=plan.reading,
                    detector=detector,
                    outcome="asr",
                    dataset=DATASET,
                    measured=paired(known, plan.statistic),
                    epsilon=epsilon,
                    target=target,
                    reached=success[epsilon],
                    poster=plan.poster,
                    primary=primary,
                    null=plan.null,
                    clean_rate=min(grids.clean_rate(name, epsilon, cell) for name, cell in plan.conditions),
                )
        yield from _coefficients(detector, grids)


def _coefficients(detector: str, grids: Grids) -> Iterator[Contrast]:
    """Interference in logits in the poster's cells, which is secondary: how much less a face drops among others."""
    for joint, reading in COEFFICIENTS:
        success = grids.success(reading)
        for cell in (NEAR, (9, 160), (9, 240), (64, 40)):
            for target, epsilon, _ in strengths(success, "C1", False):
                alone, records = (grids.groups.get((p, epsilon, cell), {}) for p in ("alone", joint))
                images = [i for i in sorted(alone) if i in records and alone[i]["drops"]]
                if len(images) < 2:
                    continue
                together = [sum(records[i]["drops"][k] for k in alone[i]["chosen"]) for i in images]
                apart = [sum(alone[i]["drops"]) for i in images]
                counts = [float(len(alone[i]["drops"])) for i in images]
                pair = [Outcomes.of(images, together, counts), Outcomes.of(images, apart, counts)]
                yield Contrast(
                    claim="C1",
                    step=f"{joint.upper()}: interference in logits, {named(cell)}",
                    reading=reading,
                    detector=detector,
                    outcome="interference",
                    dataset=DATASET,
                    measured=paired(pair, coefficient),
                    epsilon=epsilon,
                    target=target,
                    reached=success[epsilon],
                    scale=None,
                    note="against IMP-I on one face alone" if joint != "imp-i" else "",
                )


def strengths(success: Mapping[float, float], claim: str, primary: bool) -> Iterator[tuple[float, float, bool]]:
    """(target, epsilon, primary) of each strength a contrast is made at; C8's own target is 25 %.

    An epsilon that matches two targets is used once, for the first. There is none where no success was measured.
    """
    if all(map(math.isnan, success.values())):
        return
    order = TARGETS if claim != "C8" else (TARGETS[1], TARGETS[0], TARGETS[2])
    used: set[float] = set()
    for target in order:
        epsilon = matched(success, target)
        if epsilon not in used:
            used.add(epsilon)
            yield target, epsilon, primary and target == order[0]


def latest(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Detector -> its records, of the configuration that was recorded last."""
    every = list(records)
    last = {r["detector"]: r["config"] for r in every}
    found: dict[str, list[Record]] = defaultdict(list)
    for r in every:
        if r["config"] == last[r["detector"]]:
            found[r["detector"]].append(r)
    return dict(found)
