"""What LIP's tolerance does to its success: the same attack, exact and with leaks of several sizes, image by image."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Grid, calibration_images
from lipcore.detectors import Detector, load_detector
from lipcore.errors import LipcoreError, UnknownName
from lipcore.images import quantise
from lipcore.metrics.intervals import difference, share
from lipcore.metrics.success import attack_success, found
from lipcore.receptive_field import CALIBRATION_IMAGES, Erf, measure_erf
from lipcore.results import Dataset, Stopwatch, digest, results_path, write_results
from lipcore.studies.base.records import Records

EXPERIMENT = "lip_tolerance"
KEY = ("config", "detector", "epsilon", "image", "tolerance")


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
    """One small image in the quick profile; six of the poster's 64 faces in full, minutes on two cores.

    Raises:
        UnknownName: no such profile.
    """
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
    if profile not in profiles:
        raise UnknownName("profile", profile, profiles)
    return profiles[profile]


def loaded(config: Config, device: str = "cpu") -> Iterator[tuple[str, Detector]]:
    """The detectors that there are, by the names they were asked for."""
    for name in config.detectors:
        try:
            yield name, load_detector(name, device=device)
        except LipcoreError as error:
            if name not in config.optional:
                raise
            tqdm.write(f"{EXPERIMENT}: {name} is left out: {error}")


def run(config: Config, records_path: Path, *, device: str = "cpu") -> Records:
    """Attacks what is not recorded yet, one image at a time."""
    records = Records(records_path, KEY)
    with records.writing():
        for _, detector in loaded(config, device):
            erf: Erf | None = None
            places = list(product(config.epsilons, range(config.images)))
            for epsilon, image in tqdm(places, desc=f"{EXPERIMENT}: {detector.name}", unit="image", disable=None):
                unit: dict[str, Any] = {"config": _fingerprint(config, detector), "detector": detector.name}
                unit |= {"epsilon": epsilon, "image": image}
                wanted = [t for t in config.tolerances if not records.has({**unit, "tolerance": t})]
                if wanted and erf is None:
                    side = getattr(detector, "face_side", None)
                    erf = measure_erf(detector, calibration_images(config.calibration, face_side=side))
                for tolerance in wanted:
                    made = _attacked(config, detector, epsilon, image, tolerance, erf)
                    records.add({**unit, "tolerance": tolerance, **made})
    return records


def _attacked(
    config: Config, detector: Detector, epsilon: float, image: int, tolerance: float, erf: Erf | None
) -> dict[str, Any]:
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


def _counts(records: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Faces lost and faces found before, image by image."""
    return [r["hits"] for r in records], [r["faces"] for r in records]


def _fingerprint(config: Config, detector: Detector) -> str:
    alike = replace(config, detectors=(), optional=(), images=0, tolerances=(), epsilons=())
    return digest([alike, detector.weights_sha256, detector.extra_repr()])


def summarise(config: Config, records: Records, profile: str, path: Path | None = None) -> Path:
    """Computes ASR at each tolerance, and its difference from exact, from the records; writes the results file."""
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    detectors = [detector for _, detector in loaded(config)]
    for prefix, detector in zip(("", "control_", "third_"), detectors, strict=False):
        fingerprint = _fingerprint(config, detector)
        own = [r for r in records if r["config"] == fingerprint and r["image"] < config.images]
        for epsilon, tolerance in product(config.epsilons, config.tolerances):
            exact, group = (
                [r for r in own if (r["epsilon"], r["tolerance"]) == (epsilon, t)] for t in (0.0, tolerance)
            )
            if not group:
                continue
            shared = {"detector": detector.name, "perturbation": config.perturbation, "epsilon": epsilon}
            shared |= {"tolerance": tolerance, "leak": max(r["leak"] for r in group)}
            estimates = {"asr": share(*_counts(group))}
            if tolerance > 0 and exact and sum(r["faces"] for r in group):
                estimates["difference"] = difference(_counts(group), _counts(exact), paired=True)
            for metric, e in estimates.items():
                rows.append(shared | {"metric": metric, "value": e.value, "ci_low": e.low, "ci_high": e.high, "n": e.n})
                key = f"{prefix}{'change' if metric == 'difference' else metric}"
                summary[f"{key}_{round(100 * tolerance)}_epsilon_{epsilon:g}"] = round(100 * e.value, 1)
    faces = config.grid.faces * config.images
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=rows,
        reported=[],
        summary={"images": config.images, "faces": config.grid.faces, **summary},
        detectors=[d.info for d in detectors],
        dataset=Dataset("LFW faces on grids", digest([config.grid, config.images]), config.images, faces),
        seed=0,
        seconds=sum(r["seconds"] for r in records),
    )


def measure(profile: str, detector: str, *, device: str = "cpu") -> Path:
    """Measures what is missing of a profile and writes its results; returns the results file."""
    config, path = config_for(profile, detector), results_path(EXPERIMENT, profile)
    return summarise(config, run(config, path.with_suffix(".records.jsonl"), device=device), profile, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what LIP's tolerance does to its success."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", default="quick", choices=("quick", "full"))
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    print(measure(given.profile, "centerface", device=given.device))


if __name__ == "__main__":
    main()
