"""Every preset on photographs: the crowds that may be shown, or a reader's own folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.presets import PRESETS
from lipcore.attacks.targets import Matching
from lipcore.attacks.updates import update_rule
from lipcore.boxes import iou_matrix
from lipcore.datasets.crowds import load_crowds
from lipcore.datasets.photographs import photos
from lipcore.datasets.synthetic import Scene
from lipcore.detectors import Detections, Detector
from lipcore.errors import LipcoreError, NoFaceFound
from lipcore.images import quantise
from lipcore.metrics.intervals import Estimate, ratio_of_means, share
from lipcore.metrics.success import Visibility, attack_success, found, visibility
from lipcore.results import Dataset, Stopwatch, digest, write_results
from lipcore.studies.base.study import Run, Runnable

EXPERIMENT = "noise"
#: The crowds of the quick profile: small photographs, the first with its faces in one corner, so that LIP is local.
SHOWN = ("000000236426", "000000383842", "000000541055")
#: Images of each profile; the quick one's take 40 s with CenterFace.
PROFILES = {"quick": 3, "full": 24}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is attacked, and how.

    Attributes:
        images: a folder of photographs, or "" for the crowds that come with the project.
        count: how many images at most.
        epsilon: in grey levels.
        update, tau, iou, matching, extent: as in the synthetic study.
    """

    images: str = ""
    count: int = 3
    epsilon: float = 4.0
    update: str = "i-fgsm"
    tau: float = 0.5
    iou: float = 0.5
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)


@dataclass(frozen=True)
class Shown:
    """One image under one perturbation, for the pictures.

    Attributes:
        scene: the clean image and its faces.
        perturbation: the preset's name, "" for the clean image.
        image: (1, 3, H, W), as it would be saved.
        detections: on ``image``.
        correct: (K,) bool, which detections are true positives.
        visibility: how far it is from the clean image.
    """

    scene: Scene
    perturbation: str
    image: Tensor
    detections: Detections
    correct: Tensor
    visibility: Visibility


def crowds(count: int) -> Iterator[Scene]:
    """Photographs of crowds that may be shown, with the faces that count; those of :data:`SHOWN` first."""
    known = {photo.name: photo for photo in load_crowds()}
    for name in [*SHOWN, *(name for name in known if name not in SHOWN)][:count]:
        yield Scene(name, known[name].pixels, torch.from_numpy(known[name].boxes[known[name].counted]).float())


def measure(path: Path, profile: str, detector: Detector, config: Config) -> list[Shown]:
    """Attacks each image with each preset and writes the results to ``path``.

    On a reader's photographs, which have no ground truth, the clean detections stand for the faces.

    Returns:
        The images for the pictures.

    Raises:
        DataError: no such folder, or no photograph in it.
        NoFaceFound: the detector finds no face on any of the images.
    """
    shown: list[Shown] = []
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    seconds = Stopwatch()
    scenes = list(_scenes(config))
    update = update_rule(config.update, config.epsilon)
    for scene in tqdm(scenes, desc=EXPERIMENT, unit="image", disable=None):
        image = scene.image.to(detector.device)
        clean = detector.detect(image, config.tau)[0]
        truth = scene.boxes if len(scene.boxes) or not config.images else clean.boxes
        before = found(truth, clean.boxes, config.iou)
        shown.append(_shown(Scene(scene.name, scene.image, truth), "", image, clean, config))
        if len(clean) == 0:
            continue
        for name in PRESETS:
            attacked = quantise(Attack(name, update, config.matching, config.extent)(detector, image).image)
            after = detector.detect(attacked, config.tau)[0]
            counts[name].append(attack_success(before, found(truth, after.boxes, config.iou)))
            shown.append(_shown(Scene(scene.name, scene.image, truth), name, attacked, after, config))
    if not counts:
        raise NoFaceFound(
            f"{detector.name} finds no face on any of the {len(scenes)} images; give photographs with faces"
        )
    write_results(
        path,
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=list(_rows(detector.name, config, counts, shown)),
        reported=[],
        summary=_summary(counts, shown),
        detectors=[detector.info],
        dataset=Dataset(
            "photographs of the reader" if config.images else "crowds under CC BY",
            digest([[s.name, s.image.sum().item()] for s in scenes]),
            len(scenes),
            sum(total for _, total in counts["imp"]),
        ),
        seed=0,
        seconds=seconds.seconds,
    )
    return shown


def _scenes(config: Config) -> Iterator[Scene]:
    if not config.images:
        yield from crowds(config.count)
        return
    for index, (name, image) in enumerate(photos(config.images)):
        if index == config.count:
            return
        yield Scene(name, image, torch.empty(0, 4))


def _shown(scene: Scene, name: str, image: Tensor, detections: Detections, config: Config) -> Shown:
    if len(detections) and len(scene.boxes):
        correct = (iou_matrix(detections.boxes, scene.boxes.to(detections.boxes)) >= config.iou).any(1)
    else:
        correct = torch.zeros(len(detections), dtype=torch.bool)
    return Shown(scene, name, image, detections, correct, visibility(scene.image, image))


def _rows(
    detector: str, config: Config, counts: dict[str, list[tuple[int, int]]], shown: list[Shown]
) -> Iterator[dict[str, Any]]:
    for name, pairs in counts.items():
        shared = {"detector": detector, "perturbation": name, "epsilon": config.epsilon, "update": config.update}
        hits, totals = zip(*pairs, strict=True)
        images = [s for s in shown if s.perturbation == name]
        estimates = {"asr": share(hits, totals)}
        estimates["false_positives"] = _mean([float((~s.correct).sum()) for s in images])
        for metric in ("l_inf", "l2", "psnr", "ssim", "touched"):
            estimates[metric] = _mean([getattr(s.visibility, metric) for s in images])
        for metric, e in estimates.items():
            yield shared | {"metric": metric, **e.columns}


def _mean(values: list[float]) -> Estimate:
    return ratio_of_means([[v] for v in values], [[1.0] for _ in values])


def _summary(counts: dict[str, list[tuple[int, int]]], shown: list[Shown]) -> dict[str, Any]:
    summary: dict[str, Any] = {"images": len({s.scene.name for s in shown})}
    for name, pairs in counts.items():
        key = name.replace("-", "_")
        images = [s.visibility for s in shown if s.perturbation == name]
        faces = sum(total for _, total in pairs)
        summary["faces"] = faces
        summary[f"{key}_asr"] = round(100 * sum(hit for hit, _ in pairs) / faces, 1) if faces else None
        summary[f"{key}_psnr"] = round(sum(v.psnr for v in images) / len(images), 1)
        summary[f"{key}_ssim"] = round(sum(v.ssim for v in images) / len(images), 3)
        summary[f"{key}_touched"] = round(100 * sum(v.touched for v in images) / len(images))
    return summary


class Noise(Runnable):
    """A minute of attacks, shown as they are made, and so without records."""

    name = EXPERIMENT
    title = "success and visibility of every perturbation on photographs (C7)"
    own_detector = "centerface"
    options = ("detector", "weights", "device", "data")

    def run(self, run: Run) -> Path:
        """Attacks the photographs of ``run.data``, or the crowds that come along; returns the results file."""
        return self.shown(run)[0]

    def shown(self, run: Run) -> tuple[Path, list[Shown]]:
        """:meth:`run`, and the images for the pictures."""
        run = self.ready(run)
        path, images = self.path(run), "" if run.data is None else str(run.data)
        config = Config(images=images, count=PROFILES[run.profile])
        return path, measure(path, run.profile, run.load(run.detector), config)

    def variant(self, run: Run) -> str:
        """A reader's photographs are not the project's."""
        own = super().variant(run)
        if run.data is None:
            return own
        return f"{own or run.detector}-{run.data.name}-{digest(str(run.data.resolve()))}"

    def table(self, run: Run) -> Path:
        """It cannot be made.

        Raises:
            LipcoreError: always.
        """
        raise LipcoreError(f"{self.name} keeps no records to make a table from; lipcore run {self.name} measures anew")
