"""Tables from the records of attack runs, without images or ground truth: average precision, success, visibility.

A strength (detector, update rule, epsilon) is measured on the images on which *all* its perturbations are done, so that
any two rows of it are of the same images. A face counts as found where a detection of probability >= 0.5 overlaps it by
IoU >= 0.5, IoU as the benchmark's tool computes it.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipcore.errors import LipcoreWarning
from lipcore.metrics.fddb import KINDS, N_IMAGES, FddbResult, evaluate_overlaps
from lipcore.metrics.intervals import Estimate, bootstrap_weights, ratio_of_means, share
from lipcore.metrics.wider import MatchedImage, WiderResult, evaluate_matched
from lipcore.studies.base.stored_detections import unpack
from lipcore.studies.benchmarks.attack_runs import NONE

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Of the project's own full tables, in the order in which they are attacked: the poster's detector first, made small.
DETECTORS = ("hr-mini", "centerface", "retinaface", "ssd-mobilenet", "tiny-yolo")
#: Edges of the bins, in pixels of height and in faces of the image.
HEIGHTS = (0, 16, 32, 64, 128, np.inf)
COUNTS = (1, 2, 4, 8, 16, np.inf)
#: Where FDDB's curves are read: false positives for the complete set, fewer in proportion on fewer images.
FALSE_POSITIVES = (100.0, 1000.0)
DRAWS = 1000
#: The strength of the numbers in prose.
PROSE_UPDATE, PROSE_EPSILON = "i-fgsm", 8.0


@dataclass(frozen=True)
class Strength:
    """What perturbations are compared at.

    Attributes:
        detector: its name.
        update: the update rule's name.
        epsilon: in grey levels.
    """

    detector: str
    update: str
    epsilon: float


class Shot:
    """One image under one perturbation, from its record and that of the clean image.

    Args:
        record: of the image under the perturbation.
        clean: of the same image as it was.
    """

    def __init__(self, record: Mapping[str, Any], clean: Mapping[str, Any]) -> None:
        self.record, self.clean = record, clean
        self.heights: Floats = np.array(clean["truth"]["heights"], dtype=np.float64)
        self.kept = {subset: _flags(bits) for subset, bits in clean["truth"]["kept"].items()}

    @cached_property
    def matched(self) -> MatchedImage:
        """Its detections for average precision, with the tool's own matches; scores are probabilities."""
        table = unpack(self.record["detections"])
        for detection, face in self.record.get("official", ()):
            table[detection, 5] = face
        event, _, name = self.record["image"].rpartition("/")
        scores = 1 / (1 + np.exp(-table[:, 4]))
        return MatchedImage((event, name), scores, table[:, 5].astype(np.int64), self.kept, len(self.heights))

    @property
    def false_positives(self) -> int:
        """Detections of probability >= 0.5 that fit no face."""
        table = unpack(self.record["detections"])
        return int(((table[:, 4] >= 0) & (table[:, 5] < 0)).sum())

    def found(self, tau: float = 0.5) -> Flags:
        """(N,) which faces have a detection of probability >= ``tau``."""
        return _found(self.record["faces"], tau)

    def lost(self, counted: Flags, tau: float = 0.5) -> tuple[int, int]:
        """Faces lost, and faces of those ``counted`` (N,) that are found on the clean image."""
        before = counted & _found(self.clean["faces"], tau)
        return int((before & ~self.found(tau)).sum()), int(before.sum())

    @property
    def overlaps(self) -> tuple[Floats, Floats]:
        """IoU (N, K) of faces and detections and the scores (K,), as FDDB's curves need them."""
        ious = np.zeros((len(self.heights), len(self.matched.scores)))
        for detection, face, iou in self.record["overlaps"]:
            ious[face, detection] = iou
        return ious, self.matched.scores


#: Strength -> perturbation -> its images, in one order for all perturbations of a strength.
Shots = dict[Strength, dict[str, list[Shot]]]


def shots(records: Iterable[Mapping[str, Any]], perturbations: Sequence[str]) -> Shots:
    """The records by strength and perturbation, on the images on which all ``perturbations`` are done.

    Args:
        records: of one configuration of each detector.
        perturbations: all that make an image complete; the clean one, ``"none"``, is needed besides.
    """
    clean: dict[tuple[str, str], Mapping[str, Any]] = {}
    done: dict[Strength, dict[str, dict[str, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record["perturbation"] == NONE:
            clean[record["detector"], record["image"]] = record
        else:
            strength = Strength(record["detector"], record["update"], record["epsilon"])
            done[strength][record["image"]][record["perturbation"]] = record
    attacks = [p for p in perturbations if p != NONE]
    found: Shots = {}
    for strength, images in done.items():
        names = sorted(
            name for name, by in images.items() if by.keys() >= set(attacks) and (strength.detector, name) in clean
        )
        if names:
            before = [clean[strength.detector, name] for name in names]
            found[strength] = {NONE: [Shot(c, c) for c in before]} | {
                p: [Shot(images[name][p], c) for name, c in zip(names, before, strict=True)] for p in attacks
            }
    return found


def table(
    records: Iterable[Mapping[str, Any]], configs: Mapping[str, str], perturbations: Sequence[str], seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that a results file says, from the records alone: the rows and the scalars.

    Args:
        records: of any detectors and configurations.
        configs: detector -> the configuration whose records count; the first detector is the one under study.
        perturbations: all that make an image complete.
        seed: of the bootstrap.
    """
    done = shots((r for r in records if configs.get(r["detector"]) == r["config"]), perturbations)
    found = {s: by for detector in configs for s, by in done.items() if s.detector == detector}
    measured = list(rows(found, seed))
    return measured, summary(found, measured, next(iter(configs)))


def scalar_name(detector: str, main: str, name: str) -> str:
    """What a scalar for prose is called: that of the detector under study by its own name, others' with theirs."""
    text = name if detector == main else f"{detector}_{name}"
    return text.replace("-", "_").replace(" ", "_")


def summary(found: Shots, table: Sequence[dict[str, Any]], main: str) -> dict[str, Any]:
    """Scalars for prose; see :func:`scalar_name`.

    ``lip_a_asr_easy`` is the ASR in percent of LIP-A on easy with I-FGSM at epsilon 8, ``none_found_easy`` the share in
    percent of faces found on the clean images, ``n`` the number of images they rest on, ``device`` where those were
    attacked.
    """
    scalars: dict[str, Any] = {"detector": main}

    def put(detector: str, name: str, value: Any) -> None:
        scalars[scalar_name(detector, main, name)] = value

    for strength, by in found.items():
        if strength == Strength(strength.detector, PROSE_UPDATE, PROSE_EPSILON):
            put(strength.detector, "n", len(by[NONE]))
            put(strength.detector, "device", ", ".join(sorted({s.record.get("device", "cpu") for s in by["imp"]})))
    for row in table:
        at = (row.get("update"), row.get("epsilon")) == (PROSE_UPDATE, PROSE_EPSILON)
        percent = row["metric"] in ("ap", "asr", "found", "discrete", "continuous")
        if not at or not (percent or row["metric"] in ("ssim", "psnr")):
            continue
        known = row["value"] is not None and np.isfinite(row["value"])
        value = round(100 * row["value"], 1) if percent and known else round(row["value"], 3) if known else None
        put(row["detector"], f"{row['perturbation']}_{row['metric']}_{row['subset']}", value)
    return scalars


def rows(found: Shots, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The table's rows, strength by strength; see :func:`strength_rows`."""
    for strength, by in found.items():
        for perturbation, images in by.items():
            shared = {
                "detector": strength.detector,
                "perturbation": perturbation,
                "update": strength.update,
                "epsilon": strength.epsilon,
            }
            for row in perturbation_rows(images, clean=perturbation == NONE, seed=seed):
                yield shared | row


def perturbation_rows(images: Sequence[Shot], *, clean: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of one perturbation at one strength.

    ``ap`` and ``ap_exact`` for each subset; ``asr`` for each subset, for faces by height and for images by their number
    of faces; ``false_positives`` an image; ``mean_change``, ``psnr``, ``ssim`` and ``touched``, means over images; on
    FDDB the curves' ``discrete`` and ``continuous`` rates; of the clean images the share of faces ``found``. Where a
    row is of certain faces, ``clean_rate`` is the share of them that the detector finds on the clean images.

    Args:
        images: of the perturbation.
        clean: whether these are the clean images, which have neither success nor changes.
        seed: of the bootstrap.
    """
    n = len(images)
    for subset, result in precision(images).items():
        more = {"n_faces": result.n_faces, "clean_rate": clean_rate(images, [s.kept[subset] for s in images])}
        weights = bootstrap_weights(n, draws=DRAWS, seed=seed)
        for metric, value in (("ap", result.ap), ("ap_exact", result.ap_exact)):
            low, high = _quantiles(result.resampled(weights, exact=metric == "ap_exact"))
            estimate = Estimate(value, low, high, n)
            yield _row(metric, subset, estimate) | more
    yield from _fddb_rows(images, seed)
    yield _row("false_positives", "images", _mean([float(s.false_positives) for s in images], seed))
    if clean:
        for subset in images[0].kept if images else ():
            yield _found_row(images, subset, seed)
        return
    for subset in images[0].kept if images else ():
        yield _success(images, [s.kept[subset] for s in images], subset, "asr", seed)
    widest = [s.kept[_widest(s)] for s in images]
    for low, high in pairwise(HEIGHTS):
        chosen = [k & (s.heights >= low) & (s.heights < high) for k, s in zip(widest, images, strict=True)]
        yield _success(images, chosen, _bin(low, high, "px"), "asr_by_height", seed)
    for low, high in pairwise(COUNTS):
        chosen = [k & (low <= k.sum() < high) for k in widest]
        yield _success(images, chosen, _bin(low, high, "faces"), "asr_by_faces", seed)
    for metric in ("mean_change", "psnr", "ssim", "touched"):
        values = [s.record[metric] for s in images if s.record[metric] is not None]
        yield _row(metric, "images", _mean(values, seed))


def precision(images: Sequence[Shot]) -> dict[str, WiderResult]:
    """Average precision, and the curves behind it, for each subset."""
    if not images:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LipcoreWarning)  # an attack may leave detections of one score, or one alone
        return evaluate_matched([s.matched for s in images], tuple(images[0].kept))


def roc(images: Sequence[Shot]) -> FddbResult | None:
    """FDDB's curves; None where the records are of another benchmark."""
    if not images or "overlaps" not in images[0].record:
        return None
    return evaluate_overlaps({s.record["image"]: s.overlaps for s in images})


def clean_rate(images: Sequence[Shot], counted: Sequence[Flags]) -> float:
    """The share of the faces ``counted``, flags for each image, that are found on the clean images; NaN without any."""
    total = sum(int(flags.sum()) for flags in counted)
    found = sum(s.lost(flags)[1] for s, flags in zip(images, counted, strict=True))
    return found / total if total else float("nan")


def _fddb_rows(images: Sequence[Shot], seed: int) -> Iterator[dict[str, Any]]:
    curves = roc(images)
    if curves is None:
        return
    weights = bootstrap_weights(len(images), draws=DRAWS, seed=seed)
    for full in FALSE_POSITIVES:
        limit = full * len(images) / N_IMAGES
        for kind in KINDS:
            low, high = _quantiles(curves.resampled(weights, limit, kind))
            estimate = Estimate(curves.rate_at(limit, kind), low, high, len(images))
            more = {"n_faces": curves.n_faces, "clean_rate": clean_rate(images, [s.kept[_widest(s)] for s in images])}
            yield _row(kind, f"{full:g} false positives", estimate) | more


def _success(images: Sequence[Shot], counted: Sequence[Flags], subset: str, metric: str, seed: int) -> dict[str, Any]:
    counts = [s.lost(flags) for s, flags in zip(images, counted, strict=True)]
    estimate = share([hits for hits, _ in counts], [total for _, total in counts], seed=seed)
    return _row(metric, subset, estimate) | {
        "n_faces": sum(total for _, total in counts),
        "clean_rate": clean_rate(images, counted),
    }


def _found_row(images: Sequence[Shot], subset: str, seed: int) -> dict[str, Any]:
    counted = [s.kept[subset] for s in images]
    totals = [int(flags.sum()) for flags in counted]
    found = [s.lost(flags)[1] for s, flags in zip(images, counted, strict=True)]
    rate = clean_rate(images, counted)
    return _row("found", subset, share(found, totals, seed=seed)) | {"n_faces": sum(totals), "clean_rate": rate}


def _row(metric: str, subset: str, estimate: Estimate) -> dict[str, Any]:
    return {"metric": metric, "subset": subset, **estimate.columns}


def _mean(values: Sequence[float], seed: int) -> Estimate:
    return ratio_of_means([[v] for v in values], [[1.0] for _ in values], seed=seed)


def _widest(shot: Shot) -> str:
    """The subset that counts most faces: hard on WIDER FACE."""
    return "hard" if "hard" in shot.kept else next(iter(shot.kept))


def _bin(low: float, high: float, unit: str) -> str:
    if not np.isfinite(high):
        return f"from {low:g} {unit}"
    return f"{low:g} to {high:g} {unit}" if unit == "px" or high - low > 1 else f"{low:g} {unit}"


def _found(logits: Sequence[float | None], tau: float) -> Flags:
    least = np.log(tau / (1 - tau))
    return np.array([v is not None and v >= least for v in logits], dtype=np.bool_)


def _flags(bits: str) -> Flags:
    return np.array([bit == "1" for bit in bits], dtype=np.bool_)


def _quantiles(draws: Floats) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)
