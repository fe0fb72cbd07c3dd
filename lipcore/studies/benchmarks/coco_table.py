"""The table of the COCO study from its records.

The poster does not say which AR it means (A9): AR@1 and AR@10 are printed beside AR@100.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipcore.metrics.coco import IOUS, METRICS, Matched, scores
from lipcore.metrics.intervals import Estimate, bootstrap_weights, ratio_of_means, share
from lipcore.studies.base.stored_detections import unpack
from lipcore.studies.benchmarks.attack_runs import NONE

#: The variant in which the best proposals are attacked, without ground truth.
ABLATION = "proposals"
DRAWS = 500
#: A detector under this AR@100 on the clean images, or under twice that of boxes nobody learned, is too weak for C6.
LEAST_AR = 0.20
#: Boxes that nobody learned.
BASELINES = ("fixed grid", "random boxes")
#: What prose is about.
EPSILON = 8.0
#: Edges of the bins, in pixels of the root of an object's area and in objects of the image.
SIDES = (0, 32, 96, np.inf)
COUNTS = (1, 4, 10, np.inf)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """The images on which all perturbations of one strength are done.

    Attributes:
        detector, variant, update, epsilon: which strength.
        clean: the record of each image as it was.
        attacked: perturbation -> the record of each image, in the same order.
    """

    detector: str
    variant: str
    update: str
    epsilon: float
    clean: list[Record]
    attacked: dict[str, list[Record]]

    def scored(self, perturbation: str) -> Scored:
        """The metrics under a perturbation; ``"none"``: on the clean images."""
        records = self.clean if perturbation == NONE else self.attacked[perturbation]
        return resampled([matched(r["proposals"], r["objects"]) for r in records])

    def baselines(self) -> dict[str, Scored]:
        """The metrics of boxes that nobody learned, by their name."""
        names = list(self.clean[0]["baselines"])
        return {n: resampled([matched(r["baselines"][n], r["objects"]) for r in self.clean]) for n in names}


#: Each metric: (1 + DRAWS,), of the images as they are and of each resampling of them.
Scored = dict[str, NDArray[np.float64]]


def resampled(images: Sequence[Matched]) -> Scored:
    """The metrics of ``images`` and of their resamplings."""
    draws = bootstrap_weights(len(images), draws=DRAWS, seed=0)
    return scores(images, np.vstack((np.ones(len(images)), draws)))


def matched(proposals: str, objects: int) -> Matched:
    """How the packed proposals of an image match its ``objects``."""
    table = unpack(proposals)
    flags = np.rint(table[:, 5]).astype(np.int64)
    bits = np.arange(len(IOUS))[:, None]
    return Matched(table[:, 4], (flags >> bits & 1) > 0, (flags >> bits + len(IOUS) & 1) > 0, objects)


def groups(used: Mapping[tuple[str, str], Sequence[Record]]) -> Iterator[Group]:
    """The strengths of (detector, variant) -> records: the images that have every perturbation any of them has."""
    for (detector, variant), records in used.items():
        clean = {r["image"]: r for r in records if r["perturbation"] == NONE}
        done: dict[tuple[str, float], dict[str, dict[str, Record]]] = defaultdict(lambda: defaultdict(dict))
        for r in records:
            if r["perturbation"] != NONE:
                done[r["update"], r["epsilon"]][r["perturbation"]][r["image"]] = r
        for (update, epsilon), by in sorted(done.items()):
            names = sorted(set(clean).intersection(*map(set, by.values())))
            if names:
                attacked = {p: [images[n] for n in names] for p, images in by.items()}
                yield Group(detector, variant, update, epsilon, [clean[n] for n in names], attacked)


def rows(used: Mapping[tuple[str, str], Sequence[Record]]) -> Iterator[dict[str, Any]]:
    """The table's rows.

    ``ar1``, ``ar10``, ``ar100`` and ``ap``; ``asr``, the share of objects with a proposal of IoU >= 0.5 on the clean
    image that have none; the same by size and by objects in the image; ``ssim`` and ``psnr``.
    """
    for group in groups(used):
        shared: dict[str, Any] = {"detector": group.detector, "variant": group.variant}
        shared |= {"update": group.update, "epsilon": group.epsilon}
        found = {p: group.scored(p) for p in (NONE, *group.attacked)}
        objects = sum(r["objects"] for r in group.clean)
        for name, by in group.baselines().items():
            for metric, values in by.items():
                yield shared | _row(NONE, metric, _estimate(values, len(group.clean))) | {"detector": name}
        for perturbation, by in found.items():
            for metric, values in by.items():
                estimate = _estimate(values, len(group.clean))
                yield shared | _row(perturbation, metric, estimate) | {"n_objects": objects}
            if perturbation != NONE:
                for row in _success(group, perturbation):
                    yield shared | row
                for row in _visible(group, perturbation):
                    yield shared | row


def _estimate(values: NDArray[np.float64], n: int) -> Estimate:
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return Estimate(float(values[0]), float(low), float(high), n)


def _row(perturbation: str, metric: str, e: Estimate, subset: str = "all") -> dict[str, Any]:
    interval = e.columns
    return {"perturbation": perturbation, "metric": metric, "subset": subset, **interval}


def _success(group: Group, perturbation: str) -> Iterator[dict[str, Any]]:
    sides = [np.asarray(r["truth"]["sides"]) for r in group.clean]
    before = [np.asarray(r["best"]) >= 0.5 for r in group.clean]
    lost = [b & (np.asarray(r["best"]) < 0.5) for b, r in zip(before, group.attacked[perturbation], strict=True)]
    bins = {"all": [np.ones(len(s), dtype=np.bool_) for s in sides]}
    bins |= {_name(a, b, "px"): [(s >= a) & (s < b) for s in sides] for a, b in pairwise(SIDES)}
    bins |= {_name(a, b, "objects"): [np.full(len(s), a <= len(s) < b) for s in sides] for a, b in pairwise(COUNTS)}
    for name, chosen in bins.items():
        hits = [int((x & c).sum()) for x, c in zip(lost, chosen, strict=True)]
        totals = [int((x & c).sum()) for x, c in zip(before, chosen, strict=True)]
        yield _row(perturbation, "asr", share(hits, totals), name) | {"n_objects": sum(totals)}


def _visible(group: Group, perturbation: str) -> Iterator[dict[str, Any]]:
    for metric in ("ssim", "psnr"):
        values = [r[metric] for r in group.attacked[perturbation] if r["psnr"] is not None]
        yield _row(perturbation, metric, ratio_of_means([[v] for v in values], [[1.0] for _ in values]))


def _name(low: float, high: float, unit: str) -> str:
    return f"{low:g} to {high:g} {unit}" if np.isfinite(high) else f"from {low:g} {unit}"


def summary(table: Sequence[Mapping[str, Any]], detector: str) -> dict[str, Any]:
    """Scalars for prose, of ``detector``: metrics in percent at :data:`EPSILON` (or the one epsilon there is), and
    whether it is too weak to judge C6."""
    own = [r for r in table if r["detector"] == detector and r["variant"] != ABLATION]
    epsilons = sorted({r["epsilon"] for r in own})
    at = EPSILON if EPSILON in epsilons else epsilons[0] if epsilons else None
    made: dict[str, Any] = {"detector": detector, "epsilon": at, "epsilons": ", ".join(f"{e:g}" for e in epsilons)}
    for r in own:
        if r["epsilon"] == at and r["metric"] in (*METRICS, "asr") and r["subset"] == "all":
            made[f"{r['perturbation']}_{r['metric']}".replace("-", "_")] = round(100 * r["value"], 1)
            if r["metric"] == "ar100":
                made["n"], made["objects"] = r["n"], r["n_objects"]
    naive = [
        (r["detector"].replace(" ", "_"), round(100 * r["value"], 1))
        for r in table
        if r["metric"] == "ar100" and r["epsilon"] == at and r["perturbation"] == NONE and r["detector"] in BASELINES
    ]
    made |= {f"{name}_ar100": value for name, value in naive}
    clean = made.get("none_ar100", 0)
    weak = clean < 100 * LEAST_AR or any(clean < 2 * value for _, value in naive)
    return made | {"weak": "too weak to judge C6" if weak else "strong enough to judge C6"}
