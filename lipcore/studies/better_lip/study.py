"""LIP-W, LIP-V and LIP-A on an L2 budget beside LIP-A and IMP-I: on equal and unequal grids, and on crowds.

Equally visible means equal L2 length: the budget is the length of IMP-I's noise on the same image. To ask whether the
budget helps more than a larger epsilon does, LIP-A is measured at larger epsilons as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lipcore.attacks.attack import Attack
from lipcore.attacks.presets import Perturbation, preset
from lipcore.attacks.targets import Matching
from lipcore.attacks.updates import l2_steps, update_rule
from lipcore.datasets.synthetic import Grid, Scene, Unequal, people
from lipcore.detectors import Detector
from lipcore.errors import UnknownName
from lipcore.studies.base.faces import Case, SceneStudy, case_of, photograph
from lipcore.studies.base.study import Record, Run
from lipcore.studies.better_lip.directions import LIP_V, LIP_W

NAME = "better_lip"
KEY = ("config", "detector", "scene", "epsilon", "perturbation", "image")
#: A direction, unsigned, on the L2 budget of IMP-I's noise; IMP-I's own tells the budget's part from LIP's.
BUDGETS = {"lip-a-l2": "lip-a", "imp-i-l2": "imp-i"}
CANDIDATES: dict[str, Perturbation] = {"lip-w": LIP_W, "lip-v": LIP_V}
#: In the order in which an image gets them.
PERTURBATIONS = ("imp-i", "lip-a", "lip-w", "lip-v", *BUDGETS)
GRIDS: dict[str, Grid | Unequal] = {"equal": Grid(faces=9, distance=40), "unequal": Unequal()}
CROWDS = "crowds"
SCENES = (*GRIDS, CROWDS)


@dataclass(frozen=True)
class Part:
    """Scenes measured alike.

    Attributes:
        detector: its name.
        scene: of :data:`SCENES`.
        epsilons: in grey levels.
        images: how many: seeds 0, 1, ..., or the first photographs.
        perturbations: of :data:`PERTURBATIONS`.
    """

    detector: str
    scene: str
    epsilons: tuple[float, ...]
    images: int
    perturbations: tuple[str, ...] = PERTURBATIONS


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured, in its order.

    Attributes:
        parts: one after the other.
        update: the update rule's name, but for the budget.
        steps: of the L2 budget.
        matching: A10, A11 and A12.
    """

    parts: tuple[Part, ...]
    update: str = "i-fgsm"
    steps: int = 10
    matching: Matching = field(default_factory=Matching)


def full() -> Config:
    """At the epsilon at which IMP-I hides half: the grids of HR-mini first, then CenterFace's, then crowds."""
    parts = []
    for name, epsilon in (("hr-mini", 2.0), ("centerface", 1.0)):
        larger = tuple(epsilon + k for k in (1, 2, 3))
        parts += [Part(name, scene, (epsilon,), 30) for scene in ("unequal", "equal")]
        parts += [Part(name, scene, larger, 30, ("lip-a",)) for scene in ("unequal", "equal")]
    parts += [Part(name, CROWDS, (2.0,), 24) for name in ("centerface", "hr-mini")]
    return Config(parts=tuple(parts))


def quick(detector: str = "hr-mini") -> Config:
    """For a laptop: one image."""
    return Config(parts=(Part(detector, "unequal", (2.0,), 1, ("lip-a", "lip-w")),))


def scene_of(unit: Record) -> Scene:
    """The scene of a unit.

    Raises:
        UnknownName: there is none of that name.
    """
    if unit["scene"] == CROWDS:
        return photograph(unit["image"])
    if unit["scene"] not in GRIDS:
        raise UnknownName("scene", unit["scene"], SCENES)
    return GRIDS[unit["scene"]].draw(unit["image"])


class BetterLip(SceneStudy[Config]):
    """The study."""

    name = NAME
    title = "LIP-W, LIP-V and an L2 budget beside LIP-A and IMP-I"
    key = KEY
    of = ("scene",)

    def config(self, run: Run) -> Config:
        """Of the profile."""
        return full() if run.profile == "full" else quick(self.under_study(run))

    def scenes(self, config: Config) -> Iterator[tuple[str, Record, Sequence[str]]]:
        """Part by part, strength by strength."""
        for part in config.parts:
            for epsilon in part.epsilons:
                for image in range(part.images):
                    yield (
                        part.detector,
                        {"scene": part.scene, "epsilon": epsilon, "image": image},
                        part.perturbations,
                    )

    def case(self, config: Config, detector: Detector, scene: Record) -> Case:
        """One grid, or one photograph."""
        return case_of(detector, scene_of(scene), config.matching)

    def attacked(self, config: Config, case: Case, entries: Record) -> Record:
        """The scene under one perturbation."""
        name, update = entries["perturbation"], update_rule(config.update, entries["epsilon"])
        if name in BUDGETS:
            noise = case.attacked(Attack("imp-i", update, config.matching)) - case.scene.image
            attack = Attack(BUDGETS[name], l2_steps(float(noise.norm()), config.steps), config.matching)
        else:
            attack = Attack(CANDIDATES.get(name) or preset(name), update, config.matching)
        grid = entries["scene"] in GRIDS
        who = people(9, entries["image"]) if grid else list(range(len(case.scene.boxes)))
        return case.record(case.attacked(attack)) | {"people": who}
