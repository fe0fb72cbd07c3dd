"""The table, the comparisons and the scalars for prose of the synthetic study, computed from its records.

The rules of the verdicts (``lipcore.studies.base.verdicts`` says how one follows from its comparisons):

* C1: under IMP, success with fewer faces is above that with more, all at 40 px.
* C2: under IMP with nine faces, success at a larger distance is above that at a smaller one.
* C4: on each of the poster's cells with several faces, success of LP-W is above that of IMP, of LP above IMP-I, and of
  LIP-A above LP.

As first written, they were about epsilon 4 alone. After results at epsilon 4 had been seen, where many attacks leave no
face, two things were added: the same comparisons at epsilon 2 and 1, and that two attacks which both succeed on more
than 95 % of the faces had no room to differ. The verdict by the first rule stands beside the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from lipcore.attacks.presets import PRESETS
from lipcore.metrics.intervals import Estimate, difference, ratio_of_means, share
from lipcore.metrics.success import attack_success, interference
from lipcore.studies.base.study import Record
from lipcore.studies.base.verdicts import MOST_ASR, Comparison, judge
from lipcore.studies.interference.config import POSTER_CELLS, Config

#: What verdicts rest on: the epsilon of the rule as first written, then those added later.
EPSILONS = (4.0, 2.0, 1.0)

#: (faces, distance).
Cell = tuple[int, int]
#: Image -> its record.
Images = dict[int, dict[str, Any]]
#: (detector, perturbation, epsilon, faces, distance) -> its images.
Groups = dict[tuple[Any, ...], Images]
#: (claim, detector, epsilon) -> its comparisons.
Judged = dict[tuple[str, str, float], list[Comparison]]


def table_of(
    config: Config, records: Sequence[Record], order: Sequence[str], seed: int = 0
) -> tuple[list[Record], dict[str, Any]]:
    """The rows of the table, with the comparisons behind its verdicts, and the scalars for prose.

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
        rows.append(cell | {"metric": "asr"} | _columns(share(*_columns_of(counts), seed=seed)) | shared)
        drops = [r["drops"] for _, r in sorted(images.items()) if r["drops"]]
        mean = ratio_of_means(drops, [[1.0] * len(d) for d in drops], seed=seed)
        rows.append(cell | {"metric": "logit_drop"} | _columns(mean) | shared)
        alone = groups.get((detector, "alone", epsilon, faces, distance), {})
        if faces > 1 and perturbation != "random" and alone:
            rows.append(cell | {"metric": "interference"} | _columns(_interference(images, alone, seed)) | shared)
    judged = comparisons(groups, seed)
    first = comparisons(groups, seed, epsilons=EPSILONS[:1], most=1.0)
    rows += [_difference_row(key, comparison) for key, found in judged.items() for comparison in found]
    seconds = sum(r["seconds"] for r in records)
    return rows, _summary(rows, judged, first, order, seconds)


def _counts(record: dict[str, Any]) -> tuple[int, int]:
    return attack_success(*([c == "1" for c in record[k]] for k in ("before", "after")))


def _columns_of(counts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [hits for hits, _ in counts], [total for _, total in counts]


def _columns(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci_low": estimate.low, "ci_high": estimate.high, "n": estimate.n}


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


#: The comparisons behind each claim, (more, less): the claim says that the first has the higher ASR.
_FEWER = (((1, 40), (9, 40)), ((9, 40), (64, 40)), ((1, 40), (64, 40)))
_FARTHER = (((9, 160), (9, 40)), ((9, 240), (9, 160)), ((9, 240), (9, 40)))
_CROPPED = (("lp-w", "imp"), ("lp", "imp-i"), ("lip-a", "lp"))


def comparisons(
    groups: Groups, seed: int = 0, *, epsilons: Sequence[float] = EPSILONS, most: float = MOST_ASR
) -> Judged:
    """The comparisons behind C1, C2 and C4 for each detector and epsilon, from the records.

    C1 and C2 compare cells under IMP, as the poster does; C4 compares perturbations on one cell of several faces,
    changing one factor at a time, paired on the images that both have.

    Args:
        groups: the records.
        seed: of the bootstrap.
        epsilons: at which.
        most: two that both succeed on more than this share have no room to differ.
    """
    made: Judged = defaultdict(list)

    def add(key: tuple[str, str, float], label: str, more: Images, less: Images, paired: bool) -> None:
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
        room = any(sum(hits) <= most * sum(totals) for hits, totals in map(_columns_of, (a, b)))
        made[key].append(Comparison(f"{label}, epsilon {key[-1]:g}", estimate, min(rates), room))

    for detector in dict.fromkeys(g[0] for g in groups):
        for epsilon in epsilons:
            for claim, pairs in (("c1", _FEWER), ("c2", _FARTHER)):
                for more, less in pairs:
                    a, b = (groups.get((detector, "imp", epsilon, *cell), {}) for cell in (more, less))
                    add((claim, detector, epsilon), f"imp: {_named(more)} above {_named(less)}", a, b, False)
            for cell in POSTER_CELLS[1:]:
                for more_p, less_p in _CROPPED:
                    a, b = (groups.get((detector, p, epsilon, *cell), {}) for p in (more_p, less_p))
                    add(("c4", detector, epsilon), f"{more_p} above {less_p}: {_named(cell)}", a, b, True)
    return made


def _named(cell: Cell) -> str:
    return f"{cell[0]} face{'s' * (cell[0] > 1)} at {cell[1]} px"


def _difference_row(key: tuple[str, str, float], comparison: Comparison) -> dict[str, Any]:
    claim, detector, epsilon = key
    shared = {"detector": detector, "metric": "difference", "claim": claim, "label": comparison.label}
    judged = {"clean_rate": comparison.clean_rate, "room": comparison.room, "counts": comparison.counts}
    return shared | {"epsilon": epsilon} | _columns(comparison.estimate) | judged


def _summary(
    rows: Sequence[dict[str, Any]],
    judged: Judged,
    first: Judged,
    names: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Scalars for prose: of the detector under study, with ``control_`` before them of the last one, P-Net, and with
    their own names before them of those between; None for what of the poster's cells is not measured.

    ``imp_9_40`` is the ASR of IMP in percent at epsilon 4 with 9 faces at 40 px, ``imp_9_40_epsilon_2`` the same at
    epsilon 2; ``interference_imp_9_40`` the interference coefficient; ``c1`` the verdict on C1 and ``c1_first`` the one
    by the rule as first written, each with its ``_reason``.
    """
    summary: dict[str, Any] = {"minutes": round(seconds / 60, 1), "detector": names[0], "control": names[-1]}
    prefixes = {name: f"{name}_".replace("-", "_") for name in names[1:-1]}
    for detector, prefix in ({names[-1]: "control_"} | prefixes | {names[0]: ""}).items():
        summary |= {prefix + _key(n, e, c): None for n in PRESETS for e in EPSILONS for c in POSTER_CELLS}
        summary |= {f"{prefix}interference_{_key(n, EPSILONS[0], c)}": None for n in PRESETS for c in POSTER_CELLS[1:]}
        for row in rows:
            epsilon, metric = row["epsilon"], row["metric"]
            if row["detector"] != detector or metric == "difference" or not np.isfinite(row["value"]):
                continue
            cell = row["faces"], row["distance"]
            name = _key(row["perturbation"], epsilon, cell)
            if metric == "asr" and (epsilon == EPSILONS[0] or (epsilon in EPSILONS and cell in POSTER_CELLS)):
                summary[prefix + name] = round(100 * row["value"], 1)
            elif metric == "interference" and epsilon == EPSILONS[0]:
                summary[f"{prefix}interference_{name}"] = round(row["value"], 2)
        for rule, by_rule in (("", judged), ("_first", first)):
            for claim in ("c1", "c2", "c4"):
                verdict = judge([c for epsilon in EPSILONS for c in by_rule.get((claim, detector, epsilon), [])])
                summary[f"{prefix}{claim}{rule}"] = verdict.verdict
                summary[f"{prefix}{claim}{rule}_reason"] = verdict.reason
    return summary


def _key(perturbation: str, epsilon: float, cell: Cell) -> str:
    name = f"{perturbation}_{cell[0]}_{cell[1]}".replace("-", "_")
    return name if epsilon == EPSILONS[0] else f"{name}_epsilon_{epsilon:g}"
