"""The table, the comparisons and the scalars for prose of the synthetic study, computed from its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcore.datasets.synthetic import EVALUATION_FACES, INSET, resized_face
from lipcore.detectors import load_detector
from lipcore.experiments.records import Records
from lipcore.metrics.intervals import Estimate, difference, ratio_of_means, share
from lipcore.metrics.success import attack_success, interference
from lipcore.results import Dataset, digest, poster, results_path, write_results
from lipcore.verdicts import Comparison, judge

if TYPE_CHECKING:
    from lipcore.experiments.ipi_synthetic import Config

EXPERIMENT = "ipi_synthetic"
#: The poster's five cells, (faces, distance).
POSTER_CELLS = ((1, 40), (9, 40), (9, 160), (9, 240), (64, 40))


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
    current = {config.fingerprint(d) for d in detectors}
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
    """Scalars for prose: of the detector under study, with ``control_`` before them of the last one, P-Net, and with
    their own names before them of those between.

    ``imp_9_40`` is the ASR of IMP in percent at epsilon 4 with 9 faces at 40 px; ``c1`` the verdict on C1.
    """
    summary: dict[str, Any] = {"minutes": round(seconds / 60, 1), "detector": names[0], "control": names[-1]}
    prefixes = {name: f"{name}_".replace("-", "_") for name in names[1:-1]}
    for detector, prefix in ({names[-1]: "control_"} | prefixes | {names[0]: ""}).items():
        for row in rows:
            if row["metric"] == "asr" and row["detector"] == detector and row["epsilon"] == 4.0:
                name = f"{prefix}{row['perturbation']}_{row['faces']}_{row['distance']}".replace("-", "_")
                summary[name] = round(100 * row["value"], 1)
        for claim in ("c1", "c2", "c4"):
            verdict = judge(judged.get((claim, detector), []))
            summary[f"{prefix}{claim}"] = verdict.verdict
            summary[f"{prefix}{claim}_reason"] = verdict.reason
    return summary
