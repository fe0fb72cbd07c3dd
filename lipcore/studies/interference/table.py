"""The table and the scalars for prose of the synthetic study, computed from its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from lipcore.attacks.presets import PRESETS
from lipcore.metrics.intervals import Estimate, ratio_of_means, share
from lipcore.metrics.success import attack_success, interference
from lipcore.studies.base.study import Record
from lipcore.studies.interference.config import POSTER_CELLS, Config

#: Of the scalars for prose; those of the first go by names without it.
EPSILONS = (4.0, 2.0, 1.0)

#: (faces, distance).
Cell = tuple[int, int]
#: Image -> its record.
Images = dict[int, dict[str, Any]]
#: (detector, perturbation, epsilon, faces, distance) -> its images.
Groups = dict[tuple[Any, ...], Images]


def table_of(
    config: Config, records: Sequence[Record], order: Sequence[str], seed: int = 0
) -> tuple[list[Record], dict[str, Any]]:
    """The rows of the table, and the scalars for prose.

    Args:
        config: what was measured.
        records: of it, one for each image and perturbation.
        order: the detectors' names, the one under study first and the control last.
        seed: of the bootstrap.
    """
    groups: Groups = defaultdict(dict)
    for record in records:
        unit = tuple(record[k] for k in ("detector", "perturbation", "epsilon", "faces", "distance", "image"))
        groups[unit[:-1]][unit[-1]] = record
    groups = dict(sorted(groups.items(), key=lambda item: order.index(item[0][0])))
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
        rows.append(cell | {"metric": "asr"} | share(*_columns_of(counts), seed=seed).columns | shared)
        drops = [r["drops"] for _, r in sorted(images.items()) if r["drops"]]
        mean = ratio_of_means(drops, [[1.0] * len(d) for d in drops], seed=seed)
        rows.append(cell | {"metric": "logit_drop"} | mean.columns | shared)
        alone = groups.get((detector, "alone", epsilon, faces, distance), {})
        if faces > 1 and perturbation != "random" and alone:
            rows.append(cell | {"metric": "interference"} | _interference(images, alone, seed).columns | shared)
    seconds = sum(r["seconds"] for r in records)
    return rows, _summary(rows, order, seconds)


def _counts(record: dict[str, Any]) -> tuple[int, int]:
    return attack_success(*([c == "1" for c in record[k]] for k in ("before", "after")))


def _columns_of(counts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [hits for hits, _ in counts], [total for _, total in counts]


def _interference(joint: Images, alone: Images, seed: int) -> Estimate:
    """1 - mean(D_joint) / mean(D_alone) over the faces that were attacked both ways."""
    images = [i for i in alone if i in joint and alone[i]["drops"]]
    together = [[joint[i]["drops"][k] for k in alone[i]["chosen"]] for i in images]
    apart = [alone[i]["drops"] for i in images]
    value = interference(list(chain(*together)), list(chain(*apart)))
    if np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), len(images))
    ratio = ratio_of_means(together, apart, seed=seed)
    return Estimate(value, 1 - ratio.high, 1 - ratio.low, ratio.n)


def _summary(rows: Sequence[dict[str, Any]], names: Sequence[str], seconds: float) -> dict[str, Any]:
    """Scalars for prose: of the detector under study, with ``control_`` before them of the last one, P-Net, and with
    their own names before them of those between; None for what of the poster's cells is not measured.

    ``imp_9_40`` is the ASR of IMP in percent at epsilon 4 with 9 faces at 40 px, ``imp_9_40_epsilon_2`` the same at
    epsilon 2; ``interference_imp_9_40`` the interference coefficient.
    """
    summary: dict[str, Any] = {"minutes": round(seconds / 60, 1), "detector": names[0], "control": names[-1]}
    prefixes = {name: f"{name}_".replace("-", "_") for name in names[1:-1]}
    for detector, prefix in ({names[-1]: "control_"} | prefixes | {names[0]: ""}).items():
        summary |= {prefix + _key(n, e, c): None for n in PRESETS for e in EPSILONS for c in POSTER_CELLS}
        summary |= {f"{prefix}interference_{_key(n, EPSILONS[0], c)}": None for n in PRESETS for c in POSTER_CELLS[1:]}
        for row in rows:
            epsilon, metric = row["epsilon"], row["metric"]
            if row["detector"] != detector or not np.isfinite(row["value"]):
                continue
            cell = row["faces"], row["distance"]
            name = _key(row["perturbation"], epsilon, cell)
            if metric == "asr" and (epsilon == EPSILONS[0] or (epsilon in EPSILONS and cell in POSTER_CELLS)):
                summary[prefix + name] = round(100 * row["value"], 1)
            elif metric == "interference" and epsilon == EPSILONS[0]:
                summary[f"{prefix}interference_{name}"] = round(row["value"], 2)
    return summary


def _key(perturbation: str, epsilon: float, cell: Cell) -> str:
    name = f"{perturbation}_{cell[0]}_{cell[1]}".replace("-", "_")
    return name if epsilon == EPSILONS[0] else f"{name}_epsilon_{epsilon:g}"
