"""Interference within a photograph (C1, C2): some of its faces attacked alone, then all, by their neighbours' distance.

On grids the distance is set and everything else is equal. Here it is what the photograph has; but each face is its own
control, since the same face is attacked alone and among all, so that its size and clarity do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lipcore.attacks.attack import Attack
from lipcore.attacks.targets import Matching
from lipcore.attacks.updates import update_rule
from lipcore.boxes import nearest_gaps
from lipcore.datasets.crowds import load_crowds
from lipcore.detectors import Detector
from lipcore.known_fields import shipped_side
from lipcore.results import Dataset, digest
from lipcore.studies.base.faces import Case, SceneStudy, case_of, photograph
from lipcore.studies.base.study import Infos, Record, Run
from lipcore.studies.neighbours.bins import BINS, name_of, within
from lipcore.studies.within_image.study import alone
from lipcore.studies.within_image.table import ALONE, Images, coefficients, grouped

NAME = "within_photo"
KEY = ("config", "detector", "epsilon", "perturbation", "image")
#: In the order in which an image gets them.
PERTURBATIONS = (ALONE, "imp-i", "lip-a")


@dataclass(frozen=True)
class Part:
    """Photographs measured alike.

    Attributes:
        detector: its name.
        epsilon: in grey levels.
        photos: how many, from the first on.
    """

    detector: str
    epsilon: float
    photos: int


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured, in its order.

    Attributes:
        parts: one after the other.
        few: faces of a photograph that are attacked alone, evenly taken from its list.
        update: the update rule's name.
        matching: A10, A11 and A12.
    """

    parts: tuple[Part, ...]
    few: int = 6
    update: str = "i-fgsm"
    matching: Matching = field(default_factory=Matching)


def full() -> Config:
    """Each detector at the epsilon at which IMP-I hides nearest to half of the crowds' faces."""
    return Config(parts=(Part("centerface", 1.0, 24), Part("hr-mini", 2.0, 24), Part("retinaface", 2.0, 24)))


def quick(detector: str = "centerface") -> Config:
    """For a laptop: one photograph, two of its faces."""
    return Config(parts=(Part(detector, 1.0, 1),), few=2)


class WithinPhoto(SceneStudy[Config]):
    """The study."""

    name = NAME
    title = "interference within photographs of crowds, by the distance of a face's nearest neighbour"
    own_detector = "centerface"
    key = KEY
    of = ()

    def config(self, run: Run) -> Config:
        """Of the profile."""
        return full() if run.profile == "full" else quick(self.under_study(run))

    def scenes(self, config: Config) -> Iterator[tuple[str, Record, Sequence[str]]]:
        """Detector by detector, photograph by photograph."""
        for part in config.parts:
            for image in range(part.photos):
                yield part.detector, {"epsilon": part.epsilon, "image": image}, PERTURBATIONS

    def case(self, config: Config, detector: Detector, scene: Record) -> Case:
        """One photograph."""
        return case_of(detector, photograph(scene["image"]), config.matching)

    def attacked(self, config: Config, case: Case, entries: Record) -> Record:
        """The photograph under one perturbation or, of :data:`ALONE`, some of its faces one by one.

        ``gaps`` are pixels from the box of a face that is attacked alone to the nearest other box that is attacked,
        null where there is none.
        """
        update = update_rule(config.update, entries["epsilon"])
        if entries["perturbation"] != ALONE:
            return case.record(case.attacked(Attack(entries["perturbation"], update, config.matching)))
        found = [i for i, owner in enumerate(case.owners) if owner is not None]
        chosen = found[:: max(1, len(found) // config.few)][: config.few]
        each = [alone(config.matching, case, face, update) for face in chosen]
        boxes = torch.stack([i.box for i in case.instances]) if case.instances else torch.zeros((0, 4))
        gaps = nearest_gaps(boxes).tolist()
        own = [gaps[owner] for face in chosen if (owner := case.owners[face]) is not None]
        return {
            "chosen": chosen,
            **{k: "".join(r[k] for r in each) for k in ("before", "after")},
            "drops": [r["drop"] for r in each],
            "gaps": [None if g == float("inf") else round(g, 1) for g in own],
        }

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """Coefficient in logits and loss of success, of all faces and by the neighbour's distance."""
        rows: list[Record] = []
        for (detector, epsilon), by in grouped(records, ("detector", "epsilon")).items():
            shared = {"detector": detector, "epsilon": epsilon, "side": shipped_side(detector)}
            rows += [shared | row for row in by_distance(by, shared["side"])]
        return rows, {"images": len({r["image"] for r in records})}

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The photographs."""
        used = sorted({r["image"] for r in records})
        photos = load_crowds()
        return Dataset(
            "crowds under CC BY", digest([photos[i].name for i in used]), len(used), sum(len(photos[i]) for i in used)
        )


def by_distance(by: Mapping[str, Images], side: float) -> Iterator[Record]:
    """The rows of one detector at one strength: of all faces, and of each of :data:`BINS`.

    Args:
        by: perturbation -> image -> its record.
        side: of the ERF in pixels.
    """
    for low, high in ((None, None), *BINS):
        near = partial(_near, (low, high), side)
        for row in coefficients(by, near):
            yield {"bin": name_of(low, high), "low": low, "high": high} | row


def _near(bounds: tuple[float | None, float | None], side: float, record: Mapping[str, Any], k: int) -> bool:
    return within(record["gaps"][k], bounds, side)
