"""Interference on grids of faces: the poster's IPI table and its "Evaluation on Synthetic Images" (C1, C2, C4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lipcore.attacks.fgsm import Attack, update_rule
from lipcore.attacks.perturbation import PRESETS
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.datasets.synthetic import EVALUATION_FACES, INSET, Grid, resized_face
from lipcore.detectors import Detector, load_detector
from lipcore.errors import UnknownName
from lipcore.experiments.records import Records
from lipcore.images import quantise
from lipcore.metrics.intervals import Estimate, difference, ratio_of_means, share
from lipcore.metrics.success import attack_success, found, interference, logit_drops
from lipcore.receptive_field import Extent
from lipcore.results import Dataset, Stopwatch, digest, poster, results_path, write_results
from lipcore.verdicts import Comparison, judge

EXPERIMENT = "ipi_synthetic"
KEY = ("config", "detector", "faces", "distance", "epsilon", "perturbation", "image")

#: The poster's five cells, (faces, distance).
POSTER_CELLS = ((1, 40), (9, 40), (9, 160), (9, 240), (64, 40))
JOINT = ("random", "imp", "lp-w", "imp-i", "lp")
SEPARATE = ("lip-a", "lip-h")
#: Faces of an image that are also attacked alone, for the interference coefficient.
ALONE = 3


@dataclass(frozen=True)
class Part:
    """Cells measured alike.

    Attributes:
        detector: its name.
        cells: (faces, distance) pairs.
        perturbations: presets' names; ``"alone"`` attacks up to three faces of an image one by one with IMP-I.
        epsilons: in grey levels.
        images: how many images in each cell; seeds 0, 1, ...
    """

    detector: str
    cells: tuple[tuple[int, int], ...]
    perturbations: tuple[str, ...]
    epsilons: tuple[float, ...] = (4.0,)
    images: int = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured, in the order in which it is run, and every assumption behind it.

    Attributes:
        parts: run one after the other.
        update: the update rule's name.
        tau, iou: when a face counts as found (A6).
        face_side, canvas, background, identical, measure: of the grids (A7, A14).
        matching: A10, A11 and A12.
        extent: A4.
    """

    parts: tuple[Part, ...]
    update: str = "i-fgsm"
    tau: float = 0.5
    iou: float = 0.5
    face_side: int = 40
    canvas: int = 704
    background: str = "grey"
    identical: bool = False
    measure: str = "edge"
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)

    def grid(self, faces: int, distance: int) -> Grid:
        """The grid of one cell.

        Raises:
            ValueError: it does not fit the canvas.
        """
        return Grid(
            faces=faces,
            distance=distance,
            face_side=self.face_side,
            canvas=self.canvas,
            measure=self.measure,  # type: ignore[arg-type]
            background=self.background,  # type: ignore[arg-type]
            identical=self.identical,
        )


def quick(detector: str) -> Config:
    """For a laptop: few images, since a step on this canvas costs 0.3 s on one core with CenterFace."""
    parts = [
        Part(detector, POSTER_CELLS[:1], (*JOINT, *SEPARATE), images=1),
        Part(detector, POSTER_CELLS[1:], JOINT, images=1),
        Part(detector, POSTER_CELLS[1:2], ("lip-a", "alone"), images=1),
    ]
    if detector != "pnet":
        parts += [
            Part("pnet", POSTER_CELLS, JOINT, images=1),
            Part("pnet", POSTER_CELLS[:2], (*SEPARATE, "alone"), images=1),
        ]
    return Config(parts=tuple(parts))


def full(detector: str) -> Config:
    """The poster's cells first, then smaller epsilons: hours on a laptop with CenterFace; P-Net is far cheaper."""
    parts: list[Part] = []
    for name, images in ((detector, 6), ("pnet", 30)):
        parts += [
            Part(name, POSTER_CELLS, JOINT, images=30),
            Part(name, POSTER_CELLS[:4], (*SEPARATE, "alone"), images=images),
            Part(name, POSTER_CELLS[4:], (*SEPARATE, "alone"), images=6),
        ]
    for name, images in ((detector, 6), ("pnet", 30)):
        parts += [
            Part(name, POSTER_CELLS, JOINT, epsilons=(2.0, 1.0), images=images),
            Part(name, POSTER_CELLS[:4], SEPARATE, epsilons=(2.0, 1.0), images=6),
        ]
    return Config(parts=tuple(dict.fromkeys(parts)))


PROFILES = {"quick": quick, "full": full}


def config_for(profile: str, detector: str) -> Config:
    """The configuration of a profile.

    Raises:
        UnknownName: no such profile; the message lists those there are.
    """
    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    return PROFILES[profile](detector)


def run(config: Config, records_path: Path, *, device: str = "cpu") -> Records:
    """Does whatever units of ``config`` are not recorded yet, one image at a time.

    Args:
        config: what to measure.
        records_path: where one line for each image goes; what is there is not done again.
        device: where the detectors run.

    Raises:
        ValueError: a grid does not fit its canvas; raised before anything is run.
    """
    records = Records(records_path, KEY)
    units = [u for part in config.parts for u in _images(config, part)]
    detectors: dict[str, Detector] = {}
    for part, grid, epsilon, seed in tqdm(units, desc=EXPERIMENT, unit="image", disable=None):
        if part.detector not in detectors:
            detectors[part.detector] = load_detector(part.detector, device=device)
        detector = detectors[part.detector]
        unit = {
            "config": _fingerprint(config, detector),
            "detector": detector.name,
            "faces": grid.faces,
            "distance": grid.distance,
            "epsilon": epsilon,
            "image": seed,
        }
        wanted = [p for p in part.perturbations if not records.has({**unit, "perturbation": p})]
        if wanted:
            for record in _attack_image(config, detector, grid, epsilon, seed, wanted):
                records.add({**unit, **record})
    return records


def _images(config: Config, part: Part) -> Iterator[tuple[Part, Grid, float, int]]:
    for epsilon in part.epsilons:
        for faces, distance in part.cells:
            grid = config.grid(faces, distance)
            for seed in range(part.images):
                yield part, grid, epsilon, seed


def _fingerprint(config: Config, detector: Detector) -> str:
    """Changes with all that a record depends on besides its own unit."""
    return digest([replace(config, parts=()), detector.weights_sha256, detector.extra_repr()])


def _attack_image(
    config: Config, detector: Detector, grid: Grid, epsilon: float, seed: int, perturbations: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One record for each perturbation of one image."""
    scene = grid.draw(seed)
    image = scene.image.to(next(detector.parameters()).device)
    with torch.no_grad():
        responses = detector(image)
    clean = responses.logits[0]
    instances = find_instances(detector, responses, config.matching)
    before = found(scene.boxes, detector.select(responses, config.tau)[0].boxes, config.iou)
    update = update_rule(config.update, epsilon)

    def attacked(name: str, chosen: list[Instance]) -> Tensor:
        attack = Attack(name, update, config.matching, config.extent, seed=seed)
        return quantise(attack(detector, image, instances=chosen).image)

    for name in perturbations:
        watch = Stopwatch()
        record: dict[str, Any] = {"perturbation": name}
        if name == "alone":
            step = max(1, len(instances) // ALONE)
            chosen = list(range(0, len(instances), step))[:ALONE]
            drops = []
            for i in chosen:
                with torch.no_grad():
                    after = detector(attacked("imp-i", [instances[i]])).logits[0]
                drops += logit_drops(clean, after, [instances[i].targets])
            record |= {"chosen": chosen, "drops": [round(d, 4) for d in drops]}
        elif instances or not PRESETS[name].needs_instances:
            with torch.no_grad():
                result = detector(attacked(name, instances))
            after_boxes = detector.select(result, config.tau)[0].boxes
            after = found(scene.boxes, after_boxes, config.iou)
            drops = logit_drops(clean, result.logits[0], [i.targets for i in instances])
            record |= {
                "before": "".join(str(int(b)) for b in before),
                "after": "".join(str(int(b)) for b in after),
                "drops": [round(d, 4) for d in drops],
            }
        else:  # nothing found, so nothing to attack: the image stays as it is
            zeros = "0" * grid.faces
            record |= {"before": zeros, "after": zeros, "drops": []}
        yield record | {"seconds": round(watch.seconds, 3)}


def summarise(config: Config, records: Records, profile: str, path: Path | None = None, seed: int = 0) -> Path:
    """Computes the table, its verdicts and the scalars for prose from the records, and writes the results file.

    Args:
        config: what was measured.
        records: one for each image and perturbation.
        profile: as the file names it.
        path: of the results file; ``results/<profile>/ipi_synthetic.json`` by default.
        seed: of the bootstrap.
    """
    loaded = {name: load_detector(name) for name in dict.fromkeys(part.detector for part in config.parts)}
    detectors = list(loaded.values())
    current = {_fingerprint(config, d) for d in detectors}
    wanted = {
        (loaded[part.detector].name, perturbation, epsilon, *cell, image)
        for part in config.parts
        for perturbation in part.perturbations
        for epsilon in part.epsilons
        for cell in part.cells
        for image in range(part.images)
    }
    groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for record in records:
        unit = tuple(record[k] for k in ("detector", "perturbation", "epsilon", "faces", "distance", "image"))
        if record["config"] in current and unit in wanted:
            groups[unit[:-1]][unit[-1]] = record
    rows = []
    for (detector, perturbation, epsilon, faces, distance), images in groups.items():
        if perturbation == "alone":
            continue
        cell = {
            "detector": detector,
            "perturbation": perturbation,
            "update": config.update,
            "epsilon": epsilon,
            "faces": faces,
            "distance": distance,
        }
        counts = [_counts(r) for _, r in sorted(images.items())]
        n_faces = sum(len(r["before"]) for r in images.values())
        clean = sum(total for _, total in counts) / n_faces
        shared = {"n_faces": n_faces, "clean_rate": clean, "seconds": sum(r["seconds"] for r in images.values())}
        rows.append(cell | {"metric": "asr"} | _columns(share(*_columns_of(counts), seed=seed)) | shared)
        drops = [r["drops"] for _, r in sorted(images.items()) if r["drops"]]
        mean = ratio_of_means(drops, [[1.0] * len(d) for d in drops], seed=seed)
        rows.append(cell | {"metric": "logit_drop"} | _columns(mean) | shared)
        alone = groups.get((detector, "alone", epsilon, faces, distance), {})
        if faces > 1 and perturbation != "random" and alone:
            rows.append(cell | {"metric": "interference"} | _columns(_interference(images, alone, seed)) | shared)
    judged = comparisons(groups, seed)
    rows += [_difference_row(claim, detector, c) for (claim, detector), found in judged.items() for c in found]
    seconds = sum(r["seconds"] for images in groups.values() for r in images.values())
    used = {(r["faces"], r["distance"], r["image"]) for images in groups.values() for r in images.values()}
    faces_seed = [resized_face(i, config.face_side).tolist() for i in range(EVALUATION_FACES)]
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=rows,
        reported=poster("ipi"),
        summary=_summary(rows, judged, [d.name for d in detectors], seconds),
        detectors=detectors,
        dataset=Dataset("LFW faces on grids", digest([faces_seed, INSET]), len(used), sum(f for f, _, _ in used)),
        seed=seed,
        seconds=seconds,
    )


def _counts(record: dict[str, Any]) -> tuple[int, int]:
    return attack_success(*([c == "1" for c in record[k]] for k in ("before", "after")))


def _columns_of(counts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [hits for hits, _ in counts], [total for _, total in counts]


def _columns(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci_low": estimate.low, "ci_high": estimate.high, "n": estimate.n}


def _interference(joint: dict[int, dict[str, Any]], alone: dict[int, dict[str, Any]], seed: int) -> Estimate:
    """1 - mean(D_joint) / mean(D_alone) over the faces that were attacked both ways."""
    images = [i for i in alone if i in joint and alone[i]["drops"]]
    together = [[joint[i]["drops"][k] for k in alone[i]["chosen"]] for i in images]
    apart = [alone[i]["drops"] for i in images]
    value = interference(list(chain(*together)), list(chain(*apart)))
    if np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), len(images))
    ratio = ratio_of_means(together, apart, seed=seed)
    return Estimate(value, 1 - ratio.high, 1 - ratio.low, ratio.n)


#: The comparisons behind each claim, (more, less): the claim says that the first has the higher ASR.
_FEWER = (((1, 40), (9, 40)), ((9, 40), (64, 40)), ((1, 40), (64, 40)))
_FARTHER = (((9, 160), (9, 40)), ((9, 240), (9, 160)), ((9, 240), (9, 40)))
_CROPPED = (("lp-w", "imp"), ("lp", "imp-i"), ("lip-a", "lp"))


def comparisons(groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]], seed: int = 0) -> dict[Any, list[Comparison]]:
    """The comparisons behind C1, C2 and C4 for each detector at epsilon 4, from the records.

    C1 and C2 compare cells under IMP, as the poster does; C4 compares perturbations on one cell of several faces,
    changing one factor at a time, paired on the images that both have.
    """
    made: dict[Any, list[Comparison]] = defaultdict(list)

    def add(claim: str, detector: str, label: str, more: dict[int, Any], less: dict[int, Any], paired: bool) -> None:
        keys = sorted(set(more) & set(less)) if paired else []
        a = [_counts(more[i]) for i in keys or sorted(more)]
        b = [_counts(less[i]) for i in keys or sorted(less)]
        if not a or not b:
            return
        estimate = difference(_columns_of(a), _columns_of(b), paired=paired, seed=seed)
        rates = [
            sum(r["before"].count("1") for r in g.values()) / sum(len(r["before"]) for r in g.values())
            for g in (more, less)
        ]
        made[claim, detector].append(Comparison(label, estimate, min(rates)))

    for detector in dict.fromkeys(g[0] for g in groups):
        for claim, pairs in (("c1", _FEWER), ("c2", _FARTHER)):
            for more, less in pairs:
                a, b = (groups.get((detector, "imp", 4.0, *cell), {}) for cell in (more, less))
                add(claim, detector, f"imp: {more[0]} faces at {more[1]} px above {less[0]} at {less[1]}", a, b, False)
        for cell in POSTER_CELLS[1:]:
            for more_p, less_p in _CROPPED:
                a, b = (groups.get((detector, p, 4.0, *cell), {}) for p in (more_p, less_p))
                add("c4", detector, f"{more_p} above {less_p}: {cell[0]} faces at {cell[1]} px", a, b, True)
    return made


def _difference_row(claim: str, detector: str, comparison: Comparison) -> dict[str, Any]:
    shared = {"detector": detector, "metric": "difference", "claim": claim, "label": comparison.label}
    return shared | _columns(comparison.estimate) | {"clean_rate": comparison.clean_rate, "counts": comparison.counts}


def _summary(
    rows: Sequence[dict[str, Any]],
    judged: dict[tuple[str, str], list[Comparison]],
    names: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Scalars for prose, of the detector under study and, with ``control_`` before them, of P-Net.

    ``imp_9_40`` is the ASR of IMP in percent at epsilon 4 with 9 faces at 40 px; ``c1`` the verdict on C1.
    """
    summary: dict[str, Any] = {"minutes": round(seconds / 60, 1), "detector": names[0], "control": names[-1]}
    for prefix, detector in (("", names[0]), ("control_", names[-1])):
        for row in rows:
            if row["metric"] == "asr" and row["detector"] == detector and row["epsilon"] == 4.0:
                name = f"{prefix}{row['perturbation']}_{row['faces']}_{row['distance']}".replace("-", "_")
                summary[name] = round(100 * row["value"], 1)
        for claim in ("c1", "c2", "c4"):
            verdict = judge(judged.get((claim, detector), []))
            summary[f"{prefix}{claim}"] = verdict.verdict
            summary[f"{prefix}{claim}_reason"] = verdict.reason
    return summary


def measure(profile: str, detector: str, *, device: str = "cpu") -> Path:
    """Runs what is missing of a profile and writes its results; returns the results file."""
    config = config_for(profile, detector)
    path = results_path(EXPERIMENT, profile)
    return summarise(config, run(config, path.with_suffix(".records.jsonl"), device=device), profile, path)
