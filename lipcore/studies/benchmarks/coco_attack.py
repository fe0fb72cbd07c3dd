"""Beyond faces: region proposals on COCO under every perturbation (C6).

::

    python -m lipcore.studies.benchmarks.coco_attack --estimate
    python -m lipcore.studies.benchmarks.coco_attack --jobs 2 --threads 1
    python -m lipcore.studies.benchmarks.coco_attack --table

The real images come from LIPCORE_DATA or ``--data``; the ``quick`` profile runs on generated scenes instead, written in
COCO's format and read by the same loader. A record holds the best 100 proposals of an image and how they match its
objects, so that tables are computed from records alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import ArrayLike

from lipcore.attacks.targets import Instance, match_targets
from lipcore.boxes import iou_matrix
from lipcore.datasets.coco import CocoImage, load_coco, write_coco
from lipcore.datasets.locations import find_dataset
from lipcore.datasets.synthetic import Crowd
from lipcore.detectors import Detections, Detector, Responses, load_detector
from lipcore.detectors.rpn import Proposals
from lipcore.errors import DataError, LipcoreError, UnknownName
from lipcore.metrics.coco import match
from lipcore.paths import ROOT
from lipcore.receptive_field import Erf
from lipcore.results import Dataset, digest, poster, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack, rounded
from lipcore.studies.benchmarks import attack_runs
from lipcore.studies.benchmarks.attack_runs import KEY, NONE, Part, Settings, Task, Workers, attacked_records, minutes
from lipcore.studies.benchmarks.coco_table import ABLATION, rows, summary

EXPERIMENT = "coco_attack"
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


def attack_image(settings: CocoSettings, detector: Proposals, erf: Erf, task: Task) -> Iterator[dict[str, Any]]:
    """One record for each attack of a task; see :func:`lipcore.studies.benchmarks.attack_runs.attacked_records`."""
    item: Any = task.item
    yield from attacked_records(
        settings,
        detector,
        erf,
        task,
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


def parts_of(profile: str, variant: str = "objects") -> tuple[Part, ...]:
    """What a profile runs.

    Raises:
        UnknownName: no such profile or variant.
    """
    if profile not in ("quick", "full"):
        raise UnknownName("profile", profile, ("quick", "full"))
    if variant not in VARIANTS:
        raise UnknownName("variant", variant, VARIANTS)
    if variant == ABLATION:
        return (Part("i-fgsm", 4.0, (NONE, "imp-i", "lp", "lip-a")),)
    return tuple(Part("i-fgsm", e, PERTURBATIONS) for e in (EPSILONS if profile == "full" else (4.0,)))


def run(profile: str, variant: str, workers: Workers, given: Path | None = None) -> Records:
    """Does whatever of a profile and variant is not recorded yet.

    Raises:
        DataError: COCO is not at hand.
        LipcoreError: the detector is no region proposal network.
    """
    check(load_detector(workers.detector, workers.weights))
    items = load_items(profile, given)
    path = results_path(EXPERIMENT, profile).with_suffix(".records.jsonl")
    attack: Any = attack_image
    return attack_runs.run(VARIANTS[variant], items, parts_of(profile, variant), path, workers, attack)


def check(detector: Detector) -> Proposals:
    """Refuses a detector that proposes no regions.

    Raises:
        LipcoreError: it is another kind.
    """
    if not isinstance(detector, Proposals):
        raise LipcoreError(f"{detector.name!r} is no region proposal network; valid: rpn, rpn-mini, or one of your own")
    return detector


def summarise(profile: str, detectors: Sequence[Detector], records: Records, path: Path | None = None) -> Path:
    """Computes the table and its verdict from the records, and writes the results file.

    Args:
        profile: as the file names it.
        detectors: those to be in the table; the first is the one under study.
        records: of any; those of the default settings and of the ablation are used.
        path: of the results file; ``results/<profile>/coco_attack.json`` by default.

    Raises:
        DataError: no image has all perturbations done.
    """
    settings = {d.name: {v: s.fingerprint(d) for v, s in VARIANTS.items()} for d in detectors}
    used = {
        (name, variant): [r for r in records if (r["detector"], r["config"]) == (name, config)]
        for name, by in settings.items()
        for variant, config in by.items()
    }
    table = list(rows(used))
    if not table:
        raise DataError(f"no image of COCO has all of {', '.join(PERTURBATIONS)} done; run the attacks first")
    clean = {r["image"]: [*r["truth"]["sides"]] for group in used.values() for r in group if r["perturbation"] == NONE}
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        config={"settings": VARIANTS, "perturbations": PERTURBATIONS, "records": settings, "lines": records.lines},
        rows=table,
        reported=poster("coco"),
        summary=summary(table, detectors[0].name),
        detectors=[d.info for d in detectors],
        dataset=Dataset(
            "generated scenes" if profile == "quick" else "COCO val2017",
            digest(sorted(clean.items())),
            len(clean),
            sum(len(sides) for sides in clean.values()),
        ),
        seed=0,
        seconds=sum(r["seconds"] for group in used.values() for r in group),
    )


def measure(profile: str, detector: str = "rpn-mini", *, device: str = "cpu") -> Path:
    """For the book: runs what is missing and writes the table; returns the results file.

    Where COCO is not at hand, the table is computed from the records there are; a detector that is no region proposal
    network leaves the page to RPN-mini.
    """
    if not isinstance(load_detector(detector), Proposals):
        detector = "rpn-mini"
    for variant in VARIANTS:
        try:
            run(profile, variant, Workers(detector=detector, device=device))
        except DataError:
            if not results_path(EXPERIMENT, profile).with_suffix(".records.jsonl").is_file():
                raise
    records = Records(results_path(EXPERIMENT, profile).with_suffix(".records.jsonl"), KEY)
    return summarise(profile, [load_detector(detector)], records)


def main(
    profile: Annotated[str, typer.Option(help="quick or full.")] = "full",
    detector: Annotated[
        str, typer.Option(help="A region proposal network, by name or package.module:factory.")
    ] = "rpn-mini",
    weights: Annotated[Path | None, typer.Option(help="Its weights, if not those registered.")] = None,
    data: Annotated[Path | None, typer.Option(help="COCO's folder; by default where LIPCORE_DATA says.")] = None,
    variants: Annotated[str, typer.Option(help="Of the instances, comma-separated.")] = ",".join(VARIANTS),
    device: Annotated[str, typer.Option(help="Where it runs.")] = "cpu",
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    threads: Annotated[int, typer.Option(help="Of torch, in each process; 0: its own choice.")] = 0,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say how long each part will take.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Only write the table of what is recorded.")] = False,
) -> None:
    """Attacks COCO's images, as far as they are not attacked yet, and writes the table."""
    workers = Workers(detector=detector, weights=weights, device=device, jobs=jobs, threads=threads)
    path = results_path(EXPERIMENT, profile).with_suffix(".records.jsonl")
    try:
        for variant in variants.split(","):
            if estimate:
                attack: Any = attack_image
                found = minutes(
                    VARIANTS[variant], load_items(profile, data), parts_of(profile, variant), path, workers, attack
                )
                for part, missing, needed in found:
                    typer.echo(
                        f"{variant}, epsilon {part.epsilon:g}: {missing} attacks, about {needed / jobs:.0f} minutes"
                    )
            elif not table:
                run(profile, variant, workers, data)
        if not estimate:
            typer.echo(summarise(profile, [load_detector(detector, weights)], Records(path, KEY)))
    except LipcoreError as error:
        raise SystemExit(f"{EXPERIMENT}: {error}") from error


if __name__ == "__main__":
    typer.run(main)
