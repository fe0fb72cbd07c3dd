"""Beyond faces: region proposals on COCO under every perturbation (C6).
The real images come from LIPCORE_DATA or ``--data``; the ``quick`` profile runs on generated scenes instead, written in
COCO's format and read by the same loader. A record holds the best 100 proposals of an image and how they match its
objects, so that tables are computed from records alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from lipcore.attacks.targets import Instance, match_targets
from lipcore.boxes import iou_matrix
from lipcore.datasets.coco import CocoImage, load_coco, write_coco
from lipcore.datasets.locations import find_dataset
from lipcore.datasets.synthetic import Crowd
from lipcore.detectors import Detections, Detector, Responses, load_detector
from lipcore.detectors.rpn import Proposals
from lipcore.errors import DataError, LipcoreError
from lipcore.metrics.coco import match
from lipcore.paths import ROOT
from lipcore.results import Dataset, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack, rounded
from lipcore.studies.base.study import Infos, Record, Run
from lipcore.studies.benchmarks.attack_runs import NONE, Attacks, Config, Part, Settings, attacked_records
from lipcore.studies.benchmarks.coco_table import ABLATION, rows, summary

#: In the order in which an image gets them.
PERTURBATIONS = (NONE, "random", "imp", "lp-w", "imp-i", "lp", "lip-a", "lip-h")
EPSILONS = (8.0, 4.0, 2.0, 16.0)
#: A proposal stands for an object from this IoU on.
IOU = 0.5
#: The quick profile's scenes: faces of LFW on photographs, which are its objects.
SCENES, SCENE = 2, Crowd(height=256, width=320, faces=(3, 5), face_side=(32, 96))


@dataclass(frozen=True, kw_only=True)
class CocoSettings(Settings):
    """What a record depends on besides its own unit.

    Attributes:
        most: proposals of an image that count, the best.
        instances: what is attacked: ``"objects"``, those of the ground truth that one of the proposals stands for; or
            ``"proposals"``, the best :attr:`attacked` of them, without ground truth.
        attacked: see there.
    """

    least: float = 0.0
    most: int = 100
    instances: Literal["objects", "proposals"] = "objects"
    attacked: int = 20


#: The default, and the ablation without ground truth.
VARIANTS = {"objects": CocoSettings(), ABLATION: CocoSettings(instances="proposals")}


def find_targets(
    settings: CocoSettings, item: CocoImage | None, responses: Responses, proposals: Detections
) -> list[Instance]:
    """The instances of one clean image and the proposals that stand for each before suppression.

    Args:
        settings: which instances.
        item: its objects; crowds are none. None where the proposals are attacked.
        responses: of the clean image (B = 1).
        proposals: the best of them after suppression.
    """
    boxes = proposals.boxes
    if item is None or settings.instances == "proposals":
        objects, highest = boxes[: settings.attacked], torch.arange(min(settings.attacked, len(boxes)))
    else:
        every = torch.from_numpy(item.boxes[~item.crowd]).to(boxes)
        overlap = iou_matrix(every, boxes)
        found = (overlap >= IOU).any(dim=1) if len(boxes) else torch.zeros(len(every), dtype=torch.bool)
        objects = every[found]
        highest = overlap[found].argmax(dim=1) if len(objects) else torch.empty(0, dtype=torch.long)
    own = match_targets(responses, objects, settings.matching)
    return [
        Instance(box, float(proposals.scores[best]), targets if len(targets) else proposals.responses[best][None])
        for box, best, targets in zip(objects, highest.tolist(), own, strict=True)
    ]


def attack_image(
    settings: CocoSettings, detector: Proposals, item: Any, attacks: Iterable[tuple[str, str, float]]
) -> Iterator[Record]:
    """What a record holds of each attack; see :func:`lipcore.studies.benchmarks.attack_runs.attacked_records`."""
    yield from attacked_records(
        settings,
        detector,
        item,
        attacks,
        find=lambda clean: find_targets(settings, item, clean, _best(settings, detector, clean)),
        keep=lambda responses: proposed(_best(settings, detector, responses), responses, item),
        known=lambda _: {"truth": truth(item), "baselines": baselines(item)},
    )


def _best(settings: CocoSettings, detector: Proposals, responses: Responses) -> Detections:
    found = detector.propose(responses)
    return Detections(*(t[: settings.most] for t in (found.boxes, found.scores, found.responses)))


def proposed(found: Detections, responses: Responses, item: CocoImage) -> dict[str, Any]:
    """The proposals of one image, packed, and the best IoU that any of them has with each object."""
    logits = responses.logits[0].detach()[found.responses]
    table = rounded(torch.cat((found.boxes, logits[:, None]), dim=1).cpu().numpy())
    objects = torch.from_numpy(item.boxes[~item.crowd])
    best = iou_matrix(objects, torch.from_numpy(table[:, :4])).amax(dim=1) if len(table) else torch.zeros(len(objects))
    return {
        "proposals": packed(table, item),
        "objects": len(objects),
        "best": [round(v, 3) for v in best.tolist()],
    }


def packed(table: ArrayLike, item: CocoImage) -> str:
    """Proposals (K, 5), box and score, as one string, with a bit for each IoU threshold at which it is matched (the low
    ten) or falls to a crowd (the next ten)."""
    values = np.asarray(table, dtype=np.float64)
    matched = match(item, values[:, :4], values[:, 4])
    bits = 1 << np.arange(len(matched.hit))
    return pack(np.column_stack((values, bits @ matched.hit + (bits @ matched.ignored << len(bits)))))


def baselines(item: CocoImage) -> dict[str, str]:
    """What 100 boxes find that nobody learned: a fixed grid of four sizes, the largest first, and random boxes."""
    height, width = item.size
    grid = []
    for share, down, across in ((0.9, 1, 1), (0.5, 3, 3), (0.25, 5, 6), (0.12, 6, 10)):
        y, x = (np.linspace(share / 2, 1 - share / 2, n) if n > 1 else np.array([0.5]) for n in (down, across))
        centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        grid.append(np.hstack((centres - share / 2, centres + share / 2)))
    drawn = np.random.default_rng(item.number).random((100, 2, 2))
    found = {"fixed grid": np.concatenate(grid), "random boxes": np.sort(drawn, axis=1).reshape(-1, 4)}
    scores = -np.arange(100, dtype=np.float64)[:, None]
    return {
        name: packed(rounded(np.hstack((boxes * [width, height, width, height], scores))), item)
        for name, boxes in found.items()
    }


def truth(item: CocoImage) -> dict[str, Any]:
    """What the record of a clean image keeps of its objects: the root of each one's area in pixels."""
    boxes = item.boxes[~item.crowd]
    return {"sides": [round(s, 1) for s in np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).tolist()]}


def check(detector: Detector) -> Proposals:
    """Refuses a detector that proposes no regions.

    Raises:
        LipcoreError: it is another kind.
    """
    if not isinstance(detector, Proposals):
        raise LipcoreError(f"{detector.name!r} is no region proposal network; valid: rpn, rpn-mini, or one of your own")
    return detector


#: Strengths of a profile, in the order wanted.
PARTS = {
    "quick": (Part("i-fgsm", 4.0, PERTURBATIONS),),
    "full": tuple(Part("i-fgsm", epsilon, PERTURBATIONS) for epsilon in EPSILONS),
}
WITHOUT_TRUTH = Part("i-fgsm", 4.0, (NONE, "imp-i", "lp", "lip-a"))


class CocoAttack(Attacks):
    """Region proposals on COCO, or on generated scenes."""

    name = "coco_attack"
    title = "region proposals on COCO under every perturbation (C6)"
    own_detector = "rpn-mini"
    poster_table = "coco"
    datasets: ClassVar[Mapping[str, str]] = {"quick": "generated scenes", "full": "COCO val2017"}

    def config(self, run: Run) -> Config:
        """Objects at every strength, then the ablation that attacks the best proposals."""
        parts = PARTS[run.profile]
        own = tuple((VARIANTS["objects"], part) for part in parts)
        title = self.datasets[run.profile]
        return Config(
            detectors=(self.under_study(run),), parts=(*own, (VARIANTS[ABLATION], WITHOUT_TRUTH)), title=title
        )

    def items(self, run: Run) -> Mapping[str, Any]:
        """The images by name: generated scenes in the quick profile.

        Raises:
            DataError: COCO is not at hand; the message says how to get it.
            LipcoreError: the detector is no region proposal network.
        """
        check(run.load(run.detector))
        return load_items(run.profile, run.data)

    def attack(
        self, settings: Any, detector: Detector, item: Any, attacks: Iterable[tuple[str, str, float]]
    ) -> Iterator[Record]:
        """See :func:`attack_image`."""
        yield from attack_image(settings, check(detector), item, attacks)

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """See :mod:`lipcore.studies.benchmarks.coco_table`."""
        used = {
            (name, variant): [r for r in records if (r["detector"], r["config"]) == (name, fingerprint)]
            for name, by in _configs(infos).items()
            for variant, fingerprint in by.items()
        }
        table = list(rows(used))
        if not table:
            raise DataError(f"no image of COCO has all of {', '.join(PERTURBATIONS)} done; run what is missing")
        return table, summary(table, next(iter(infos.values())).name)

    def described(self, config: Config, infos: Infos, records: Records) -> Any:
        """The records may grow while a run goes on: the table is of the first so many lines."""
        known = {"perturbations": PERTURBATIONS, "records": _configs(infos), "lines": records.lines}
        return {"settings": VARIANTS, **known}

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """Those of which the clean image is recorded."""
        clean = {r["image"]: [*r["truth"]["sides"]] for r in records if r["perturbation"] == NONE}
        objects = sum(len(sides) for sides in clean.values())
        return Dataset(config.title, digest(sorted(clean.items())), len(clean), objects)


def _configs(infos: Infos) -> dict[str, dict[str, str]]:
    return {i.name: {v: s.fingerprint(i) for v, s in VARIANTS.items()} for i in infos.values()}


def load_items(profile: str, given: Path | None = None) -> dict[str, Any]:
    """The images by name: generated scenes in the quick profile.

    Raises:
        DataError: COCO is not at hand; the message says how to get it.
    """
    if profile == "quick":
        scenes = (SCENE.draw(seed) for seed in range(SCENES))
        images = [
            (f"{s.name}.png", s.image[0].permute(1, 2, 0).to(torch.uint8).numpy(), s.boxes.double().numpy())
            for s in scenes
        ]
        return {i.name: i for i in load_coco(write_coco(ROOT / "data" / "generated" / "coco_scenes", images))}
    return {image.name: image for image in load_coco(find_dataset("coco", given))}


def proposing(detector: str) -> str:
    """``detector`` if it is a region proposal network, else RPN-mini: a page on proposals needs one."""
    return detector if isinstance(load_detector(detector), Proposals) else CocoAttack.own_detector
