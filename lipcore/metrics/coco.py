"""Proposals scored as COCO does (Lin et al. 2014), by pycocotools, class-agnostic: average recall and precision.

pycocotools matches the proposals of each image with its objects; what is kept of that (:class:`Matched`) is enough to
compute recall and precision of any set of images, each counted as often as one likes, so that intervals over images
need no matching again. On whole sets the numbers are pycocotools' own: tested.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lipcore.datasets.coco import CocoImage
from lipcore.datasets.coco_format import read_instances, read_results
from lipcore.errors import DataError, LipcoreWarning

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: At so many proposals an image recall is averaged.
MOST = (1, 10, 100)
#: What :func:`scores` gives.
METRICS = (*(f"ar{most}" for most in MOST), "ap")
#: IoU thresholds 0.50, 0.55, ..., 0.95.
IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Matched:
    """How the best 100 proposals of one image match its objects.

    Attributes:
        scores: (D,), highest first.
        hit: (10, D) whether each is matched to an object at each of :data:`IOUS`.
        ignored: (10, D) whether it is matched to a crowd, and so counts neither way.
        objects: how many there are to find.
    """

    scores: Floats
    hit: Flags
    ignored: Flags
    objects: int


def match(image: CocoImage, boxes: ArrayLike, scores: ArrayLike) -> Matched:
    """Matches proposals with the objects of ``image`` by pycocotools.

    Args:
        image: with its annotation.
        boxes: (D, 4) xyxy in pixels.
        scores: (D,) any real scores.

    Raises:
        ValueError: boxes or scores that are not finite, or not as many of one as of the other.
    """
    found, score = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(scores, dtype=np.float64)
    if len(found) != len(score) or not (np.isfinite(found).all() and np.isfinite(score).all()):
        raise ValueError(f"boxes {found.shape} and scores {score.shape} must be finite and of one length")
    truth = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": xywh, "area": xywh[2] * xywh[3], "iscrowd": int(crowd)}
        for i, (xywh, crowd) in enumerate(zip(_xywh(image.boxes), image.crowd, strict=True), start=1)
    ]
    given = [
        {"image_id": 1, "category_id": 1, "bbox": xywh, "score": s}
        for xywh, s in zip(_xywh(found), score.tolist(), strict=True)
    ]
    (result,) = _evaluated({"images": [{"id": 1}], "annotations": truth, "categories": [{"id": 1}]}, given).evalImgs
    if result is None:  # neither objects nor proposals
        nothing = np.zeros((len(IOUS), 0), dtype=np.bool_)
        return Matched(np.zeros(0), nothing, nothing, 0)
    return Matched(
        np.asarray(result["dtScores"], dtype=np.float64),
        np.asarray(result["dtMatches"]) > 0,
        np.asarray(result["dtIgnore"], dtype=np.bool_),
        int((~np.asarray(result["gtIgnore"], dtype=np.bool_)).sum()),
    )


def _xywh(boxes: Floats) -> list[list[float]]:
    rows: list[list[float]] = np.hstack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2])).tolist()
    return rows


def _evaluated(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Any:
    """pycocotools' evaluation, matched but not accumulated, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = dict(truth)
        known.createIndex()
        found = COCO()
        found.dataset = {
            "images": truth["images"],
            "categories": truth["categories"],
            "annotations": [
                {**p, "id": i, "area": p["bbox"][2] * p["bbox"][3], "iscrowd": 0}
                for i, p in enumerate(predictions, start=1)
            ],
        }
        found.createIndex()
        evaluation = COCOeval(known, found, "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(MOST)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    return evaluation


def scores(images: Sequence[Matched], weights: ArrayLike | None = None) -> dict[str, Floats]:
    """Average recall at 1, 10 and 100 proposals an image, and average precision; NaN where there is no object.

    Args:
        images: matched.
        weights: (W, N) how often each image counts in each of W sets; by default once, in one set.

    Returns:
        Each of :data:`METRICS` -> (W,) in [0, 1].
    """
    counts = np.ones((1, len(images))) if weights is None else np.asarray(weights, dtype=np.float64)
    objects = counts @ np.array([m.objects for m in images], dtype=np.float64)
    below = np.where(objects > 0, objects, np.nan)
    made: dict[str, Floats] = {}
    for most in MOST:
        hits = np.array([(m.hit & ~m.ignored)[:, :most].sum(axis=1) for m in images], dtype=np.float64)
        made[f"ar{most}"] = (counts @ hits.reshape(len(images), len(IOUS))).mean(axis=1) / below
    made["ap"] = np.array([_precision(images, c, n) for c, n in zip(counts, below, strict=True)])
    return made


def _precision(images: Sequence[Matched], counts: Floats, objects: float) -> float:
    """Average precision of one set: the mean over IoU thresholds of the envelope at 101 recalls."""
    if not np.isfinite(objects):
        return float("nan")
    score = np.concatenate([m.scores for m in images])
    order = np.argsort(-score, kind="mergesort")
    each = np.repeat(counts, [len(m.scores) for m in images])[order]
    hit, ignored = (np.concatenate([getattr(m, kind) for m in images], axis=1)[:, order] for kind in ("hit", "ignored"))
    right = np.cumsum((hit & ~ignored) * each, axis=1)
    wrong = np.cumsum((~hit & ~ignored) * each, axis=1)
    precision = right / (right + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for recall, best in zip(right / objects, envelope, strict=True):
        at = np.searchsorted(recall, _RECALLS, side="left")
        total += float(best[at[at < len(best)]].sum())
    return total / (len(IOUS) * len(_RECALLS))


def evaluate_files(annotations: Path, predictions: Path, *, present: Sequence[int] | None = None) -> dict[str, float]:
    """Scores anyone's detections, in COCO's result format, with pycocotools alone.

    Args:
        annotations: COCO's instances file.
        predictions: a JSON list of {"image_id", "bbox": [x, y, width, height], "score"}; classes are not looked at.
        present: ids of the images to score; by default all that are annotated.

    Returns:
        Each of :data:`METRICS` -> value.

    Raises:
        DataError: a file is missing or not in that format, or predicts for an image that is not annotated.
    """
    truth, rows = read_instances(annotations), read_results(predictions)
    for i, row in enumerate(rows):
        if row.image not in truth.images:
            raise DataError(f"{predictions}, [{i}] is on image {row.image}, which {annotations} does not list")
    chosen = truth.images.keys() if present is None else truth.images.keys() & set(present)
    if (left_out := sum(truth.degenerate[number] for number in chosen)) and present is None:
        warnings.warn(LipcoreWarning(f"{annotations}: {left_out} boxes without extent left out"), stacklevel=2)
    objects = [
        (number, box, int(crowd))
        for number in sorted(chosen)
        for box, crowd in zip(truth.boxes[number].tolist(), truth.crowd[number], strict=True)
    ]
    kept = {
        "images": [{"id": number} for number in sorted(chosen)],
        # Numbered from 1: pycocotools reads a match with number 0 as none.
        "annotations": [
            {"id": i, "image_id": number, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for i, (number, box, crowd) in enumerate(objects, start=1)
        ],
        "categories": [{"id": 1}],
    }
    given = [
        {"image_id": row.image, "category_id": 1, "bbox": list(row.box), "score": row.score}
        for row in rows
        if row.image in chosen
    ]
    evaluation = _evaluated(kept, given)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    recall, precision = evaluation.eval["recall"][:, 0, 0], evaluation.eval["precision"][:, :, 0, 0, -1]
    means = [_mean(recall[:, i]) for i in range(len(MOST))]
    return dict(zip(METRICS, [*means, _mean(precision)], strict=True))


def _mean(values: Floats) -> float:
    """As COCO summarises: what could not be measured is -1 there and left out."""
    kept = values[values > -1]
    return float(kept.mean()) if kept.size else float("nan")


def write_predictions(path: Path, found: Mapping[int, tuple[ArrayLike, ArrayLike]]) -> None:
    """Writes detections in COCO's result format: image id -> (boxes (D, 4) xyxy, scores (D,))."""
    rows = [
        {"image_id": number, "category_id": 1, "bbox": [round(v, 2) for v in xywh], "score": round(float(s), 5)}
        for number, (boxes, score) in found.items()
        for xywh, s in zip(_xywh(np.asarray(boxes, dtype=np.float64).reshape(-1, 4)), np.asarray(score), strict=True)
    ]
    path.write_text(json.dumps(rows), encoding="utf8")
