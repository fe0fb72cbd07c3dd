"""What LIP's tolerance does to its success: the same attack, exact and with leaks of several sizes, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any

import torch

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Grid, calibration_images
from lipcore.detectors import Detector
from lipcore.images import quantise
from lipcore.metrics.intervals import difference, share
from lipcore.metrics.success import attack_success, found
from lipcore.receptive_field import CALIBRATION_IMAGES, Erf, measure_erf
from lipcore.results import Dataset, Stopwatch, digest
from lipcore.studies.base.study import Infos, Record, Run, Study, Unit


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        detectors: their names.
        optional: those of them that are left out, and said to be, where they cannot be loaded.
        grid: of faces; images are its draws 0, 1, ...
        images: how many.
        tolerances: of the attack; 0 is exact, and what the others are compared with.
        perturbation, update: the attack.
        epsilons: of the attack, in units of 0..255.
        tau, iou: when a face counts as found.
        calibration: images that e_i is measured on.
        matching, extent: A10 to A12, and A4.
    """

    detectors: tuple[str, ...]
    optional: tuple[str, ...] = ("hr-mini",)
    grid: Grid = field(default_factory=lambda: Grid(faces=64, distance=40))
    images: int = 6
    tolerances: tuple[float, ...] = (0.0, 0.05, 0.2)
    perturbation: str = "lip-a"
    update: str = "i-fgsm"
    epsilons: tuple[float, ...] = (1.0, 2.0)
    tau: float = 0.5
    iou: float = 0.5
    calibration: int = CALIBRATION_IMAGES
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)


def config_for(profile: str, detector: str) -> Config:
    """One small image in the quick profile; six of the poster's 64 faces in full, minutes on two cores."""
    names = tuple(dict.fromkeys((detector, "pnet")))
    profiles = {
        "quick": Config(
            detectors=names,
            grid=Grid(faces=9, distance=40, canvas=320),
            images=1,
            tolerances=(0.0, 0.05),
            epsilons=(2.0,),
            calibration=2,
        ),
        "full": Config(detectors=tuple(dict.fromkeys((*names, "hr-mini")))),
    }
    return profiles[profile]


class Tolerance(Study[Config]):
    """The same attack with several tolerances."""

    name = "lip_tolerance"
    title = "what LIP's tolerance, which makes a step cheaper, does to its success"
    key = ("config", "detector", "epsilon", "image", "tolerance")
    own_detector = "centerface"

    def config(self, run: Run) -> Config:
        """See :func:`config_for`."""
        return config_for(run.profile, self.under_study(run))

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """The one under study, the control, and another."""
        return config.detectors

    def optional(self, config: Config) -> Sequence[str]:
        """See :class:`Config`."""
        return config.optional

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Detector by detector, epsilon by epsilon, image by image."""
        alike = replace(config, detectors=(), optional=(), images=0, tolerances=(), epsilons=())
        for name, info in infos.items():
            for epsilon, image in product(config.epsilons, range(config.images)):
                shared = {"config": self.fingerprint(alike, info), "detector": info.name}
                wanted = tuple({"tolerance": t} for t in config.tolerances)
                part = f"{name}, epsilon {epsilon:g}"
                yield Unit(shared | {"epsilon": epsilon, "image": image}, wanted, name, part)

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """One attack for each tolerance."""
        detector, erf = run.load(unit.what), _erf(run, unit.what, config.calibration)
        for want in unit.wanted:
            yield _attacked(config, detector, unit.shared["epsilon"], unit.shared["image"], want["tolerance"], erf)

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """ASR at each tolerance, and its difference from exact."""
        return table_of(config, records, [info.name for info in infos.values()])

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The grids that were drawn."""
        faces = config.grid.faces * config.images
        return Dataset("LFW faces on grids", digest([config.grid, config.images]), config.images, faces)


@cache
def _erf(run: Run, name: str, images: int) -> Erf:
    """Measured on so many calibration images, once for all attacks."""
    detector = run.load(name)
    return measure_erf(detector, calibration_images(images, face_side=getattr(detector, "face_side", None)))


def _attacked(
    config: Config, detector: Detector, epsilon: float, image: int, tolerance: float, erf: Erf | None
) -> Record:
    """One attack on one image."""
    scene = config.grid.draw(image)
    pixels = scene.image.to(detector.device)
    with torch.no_grad():
        responses = detector(pixels)
    before = found(scene.boxes, detector.select(responses, config.tau)[0].boxes, config.iou)
    instances = find_instances(detector, responses, config.matching)
    if not instances:
        return {"hits": 0, "faces": 0, "leak": 0.0, "stride": 0.0, "seconds": 0.0}
    update = update_rule(config.update, epsilon)
    attack = Attack(config.perturbation, update, config.matching, config.extent, tolerance=tolerance)
    watch = Stopwatch()
    made = attack(detector, pixels, instances=instances, erf=erf)
    seconds = watch.seconds
    after = found(scene.boxes, detector.detect(quantise(made.image), config.tau)[0].boxes, config.iou)
    hits, total = attack_success(before, after)
    record = {"hits": hits, "faces": total, "leak": made.shortcut.leak, "stride": made.shortcut.stride}
    return record | {"seconds": round(seconds, 2)}


def _counts(records: Sequence[Record]) -> tuple[list[int], list[int]]:
    """Faces lost and faces found before, image by image."""
    return [r["hits"] for r in records], [r["faces"] for r in records]


def table_of(
    config: Config, records: Sequence[Record], detectors: Sequence[str]
) -> tuple[list[Record], dict[str, Any]]:
    """The rows, and the scalars for prose.

    Args:
        config: what was measured.
        records: of it.
        detectors: their names; scalars of the first have no prefix, those of the second ``control_``.
    """
    rows: list[Record] = []
    summary: dict[str, Any] = {"images": config.images, "faces": config.grid.faces}
    for prefix, detector in zip(("", "control_", "third_"), detectors, strict=False):
        own = [r for r in records if r["detector"] == detector]
        for epsilon, tolerance in product(config.epsilons, config.tolerances):
            exact, group = (
                [r for r in own if (r["epsilon"], r["tolerance"]) == (epsilon, t)] for t in (0.0, tolerance)
            )
            if not group:
                continue
            shared = {"detector": detector, "perturbation": config.perturbation, "epsilon": epsilon}
            shared |= {"tolerance": tolerance, "leak": max(r["leak"] for r in group)}
            estimates = {"asr": share(*_counts(group))}
            if tolerance > 0 and exact and sum(r["faces"] for r in group):
                estimates["difference"] = difference(_counts(group), _counts(exact))
            for metric, e in estimates.items():
                rows.append(shared | {"metric": metric, **e.columns})
                key = f"{prefix}{'change' if metric == 'difference' else metric}"
                summary[f"{key}_{round(100 * tolerance)}_epsilon_{epsilon:g}"] = round(100 * e.value, 1)
    return rows, summary
