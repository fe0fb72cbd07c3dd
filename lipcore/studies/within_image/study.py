"""Interference within the image (C1, C2): the same faces attacked one at a time, and all together.

Cells with more faces hold other faces, found with other confidence. Here one image is its own control: up to three of
its faces are attacked alone by IMP-I, with all others in place, and then all at once by each method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lipcore.attacks.attack import Attack
from lipcore.attacks.targets import Matching
from lipcore.attacks.updates import Update, update_rule
from lipcore.datasets.synthetic import Grid, people
from lipcore.detectors import Detector
from lipcore.studies.base.faces import Case, SceneStudy, case_of
from lipcore.studies.base.study import Infos, Record, Run
from lipcore.studies.within_image.table import ALONE, coefficients, grouped

NAME = "within_image"
KEY = ("config", "detector", "faces", "distance", "side", "epsilon", "perturbation", "image")
#: In the order in which an image gets them.
PERTURBATIONS = (ALONE, "imp-i", "imp", "lip-a", "lp")
#: Faces of an image that are attacked alone.
FEW = 3
#: (faces, distance, face side) that carry primary contrasts.
PRIMARY = ((9, 40, 40), (9, 160, 40))


@dataclass(frozen=True)
class Part:
    """Cells measured alike.

    Attributes:
        detector: its name.
        cells: (faces, distance, face side), in pixels.
        epsilons: in grey levels.
        images: seeds 0, 1, ... of each cell.
        perturbations: :data:`ALONE` or presets' names.
    """

    detector: str
    cells: tuple[tuple[int, int, int], ...]
    epsilons: tuple[float, ...]
    images: int
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
    canvas: int = 704
    matching: Matching = field(default_factory=Matching)


def full() -> Config:
    """Primary contrasts first, of the detectors whose strengths are matched; then number, distance, size, strength."""
    matched = {"hr-mini": (2.0, 1.0), "centerface": (1.0, 2.0)}
    parts = [Part(name, PRIMARY, e[:1], 30) for name, e in matched.items()]
    parts += [Part("pnet", PRIMARY, (4.0,), 30)]
    for name, epsilons in matched.items():
        parts.append(Part(name, ((64, 40, 40),), epsilons[:1], 30))
        parts.append(Part(name, ((9, 80, 40), (9, 120, 40), (9, 240, 40)), epsilons[:1], 12))
        parts.append(Part(name, ((4, 40, 40), (16, 40, 40), (25, 40, 40), (49, 40, 40)), epsilons[:1], 12))
        parts.append(Part(name, PRIMARY, epsilons[1:], 30))
        parts.append(Part(name, ((9, 40, 64), (9, 160, 64)), epsilons[:1], 30))
        parts.append(Part(name, ((9, 40, 96), (9, 160, 96)), epsilons[:1], 12))
    return Config(parts=tuple(parts))


def quick(detector: str = "hr-mini") -> Config:
    """For a laptop: one image of one cell."""
    return Config(parts=(Part(detector, PRIMARY[:1], (2.0,), 1, (ALONE, "imp-i")),))


class WithinImage(SceneStudy[Config]):
    """The study."""

    name = NAME
    title = "interference within one image: faces attacked alone, and all together"
    key = KEY
    of = ("faces", "distance", "side")

    def config(self, run: Run) -> Config:
        """Of the profile."""
        return full() if run.profile == "full" else quick(self.under_study(run))

    def scenes(self, config: Config) -> Iterator[tuple[str, Record, Sequence[str]]]:
        """Part by part, strength by strength, cell by cell."""
        for part in config.parts:
            for epsilon in part.epsilons:
                for faces, distance, side in part.cells:
                    for image in range(part.images):
                        scene = {"faces": faces, "distance": distance, "side": side, "epsilon": epsilon}
                        yield part.detector, scene | {"image": image}, part.perturbations

    def case(self, config: Config, detector: Detector, scene: Record) -> Case:
        """One grid."""
        side, canvas = scene["side"], config.canvas
        grid = Grid(faces=scene["faces"], distance=scene["distance"], face_side=side, canvas=canvas)
        return case_of(detector, grid.draw(scene["image"]), config.matching)

    def attacked(self, config: Config, case: Case, entries: Record) -> Record:
        """The grid under one perturbation or, of :data:`ALONE`, some of its faces one by one."""
        who = {"people": people(entries["faces"], entries["image"])}
        update = update_rule(config.update, entries["epsilon"])
        if entries["perturbation"] != ALONE:
            return case.record(case.attacked(Attack(entries["perturbation"], update, config.matching))) | who
        found = [i for i, owner in enumerate(case.owners) if owner is not None]
        chosen = found[:: max(1, len(found) // FEW)][:FEW]
        each = [alone(config.matching, case, face, update) for face in chosen]
        joined = {k: "".join(r[k] for r in each) for k in ("before", "after")}
        return {"chosen": chosen, **joined, "drops": [r["drop"] for r in each], **who}

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """Those of every study of scenes, and of each cell what the others cost a face."""
        rows, scalars = super().tabulated(config, records, infos)
        names = ("detector", *self.of, "epsilon")
        for cell, by in grouped(records, names).items():
            rows += [dict(zip(names, cell, strict=True)) | row for row in coefficients(by)]
        return rows, scalars


def alone(matching: Matching, case: Case, face: int, update: Update) -> Record:
    """What IMP-I on one face alone does to it."""
    owner = case.owners[face]
    assert owner is not None
    record = case.faces(case.attacked(Attack("imp-i", update, matching), [owner]))
    return {"before": record["before"][face], "after": record["after"][face], "drop": record["drops"][face]}
