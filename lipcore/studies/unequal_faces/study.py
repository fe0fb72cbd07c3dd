"""Unequal faces (C4): one small face amid eight large ones, by IMP-I, LP and LIP-A.

To first order LIP cannot lower the faces' loss more than IMP-I does. It can lower another face's: where a weak gradient
is outvoted by the tails of strong neighbours, a crop for each face gives the weak one its own pixels back. The strength
is matched on images 900 to 911, which are not evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lipcore.attacks.attack import Attack
from lipcore.attacks.targets import Matching
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Unequal, people
from lipcore.detectors import Detector
from lipcore.metrics.intervals import share
from lipcore.studies.base.faces import Case, SceneStudy, case_of
from lipcore.studies.base.study import Infos, Record, Run

NAME = "unequal_faces"
KEY = ("config", "detector", "small", "large", "pitch", "epsilon", "perturbation", "image")
#: IMP-I on the small face alone, with the large ones in place.
ALONE = "alone"
#: In the order in which an image gets them.
PERTURBATIONS = ("imp-i", "lp", "lip-a", ALONE)
#: (small, large, pitch) that carries the primary contrasts.
PRIMARY = (32, 96, 144)
#: On these the strength is matched.
CALIBRATION = tuple(range(900, 912))
CANDIDATES = (1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Part:
    """Cells measured alike.

    Attributes:
        detector: its name.
        cells: (small, large, pitch), in pixels.
        epsilons: in grey levels.
        images: seeds.
        perturbations: :data:`ALONE` or presets' names.
    """

    detector: str
    cells: tuple[tuple[int, int, int], ...]
    epsilons: tuple[float, ...]
    images: tuple[int, ...]
    perturbations: tuple[str, ...] = PERTURBATIONS


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured, in its order.

    Attributes:
        parts: one after the other.
        update: the update rule's name.
        canvas: side of every image in pixels.
        matching: A10, A11 and A12.
    """

    parts: tuple[Part, ...]
    update: str = "i-fgsm"
    canvas: int = 576
    matching: Matching = field(default_factory=Matching)


def full() -> Config:
    """Strengths on the calibration images; then the primary cell at those that match, and the other cells."""
    parts = [Part(name, (PRIMARY,), CANDIDATES, CALIBRATION, ("imp-i",)) for name in ("hr-mini", "centerface")]
    for images in (range(30), range(30, 60)):
        parts.append(Part("hr-mini", (PRIMARY,), (2.0,), tuple(images)))
        parts.append(Part("centerface", (PRIMARY,), (1.0,), tuple(images)))
    parts.append(Part("hr-mini", (PRIMARY,), (1.0,), tuple(range(30))))
    cells = tuple(
        (small, large, pitch)
        for small in (24, 32, 40)
        for large in (64, 96)
        for pitch in (112, 144, 192)
        if (small, large, pitch) != PRIMARY
    )
    parts.append(Part("hr-mini", cells, (2.0, 1.0), tuple(range(12))))
    return Config(parts=tuple(parts))


def quick(detector: str = "hr-mini") -> Config:
    """For a laptop: one image."""
    return Config(parts=(Part(detector, (PRIMARY,), (2.0,), (0,), ("imp-i", "lip-a")),))


class UnequalFaces(SceneStudy[Config]):
    """The study."""

    name = NAME
    title = "one small face amid eight large ones, by IMP-I, LP and LIP-A"
    key = KEY
    of = ("small", "large", "pitch")

    def config(self, run: Run) -> Config:
        """Of the profile."""
        return full() if run.profile == "full" else quick(self.under_study(run))

    def scenes(self, config: Config) -> Iterator[tuple[str, Record, Sequence[str]]]:
        """Part by part, strength by strength, cell by cell."""
        for part in config.parts:
            for epsilon in part.epsilons:
                for small, large, pitch in part.cells:
                    for image in part.images:
                        scene = {"small": small, "large": large, "pitch": pitch, "epsilon": epsilon}
                        yield part.detector, scene | {"image": image}, part.perturbations

    def case(self, config: Config, detector: Detector, scene: Record) -> Case:
        """One grid."""
        grid = Unequal(small=scene["small"], large=scene["large"], pitch=scene["pitch"], canvas=config.canvas)
        return case_of(detector, grid.draw(scene["image"]), config.matching)

    def attacked(self, config: Config, case: Case, entries: Record) -> Record:
        """The grid under one perturbation."""
        alone = entries["perturbation"] == ALONE
        name = "imp-i" if alone else entries["perturbation"]
        attack = Attack(name, update_rule(config.update, entries["epsilon"]), config.matching)
        small = case.owners[Unequal.SMALL]
        only = None if not alone else [] if small is None else [small]
        return case.record(case.attacked(attack, only)) | {"people": people(9, entries["image"])}

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """Those of each perturbation, and on how many images the small face falls further than under IMP-I."""
        rows, summary = super().tabulated(config, records, infos)
        return [*rows, *self.ahead(records)], summary

    def ahead(self, records: Sequence[Record]) -> Iterator[Record]:
        """For LP and LIP-A, the share of images on which the small face's logit falls further than under IMP-I."""
        cells: dict[tuple[Any, ...], dict[str, dict[int, float]]] = {}
        for r in records:
            drop = r["drops"][Unequal.SMALL]
            if r["image"] not in CALIBRATION and drop is not None:
                key = tuple(r[k] for k in ("detector", *self.of, "epsilon"))
                cells.setdefault(key, {}).setdefault(r["perturbation"], {})[r["image"]] = drop
        for cell, by in cells.items():
            for name in ("lp", "lip-a"):
                base, own = by.get("imp-i", {}), by.get(name, {})
                if both := sorted(base.keys() & own.keys()):
                    e = share([own[i] > base[i] for i in both], [1] * len(both), seed=self.seed)
                    place = dict(zip(("detector", *self.of, "epsilon"), cell, strict=True)) | {"perturbation": name}
                    yield place | {
                        "metric": "ahead_small",
                        **e.columns,
                    }

    def cell_rows(self, records: Sequence[Record]) -> Iterator[Record]:
        """Those of all nine faces, and of the small one alone; calibration images are left out."""
        evaluated = [r for r in records if r["image"] not in CALIBRATION]
        if not evaluated:
            return
        yield from super().cell_rows(evaluated)
        small = [
            r | {k: r[k][Unequal.SMALL : Unequal.SMALL + 1] for k in ("before", "after", "drops")} for r in evaluated
        ]
        for row in super().cell_rows(small):
            if row["metric"] != "psnr":
                yield row | {"metric": f"{row['metric']}_small"}
