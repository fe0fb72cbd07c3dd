"""Attacks on the images of a benchmark: every preset, update rule and epsilon, image by image, as records.

A record holds all detections on the attacked image as it would be saved, so that average precision, success rates and
curves are computed later, by code that anyone can run again. A run can be stopped at any moment and goes on where it
was; images come in an order that is fixed for each of them, so that what is done is a fair sample at any moment, and
all perturbations of one image are done before the next image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.presets import preset
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.detectors import Detector, Responses, load_detector
from lipcore.images import quantise
from lipcore.known_fields import erf_of
from lipcore.metrics.success import visibility
from lipcore.receptive_field import Erf
from lipcore.results import Stopwatch, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack, rounded
from lipcore.studies.base.workers import in_processes
from lipcore.studies.benchmarks.images import Item, fit, truth

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

    def fingerprint(self, detector: Detector) -> str:
        """Changes with all that a record of ``detector`` depends on besides its own unit."""
        return digest([self, detector.weights_sha256, detector.extra_repr()])


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

    def images(self, names: Sequence[str]) -> list[str]:
        """Those of ``names``, in :func:`ordered` order, that this part covers."""
        return list(names[: -(-round(self.share * 1000) * len(names) // 1000)])


@dataclass(frozen=True)
class Task:
    """Attacks on one image that are still to be done, each as (perturbation, update, epsilon)."""

    name: str
    item: Item
    attacks: tuple[tuple[str, str, float], ...]


def ordered(names: Sequence[str]) -> list[str]:
    """``names`` shuffled by a hash of each: an image keeps its place among the others whatever part of them is here."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def unit(name: str, attack: tuple[str, str, float]) -> dict[str, Any]:
    """The entries of a record that say which image and which attack it is of."""
    perturbation, update, epsilon = attack if attack[0] != NONE else (NONE, NONE, 0.0)
    return {"image": name, "perturbation": perturbation, "update": update, "epsilon": epsilon}


def tasks(items: dict[str, Item], parts: Sequence[Part], done: Records, shared: dict[str, Any]) -> list[Task]:
    """What is to be done, part by part and image by image, less what is recorded.

    Args:
        items: the images by name.
        parts: in the order wanted.
        done: the records there are.
        shared: the entries of a unit that are the same for all: configuration and detector.
    """
    names = ordered(list(items))
    planned: set[tuple[Any, ...]] = set()
    found = []
    for part in parts:
        for name in part.images(names):
            missing = []
            for perturbation in part.perturbations:
                attack = (perturbation, part.update, part.epsilon)
                entries = shared | unit(name, attack)
                key = done.unit(entries)
                if not done.has(entries) and key not in planned:
                    planned.add(key)
                    missing.append(attack)
            if missing:
                found.append(Task(name, items[name], tuple(missing)))
    return found


def attack_image(settings: Settings, detector: Detector, erf: Erf, task: Task) -> Iterator[dict[str, Any]]:
    """One record for each attack of a task. The image's own detections are the faces attacked, not its ground truth."""
    yield from attacked_records(
        settings,
        detector,
        erf,
        task,
        find=lambda clean: find_instances(detector, clean, settings.matching),
        keep=lambda responses: detections(settings, detector, responses, task.item),
        known=lambda image: {"size": list(image.shape[2:]), "truth": truth(task.item)},
    )


def attacked_records(
    settings: Settings,
    detector: Detector,
    erf: Erf,
    task: Task,
    *,
    find: Callable[[Responses], list[Instance]],
    keep: Callable[[Responses], dict[str, Any]],
    known: Callable[[Tensor], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """One record for each attack of a task, of any benchmark.

    A perturbation of the instances leaves an image without any as it is.

    Args:
        settings: see there.
        detector: under attack, and measured.
        erf: its receptive field, measured once.
        task: which image, and which attacks.
        find: the instances, from the responses to the clean image.
        keep: what a record holds of the responses to an attacked image.
        known: what the record of the clean image holds besides.
    """
    image = torch.from_numpy(task.item.read()).permute(2, 0, 1)[None].float().to(detector.device)
    with torch.no_grad():
        clean = detector(image)
    instances = find(clean)
    for attack in task.attacks:
        watch = Stopwatch()
        attacked = perturbed(settings, detector, erf, image, instances, attack)
        if attacked is image:
            responses = clean
        else:
            with torch.no_grad():
                responses = detector(attacked)
        yield {
            **unit(task.name, attack),
            "instances": len(instances),
            **keep(responses),
            **distances(image, attacked),
            **(known(image) if attack[0] == NONE else {}),
            "seconds": round(watch.seconds, 2),
        }


def perturbed(
    settings: Settings,
    detector: Detector,
    erf: Erf,
    image: Tensor,
    instances: Sequence[Instance],
    attack: tuple[str, str, float],
) -> Tensor:
    """The attacked image as it would be saved, or ``image`` itself where there is nothing to attack."""
    name, update, epsilon = attack
    if name == NONE or (preset(name).needs_instances and not instances):
        return image
    made = Attack(name, update_rule(update, epsilon), settings.matching, settings.extent)
    return quantise(made(detector, image, instances=instances, erf=erf).image)


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


def device_name(detector: Detector) -> str:
    """Where it runs, as records name it: ``"cpu"``, or the card's name."""
    device = detector.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does the work.

    Attributes:
        detector: its name, as :func:`lipcore.detectors.load_detector` takes it.
        weights: its weights' path, or None.
        device: where the detector runs.
        jobs: processes; 1 does everything in this one.
        threads: of torch, in each process; 0 leaves torch's own choice.
    """

    detector: str
    weights: Path | None = None
    device: str = "cpu"
    jobs: int = 1
    threads: int = 0

    def load(self) -> Detector:
        """The detector, with the threads set."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return load_detector(self.detector, self.weights, self.device)


#: Makes the records of a task: :func:`attack_image`, or another benchmark's function at the top of a module.
AttackImage = Callable[[Any, Detector, Erf, Task], Iterator[dict[str, Any]]]


def run(
    settings: Settings,
    items: dict[str, Any],
    parts: Sequence[Part],
    path: Path,
    workers: Workers,
    attack: AttackImage = attack_image,
) -> Records:
    """Does whatever is not recorded yet and appends it to the records; only this process writes.

    Args:
        settings: see there.
        items: the images by name.
        parts: in the order wanted.
        path: of the records.
        workers: see there.
        attack: makes the records of one image.

    Raises:
        LipcoreError: no such detector, preset or update rule, or an image that cannot be read.
    """
    records = Records(path, KEY)
    detector = workers.load()
    shared = {"config": settings.fingerprint(detector), "detector": detector.name}
    todo = tasks(items, parts, records, shared)
    attacks = sum(len(t.attacks) for t in todo)
    with records.writing(), tqdm(total=attacks, desc=detector.name, unit="attack", disable=None) as bar:
        for record in _records_of(settings, detector, todo, workers, attack):
            records.add(shared | record | {"device": device_name(detector)})
            bar.update()
    return records


def _records_of(
    settings: Settings, detector: Detector, todo: Sequence[Task], workers: Workers, attack: AttackImage
) -> Iterator[dict[str, Any]]:
    """The records of all tasks: from this process one by one, from others image by image as they come."""
    if not todo:
        return
    erf = erf_of(detector)
    if workers.jobs == 1:
        for task in todo:
            yield from attack(settings, detector, erf, task)
        return
    given = (attack, settings, replace(workers, threads=0), erf)
    for done in in_processes(_work, todo, workers.jobs, start=_start, arguments=given, threads=workers.threads):
        yield from done


_WORKER: list[tuple[AttackImage, Settings, Detector, Erf]] = []


def _start(attack: AttackImage, settings: Settings, workers: Workers, erf: Erf) -> None:
    _WORKER[:] = [(attack, settings, workers.load(), erf)]


def _work(task: Task) -> list[dict[str, Any]]:
    attack, settings, detector, erf = _WORKER[0]
    return list(attack(settings, detector, erf, task))


def minutes(
    settings: Settings,
    items: dict[str, Any],
    parts: Sequence[Part],
    path: Path,
    workers: Workers,
    attack: AttackImage = attack_image,
) -> Iterator[tuple[Part, int, float]]:
    """What each part will take, from the records' own seconds or, where there are none, from one attack each.

    Yields:
        The part, the attacks it still needs, and minutes on one process.
    """
    records = Records(path, KEY)
    detector = workers.load()
    shared = {"config": settings.fingerprint(detector), "detector": detector.name}
    todo = {part: tasks(items, [part], records, shared) for part in parts}
    names = ordered(list(items))
    sizes = {name: items[name].path.stat().st_size for name in names}
    middle = sorted(names, key=lambda name: sizes[name])[len(names) // 2]
    cost: dict[str, float] = {}

    def seconds(strength: tuple[str, str, float]) -> float:
        """Of one attack: a step's seconds times its steps."""
        name, update, epsilon = strength
        if name not in cost:
            known = [
                r["seconds"] / max(1, update_rule(r["update"], r["epsilon"]).steps if name != NONE else 1)
                for r in records
                if r["perturbation"] == name and {k: r[k] for k in shared} == shared
            ]
            if not known:
                task = Task(middle, items[middle], ((name, "i-fgsm", 2.0),))
                known = [r["seconds"] / 3 for r in attack(settings, detector, erf_of(detector), task)]
            cost[name] = sum(known) / len(known)
        return cost[name] * (update_rule(update, epsilon).steps if name != NONE else 1)

    for part, missing in todo.items():
        strengths = [strength for task in missing for strength in task.attacks]
        yield part, len(strengths), sum(map(seconds, strengths)) / 60
