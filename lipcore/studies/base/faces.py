"""Attacks on scenes, recorded face by face: which face was found, which is lost, and how far its logit fell.

A study of scenes says which scenes and which perturbations (:class:`SceneStudy`); all of them record alike.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lipcore.attacks.attack import Attack
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.boxes import iou_matrix
from lipcore.datasets.crowds import load_crowds
from lipcore.datasets.synthetic import Scene
from lipcore.detectors import Detector, Responses
from lipcore.images import quantise
from lipcore.metrics.intervals import Estimate, ratio_of_means, share
from lipcore.metrics.paired import Outcomes
from lipcore.metrics.success import found, visibility
from lipcore.results import Dataset, Stopwatch, digest
from lipcore.studies.base.study import Config, Infos, Record, Run, Study, Unit

#: When a face counts as found (A6).
TAU, IOU = 0.5, 0.5


@dataclass(frozen=True)
class Case:
    """A scene as a detector sees it.

    Attributes:
        detector: under attack.
        scene: with its faces.
        clean: the responses to it.
        instances: those attacked, found without ground truth.
        owners: for each face of the scene the number of its instance; None where the detector finds none.
    """

    detector: Detector
    scene: Scene
    clean: Responses
    instances: list[Instance]
    owners: list[int | None]

    @cached_property
    def before(self) -> Tensor:
        """(N,) which faces are found on the clean image."""
        return self._found(self.clean)

    def _found(self, responses: Responses) -> Tensor:
        return found(self.scene.boxes, self.detector.select(responses, TAU)[0].boxes, IOU)

    def attacked(self, attack: Attack, only: Sequence[int] | None = None) -> Tensor:
        """The attacked image as it would be saved.

        Args:
            attack: with its update rule.
            only: numbers of the instances to attack; by default all. The image stays as it is where there is none.
        """
        chosen = self.instances if only is None else [self.instances[i] for i in only]
        if not chosen:
            return self.scene.image
        return quantise(attack(self.detector, self.scene.image, instances=chosen).image)

    def faces(self, image: Tensor) -> dict[str, Any]:
        """What an attacked image did to each face.

        ``before`` and ``after``: for each face "1" where it is found; ``drops``: how far the highest logit of its
        targets fell, null without an instance.
        """
        with torch.no_grad():
            responses = self.detector(image)
        old, new = self.clean.logits[0], responses.logits[0]
        fallen = [float(old[i.targets].max() - new[i.targets].max()) for i in self.instances]
        return {
            "before": _bits(self.before),
            "after": _bits(self._found(responses)),
            "drops": [None if k is None else round(fallen[k], 4) for k in self.owners],
        }

    def record(self, image: Tensor) -> dict[str, Any]:
        """:meth:`faces`, and how visible it is: ``psnr`` (null where nothing changed), ``ssim``, ``touched``."""
        changed = bool((image != self.scene.image).any())
        seen = visibility(self.scene.image, image) if changed else None
        return self.faces(image) | {
            "psnr": None if seen is None else round(seen.psnr, 3),
            "ssim": 1.0 if seen is None else round(seen.ssim, 5),
            "touched": 0.0 if seen is None else round(seen.touched, 4),
        }


def case_of(detector: Detector, scene: Scene, matching: Matching) -> Case:
    """The scene's instances, and which face each of them is: the one that it overlaps most, by at least half."""
    with torch.no_grad():
        clean = detector(scene.image)
    instances = find_instances(detector, clean, matching)
    owners: list[int | None] = [None] * len(scene.boxes)
    if instances and len(scene.boxes):
        overlap = iou_matrix(scene.boxes, torch.stack([i.box for i in instances]).to(scene.boxes))
        for face, row in enumerate(overlap):
            best = int(row.argmax())
            if float(row[best]) >= IOU:
                owners[face] = best
    return Case(detector, scene, clean, instances, owners)


def photograph(number: int) -> Scene:
    """A crowd that may be shown, as a scene of the faces that count; ``number`` in the order of their names."""
    photo = load_crowds()[number]
    return Scene(photo.name, photo.pixels, torch.from_numpy(photo.boxes[photo.counted]).float())


def outcomes(
    records: Mapping[int, Mapping[str, Any]],
    who: Mapping[int, Sequence[int]],
    chosen: Mapping[int, Sequence[int]] | None = None,
    *,
    logits: bool = False,
    people: int,
) -> Outcomes:
    """Faces lost of those found, or logits dropped, by image and person.

    Args:
        records: image -> its record.
        who: image -> the person of each face.
        chosen: image -> the faces that count; by default all.
        logits: drops of the faces that have an instance, in place of success.
        people: how many different ones there are.
    """
    images, persons, top, bottom = [], [], [], []
    for image, record in sorted(records.items()):
        for face in range(len(record["before"])) if chosen is None else chosen.get(image, ()):
            drop = record["drops"][face]
            counts = drop is not None if logits else record["before"][face] == "1"
            images.append(image)
            persons.append(who[image][face])
            bottom.append(float(counts))
            top.append(float(drop if logits else record["after"][face] == "0") if counts else 0.0)
    return Outcomes.of(images, top, bottom, persons, n_identities=people)


class SceneStudy(Study[Config]):
    """A study whose records are scenes under perturbations; a unit is one scene at one strength.

    Attributes:
        of: the entries of a record that say which scene it is, besides ``image``.
    """

    unit: ClassVar[str] = "attack"
    of: ClassVar[tuple[str, ...]]

    @abstractmethod
    def scenes(self, config: Config) -> Iterable[tuple[str, Record, Sequence[str]]]:
        """In the order wanted: a detector's name, what says which scene and strength, and the perturbations."""

    def settings(self, config: Any) -> Any:
        """What a record depends on besides its own unit and its detector: all of the config but its parts."""
        return replace(config, parts=())

    @abstractmethod
    def case(self, config: Config, detector: Detector, scene: Record) -> Case:
        """What all perturbations of one scene share."""

    @abstractmethod
    def attacked(self, config: Config, case: Case, entries: Record) -> Record:
        """What the record of a scene under one perturbation says besides ``seconds``."""

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """Those of the scenes, in their order."""
        return list(dict.fromkeys(name for name, _, _ in self.scenes(config)))

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """One for each scene and strength of the detectors at hand."""
        for name, scene, perturbations in self.scenes(config):
            if name not in infos:
                continue
            shared = {"config": self.fingerprint(self.settings(config), infos[name]), "detector": infos[name].name}
            part = f"{name}, {', '.join(f'{k} {v:g}' for k, v in scene.items() if k in self.of and k != 'scene')}"
            yield Unit(shared | scene, tuple({"perturbation": p} for p in perturbations), name, part)

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """One record for each perturbation."""
        case = self.case(config, run.load(unit.what), unit.shared)
        for want in unit.wanted:
            watch = Stopwatch()
            record = self.attacked(config, case, unit.shared | want)
            yield record | {"seconds": round(watch.seconds, 3)}

    def alike(self, config: Config, record: Record) -> Sequence[tuple[Hashable, float]]:
        """Records of one detector and perturbation, by the number of steps."""
        return [((record["detector"], record["perturbation"]), 1 + record["epsilon"])]

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """Success, drop in logits and PSNR of each scene, strength and perturbation."""
        groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
        names = ("detector", *self.of, "epsilon", "perturbation")
        for r in records:
            groups[tuple(r[n] for n in names)].append(r)
        rows = [dict(zip(names, key, strict=True)) | row for key, own in groups.items() for row in self.cell_rows(own)]
        return rows, {"images": len({tuple(r[n] for n in (*self.of, "image")) for r in records})}

    def cell_rows(self, records: Sequence[Record]) -> Iterator[Record]:
        """The rows of one scene, strength and perturbation."""
        hits = [sum(b == "1" and a == "0" for b, a in zip(r["before"], r["after"], strict=True)) for r in records]
        yield _row("asr", share(hits, [r["before"].count("1") for r in records], seed=self.seed))
        drops = [[d for d in r["drops"] if d is not None] for r in records]
        yield _row("logit_drop", ratio_of_means(drops, [[1.0] * len(d) for d in drops], seed=self.seed))
        values = [[r["psnr"]] for r in records if r.get("psnr") is not None]
        if values:
            yield _row("psnr", ratio_of_means(values, [[1.0] for _ in values], seed=self.seed))

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The scenes, whoever attacked them."""
        seen = {tuple(r[n] for n in (*self.of, "image")): len(r.get("people", ())) for r in records}
        return Dataset("LFW faces on grids", digest(sorted(map(str, seen))), len(seen), sum(seen.values()))


def _row(metric: str, e: Estimate) -> Record:
    return {"metric": metric, **e.columns}


def _bits(flags: Tensor) -> str:
    return "".join(str(int(f)) for f in flags)
