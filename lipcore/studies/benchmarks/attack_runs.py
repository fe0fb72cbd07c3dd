"""Attacks on the images of a benchmark: every preset, update rule and epsilon, image by image, as records.

A record holds all detections on the attacked image as it would be saved, so that average precision, success rates and
curves are computed later, by code that anyone can run again. A run can be stopped at any moment and goes on where it
was; images come in an order that is fixed for each of them, so that what is done is a fair sample at any moment, and
all perturbations of one image are done before the next image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.presets import preset
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.detectors import Detector, Responses
from lipcore.images import quantise
from lipcore.metrics.success import visibility
from lipcore.results import Dataset, DetectorInfo, Stopwatch, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack, rounded
from lipcore.studies.base.study import OPTIONS, Infos, Record, Run, Study, Unit
from lipcore.studies.benchmarks.images import Item, fit, load_items, pixels, truth

KEY = ("config", "detector", "image", "perturbation", "update", "epsilon")
#: The clean image among the perturbations.
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a record depends on besides its own unit.

    Attributes:
        matching: A10, A11 and A12.
        extent: A4.
        least: detections of at least this probability are kept.
        most: so many detections of an image are kept, the best.
    """

    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)
    least: float = 0.02
    most: int = 750

    def fingerprint(self, info: DetectorInfo) -> str:
        """Changes with all that a record of a detector depends on besides its own unit."""
        return digest([self, info.sha256, info.options])


@dataclass(frozen=True)
class Part:
    """Perturbations of one strength.

    Attributes:
        update: the update rule's name.
        epsilon: in grey levels.
        perturbations: presets' names, or ``"none"`` for the clean image.
        share: of the images, the first of the order, in (0, 1].
    """

    update: str
    epsilon: float
    perturbations: tuple[str, ...]
    share: float = 1.0

    @property
    def name(self) -> str:
        """As an estimate prints it."""
        return f"{self.update}, epsilon {self.epsilon:g}"

    def images(self, names: Sequence[str]) -> list[str]:
        """Those of ``names``, in :func:`ordered` order, that this part covers."""
        return list(names[: -(-round(self.share * 1000) * len(names) // 1000)])


@dataclass(frozen=True, kw_only=True)
class Config:
    """What an attack study measures.

    Attributes:
        detectors: their names, the one under study first.
        parts: with their settings, in the order wanted.
        title: of the images.
    """

    detectors: tuple[str, ...]
    parts: tuple[tuple[Settings, Part], ...]
    title: str


def ordered(names: Sequence[str]) -> list[str]:
    """``names`` shuffled by a hash of each: an image keeps its place among the others whatever part of them is here."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def attack_image(
    settings: Settings, detector: Detector, item: Item, attacks: Iterable[tuple[str, str, float]]
) -> Iterator[Record]:
    """What a record holds of each attack. The image's own detections are the faces attacked, not its ground truth."""
    yield from attacked_records(
        settings,
        detector,
        item,
        attacks,
        find=lambda clean: find_instances(detector, clean, settings.matching),
        keep=lambda responses: detections(settings, detector, responses, item),
        known=lambda image: {"size": list(image.shape[2:]), "truth": truth(item)},
    )


def attacked_records(
    settings: Settings,
    detector: Detector,
    item: Item,
    attacks: Iterable[tuple[str, str, float]],
    *,
    find: Callable[[Responses], list[Instance]],
    keep: Callable[[Responses], Record],
    known: Callable[[Tensor], Record],
) -> Iterator[Record]:
    """What a record holds of each attack on one image, of any benchmark.

    A perturbation of the instances leaves an image without any as it is.

    Args:
        settings: see there.
        detector: under attack, and measured.
        item: the image.
        attacks: as (perturbation, update, epsilon).
        find: the instances, from the responses to the clean image.
        keep: what a record holds of the responses to an attacked image.
        known: what the record of the clean image holds besides.
    """
    image = pixels(item).to(detector.device)
    with torch.no_grad():
        clean = detector(image)
    instances = find(clean)
    for attack in attacks:
        watch = Stopwatch()
        attacked = perturbed(settings, detector, image, instances, attack)
        if attacked is image:
            responses = clean
        else:
            with torch.no_grad():
                responses = detector(attacked)
        yield {
            "instances": len(instances),
            **keep(responses),
            **distances(image, attacked),
            **(known(image) if attack[0] == NONE else {}),
            "seconds": round(watch.seconds, 2),
            "device": detector.info.device,
        }


def perturbed(
    settings: Settings,
    detector: Detector,
    image: Tensor,
    instances: Sequence[Instance],
    attack: tuple[str, str, float],
) -> Tensor:
    """The attacked image as it would be saved, or ``image`` itself where there is nothing to attack."""
    name, update, epsilon = attack
    if name == NONE or (preset(name).needs_instances and not instances):
        return image
    made = Attack(name, update_rule(update, epsilon), settings.matching, settings.extent)
    return quantise(made(detector, image, instances=instances).image)


def detections(settings: Settings, detector: Detector, responses: Responses, item: Item) -> dict[str, Any]:
    """The detections of one image, packed, each with the face it fits; and for each face the best logit that fits it.

    Where the benchmark's tool rounds and so takes another face than ``best``, ``official`` has (detection, face). Where
    it matches detections one to one (FDDB), also every pair that overlaps.
    """
    found = detector.select(responses, settings.least)[0]
    logits = responses.logits[0][found.responses]
    table = rounded(torch.cat((found.boxes, logits[:, None]), dim=1)[: settings.most].detach().cpu().numpy())
    fitted = fit(item, table)
    record = {"detections": pack(np.column_stack((table, fitted.best))), "faces": fitted.faces}
    other = np.flatnonzero(fitted.official != fitted.best)
    if len(other):
        record["official"] = np.column_stack((other, fitted.official[other])).tolist()
    return record | ({"overlaps": fitted.overlaps} if item.one_to_one else {})


def distances(image: Tensor, attacked: Tensor) -> dict[str, float | None]:
    """How far an attacked image is from the clean one; PSNR is None where nothing changed."""
    if attacked is image:
        return {"mean_change": 0.0, "psnr": None, "ssim": 1.0, "touched": 0.0}
    seen = visibility(image, attacked)
    return {
        "mean_change": round(float((attacked - image).abs().mean()), 4),
        "psnr": round(seen.psnr, 3) if np.isfinite(seen.psnr) else None,
        "ssim": round(seen.ssim, 5),
        "touched": round(seen.touched, 4),
    }


class Attacks(Study[Config]):
    """Every preset on the images of a benchmark; a subclass says which.

    Attributes:
        datasets: profile -> dataset, one of :data:`lipcore.studies.benchmarks.images.DATASETS`.
    """

    options = OPTIONS
    key = KEY
    unit = "attack"
    datasets: ClassVar[Mapping[str, str]]

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """See :class:`Config`."""
        return config.detectors

    def optional(self, config: Config) -> Sequence[str]:
        """All: what is recorded of each is enough for the table."""
        return config.detectors

    def items(self, run: Run) -> Mapping[str, Any]:
        """The images by name.

        Raises:
            DataError: they are not at hand; the message says how to get them.
        """
        return load_items(self.datasets[run.profile], run.data, name=self.name)

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Detector by detector, part by part, image by image, all perturbations of an image before the next image."""
        items = self.items(run)
        names = ordered(list(items))
        for settings, part in config.parts:
            for name, info in infos.items():
                shared = {"config": settings.fingerprint(info), "detector": info.name}
                for image in part.images(names):
                    wanted = tuple(attacked(p, part.update, part.epsilon) for p in part.perturbations)
                    what = (name, settings, items[image])
                    yield Unit(shared | {"image": image}, wanted, what, f"{name}, {part.name}")

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """See :func:`attack_image`."""
        name, settings, item = unit.what
        attacks = ((w["perturbation"], w["update"], w["epsilon"]) for w in unit.wanted)
        yield from self.attack(settings, run.load(name), item, attacks)

    def attack(
        self, settings: Any, detector: Detector, item: Any, attacks: Iterable[tuple[str, str, float]]
    ) -> Iterator[Record]:
        """What a record holds of each attack on one image."""
        yield from attack_image(settings, detector, item, attacks)

    def used(self, config: Config, infos: Infos, records: Records, run: Run) -> list[Record]:
        """All of the configuration, whatever images are at hand."""
        current = {(info.name, settings.fingerprint(info)) for info in infos.values() for settings, _ in config.parts}
        return [r for r in records if (r["detector"], r["config"]) in current]

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """Those of which the clean image is recorded."""
        clean = {r["image"]: r["truth"] for r in records if r["perturbation"] == NONE}
        faces = sum(len(t["heights"]) for t in clean.values())
        return Dataset(config.title, digest(sorted(clean.items())), len(clean), faces)

    def alike(self, config: Config, record: Record) -> Sequence[tuple[Hashable, float]]:
        """Those of the same detector and perturbation; a step costs alike."""
        name = record["perturbation"]
        steps = 1 if name == NONE else update_rule(record["update"], record["epsilon"]).steps
        return [((record["config"], record["detector"], name), steps)]


def attacked(perturbation: str, update: str, epsilon: float) -> Record:
    """The entries of a record that say which attack it is of; the clean image is one for all strengths."""
    if perturbation == NONE:
        update, epsilon = NONE, 0.0
    return {"perturbation": perturbation, "update": update, "epsilon": epsilon}
