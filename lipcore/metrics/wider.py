"""Average precision on WIDER FACE as the official MATLAB tool computes it, beside the exact one.

The tool, step by step (names as in its source):

1. the predictions of an image are sorted by score, equal scores in the order given;
2. scores are min-max normalised over all images;
3. ground truth listed in the subset's ``gt_list`` is kept, the rest of the image's boxes is ignored;
4. each prediction in order takes its single best ground truth (the first of equals; IoU of inclusive pixels, +1). Where
   IoU >= 0.5: an ignored one takes the prediction out of the count, a kept one not yet found is a hit, one found
   before leaves the prediction a false positive. :mod:`lipcore.metrics.wider_boxes` has the tool's integers;
5. for t = 1 ... 1000, the predictions with score >= 1 - t/1000 are counted in every image;
6. counts are summed over images; AP is the area under the precision envelope (VOC).

Images without predictions still count their faces. Images without any box are skipped with their predictions, whose
scores still take part in step 2.

One departure: the tool's maximum starts at 1.2e-38 instead of the first score, which would squeeze the thresholds where
every score is negative; here it starts at the first score.

:attr:`WiderResult.ap_exact` uses every score as a threshold instead of step 5, ties entering together: the 1000 linear
steps coarsen where an attack piles the scores up at one end. Both take the tool's matches of step 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipcore.datasets.wider_format import SUBSETS, ImageKey, check_name
from lipcore.datasets.wider_lists import WiderGroundTruth
from lipcore.errors import DataError, LipcoreWarning
from lipcore.metrics.wider_boxes import best_face, iou_plus_one

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Step 5: score thresholds, falling.
THRESHOLDS: Floats = 1 - np.arange(1, 1001) / 1000
#: Numbers held at a time while draws are evaluated.
CHUNK = 4_000_000


@dataclass(frozen=True, eq=False)
class WiderResult:
    """The evaluation of one subset.

    Attributes:
        subset: ``"easy"``, ``"medium"`` or ``"hard"``.
        ap: official average precision, in 0..1; NaN where the images hold no face of the subset.
        ap_exact: the same with every score as a threshold, ties together.
        precision: (1000,) at ``THRESHOLDS``; 0 where nothing is counted yet.
        recall: (1000,) at ``THRESHOLDS``.
        n_faces: faces that count.
        n_images: images evaluated.
        n_listed: images in the complete lists.
        n_predictions: predictions on the images evaluated.
        without_predictions: images evaluated that have none.
        images: their keys, in the order of ``faces``.
        faces: (n_images,) faces that count in each image.
        matches: what each prediction did; :meth:`resampled` works on it.
    """

    subset: str
    ap: float
    ap_exact: float
    precision: Floats = field(repr=False)
    recall: Floats = field(repr=False)
    n_faces: int
    n_images: int
    n_listed: int
    n_predictions: int
    without_predictions: int
    images: tuple[ImageKey, ...] = field(repr=False)
    faces: Ints = field(repr=False)
    matches: Matches = field(repr=False)

    @property
    def partial(self) -> bool:
        """Whether only a part of the listed images was evaluated, on its own faces only."""
        return self.n_images < self.n_listed

    def __str__(self) -> str:
        """One line for people, which says so where the images are a part of the set."""
        part = f" (a part of the {self.n_listed} images: on its own faces only)" if self.partial else ""
        size = f"{self.n_faces} faces, {self.n_images} images{part}"
        return f"{self.subset}: AP {self.ap:.4f}, exact {self.ap_exact:.4f}; {size}"

    def image_counts(self) -> tuple[Ints, Ints]:
        """Counted predictions and hits of every image at ``THRESHOLDS``, each (n_images, 1000)."""
        return self.matches.binned(self.n_images, "counted"), self.matches.binned(self.n_images, "hit")

    def exact_curve(self) -> tuple[Floats, Floats]:
        """Precision and recall, each (M,), at every distinct score that brings a hit, best first."""
        counted, hits = self.matches.cumulative(np.ones(self.n_images))
        return _curve(counted, hits, np.float64(self.n_faces))

    def resampled(self, weights: ArrayLike, *, exact: bool = False) -> Floats:
        """AP with images drawn anew, as a bootstrap needs it; scores stay as normalised on the whole set.

        Args:
            weights: (D, n_images): how often each image of :attr:`images` is in each of D draws; see
                :func:`lipcore.metrics.intervals.bootstrap_weights`. The same weights on two results of the same images
                make them paired.
            exact: the exact AP instead of the official one.

        Returns:
            (D,) average precisions, NaN where a draw holds no face.
        """
        draws = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        if draws.shape[1] != self.n_images:
            raise ValueError(f"weights have shape {draws.shape}; valid is (D, {self.n_images})")
        aps = []
        binned = None if exact else self.image_counts()
        parts = -(-len(draws) * max(len(THRESHOLDS), self.n_predictions) // CHUNK)
        for part in np.array_split(draws, max(1, parts)):
            counted, hits = self.matches.cumulative(part) if binned is None else (part @ counts for counts in binned)
            faces = part @ self.faces
            precision, recall = _curve(counted, hits, faces[:, None])
            aps.append(np.where(faces > 0, _area(recall, precision), np.nan))
        return np.concatenate(aps)


@dataclass(frozen=True, eq=False)
class Matches:
    """What each of P predictions did, in no particular order between images.

    Attributes:
        image: (P,) its image's place in :attr:`WiderResult.images`.
        score: (P,) as given.
        step: (P,) the first of ``THRESHOLDS`` that it reaches; 1000 for none.
        counted: (P,) whether it counts as a proposal: not taken out by an ignored face.
        hit: (P,) whether it found a kept face first.
    """

    image: Ints
    score: Floats
    step: Ints
    counted: Flags
    hit: Flags

    def binned(self, n_images: int, which: str) -> Ints:
        """(n_images, 1000) cumulative numbers of predictions that are ``"counted"`` or ``"hit"``."""
        chosen = getattr(self, which) & (self.step < len(THRESHOLDS))
        cells = self.image[chosen] * len(THRESHOLDS) + self.step[chosen]
        return np.bincount(cells, minlength=n_images * len(THRESHOLDS)).reshape(n_images, -1).cumsum(axis=1)

    def cumulative(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted numbers of counted predictions and of hits down to each distinct score that brings a hit.

        ``weights`` is (n_images,) or (D, n_images), the numbers are (M,) or (D, M).

        Other scores only lower the precision at the same recall, so the area under the envelope needs none of them.
        """
        (images_counted, runs_counted), (images_hit, runs_hit) = self._runs
        if not len(runs_hit):
            none = np.zeros((*weights.shape[:-1], 0))
            return none, none
        counted = np.add.reduceat(weights[..., images_counted], runs_counted, axis=-1).cumsum(axis=-1)
        return counted, np.add.reduceat(weights[..., images_hit], runs_hit, axis=-1).cumsum(axis=-1)

    @cached_property
    def _runs(self) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
        """Images of the counted predictions and of the hits by falling score, and where their runs start.

        A run ends with the last prediction of a score that brings a hit, so each holds at least one of both.
        """
        order = np.argsort(-self.score, kind="stable")
        score, image, hit = self.score[order], self.image[order], self.hit[order]
        last_of_score = np.append(score[1:] != score[:-1], np.ones(min(len(score), 1), dtype=np.bool_))
        ends = np.flatnonzero(last_of_score)
        ends = ends[np.diff(hit.cumsum()[ends], prepend=0) > 0]
        stop = int(ends[-1]) + 1 if len(ends) else 0
        parts = []
        for chosen in (self.counted[order], hit):
            before = np.concatenate(([0], chosen.cumsum()))
            starts = np.concatenate(([0], before[ends[:-1] + 1])) if len(ends) else ends
            parts.append((image[:stop][chosen[:stop]], starts))
        return parts[0], parts[1]


def evaluate_wider(
    predictions: Mapping[ImageKey, ArrayLike],
    ground_truth: WiderGroundTruth,
    subset: str,
    *,
    images: Collection[ImageKey] | None = None,
) -> WiderResult:
    """Evaluates detections on one subset; see the module's docstring for the rules.

    Args:
        predictions: image -> (K, 5) x, y, w, h in pixels and any real score. An image that is left out has none.
        ground_truth: the evaluation lists, or a part of them.
        subset: ``"easy"``, ``"medium"`` or ``"hard"``.
        images: evaluate these alone, on their own faces; by default all of ``ground_truth``.

    Raises:
        UnknownName: no such subset.
        DataError: predictions of a wrong shape, not finite, or for an image that is not listed; or such an image in
            ``images``.

    Warns:
        LipcoreWarning: all scores are equal. The tool divides 0 by 0 and gives AP 0; so does :attr:`WiderResult.ap`.
    """
    check_name("subset", subset, SUBSETS)
    return evaluate_subsets(predictions, ground_truth, images=images, subsets=(subset,))[subset]


def evaluate_subsets(
    predictions: Mapping[ImageKey, ArrayLike],
    ground_truth: WiderGroundTruth,
    *,
    images: Collection[ImageKey] | None = None,
    subsets: Iterable[str] = SUBSETS,
) -> dict[str, WiderResult]:
    """:func:`evaluate_wider` on several subsets, the boxes matched once."""
    if unknown := sorted(predictions.keys() - ground_truth.listed):
        raise DataError(f"predictions for {'/'.join(unknown[0])} and {len(unknown) - 1} more that are not in the lists")
    truth = ground_truth if images is None else ground_truth.only(images)
    matched = []
    for key, faces in truth.boxes.items():
        found = _checked(key, predictions.get(key))
        kept = {subset: flags[key] for subset, flags in truth.kept.items()}
        corners = np.hstack((found[:, :2], found[:, :2] + found[:, 2:4]))
        best = best_face(iou_plus_one(corners, faces, whole=truth.whole))
        matched.append(MatchedImage(key, found[:, 4], best, kept, len(faces)))
    return evaluate_matched(matched, subsets, n_listed=len(truth.listed))


@dataclass(frozen=True, eq=False)
class MatchedImage:
    """The predictions of an image with the ground truth that each takes.

    Attributes:
        key: (event, name).
        scores: (P,) any real scores.
        best: (P,) the number of the ground truth that each prediction overlaps most; -1 below IoU 0.5.
        kept: subset -> (N,) whether each ground truth counts there.
        n: its boxes, counted or not.
    """

    key: ImageKey
    scores: Floats
    best: Ints
    kept: Mapping[str, Flags]
    n: int


def evaluate_matched(
    images: Sequence[MatchedImage], subsets: Iterable[str] = SUBSETS, *, n_listed: int | None = None
) -> dict[str, WiderResult]:
    """Steps 1 to 3, 5 and 6 on predictions that are matched already, as records of attacks keep them.

    Args:
        images: in any order.
        subsets: names among those of ``kept``.
        n_listed: images in the complete lists; by default those given.

    Raises:
        UnknownName: no such subset.

    Warns:
        LipcoreWarning: all scores are equal; see :func:`evaluate_wider`.
    """
    pooled = _Pooled(images, len(images) if n_listed is None else n_listed)
    if pooled.all_equal:
        warnings.warn("all scores are equal: the official AP is 0; see ap_exact", LipcoreWarning, stacklevel=3)
    known = tuple(images[0].kept) if images else SUBSETS
    return {check_name("subset", subset, known): pooled.result(subset) for subset in subsets}


class _Pooled:
    """Steps 1 and 2 for all images at once, and which ground truth each prediction takes."""

    def __init__(self, images: Sequence[MatchedImage], n_listed: int) -> None:
        self.images, self.n_listed = images, n_listed
        self.n_predictions = sum(len(i.scores) for i in images)
        self.without_predictions = sum(len(i.scores) == 0 for i in images)
        scores = np.concatenate([np.zeros(0), *(i.scores for i in images)])
        low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
        self.all_equal = bool(len(scores) and low == high)
        image, score, step, best = [], [], [], []
        first = 0
        for i, each in enumerate(images):
            if each.n and len(each.scores):
                order = np.argsort(-each.scores, kind="stable")
                image.append(np.full(len(order), i))
                score.append(each.scores[order])
                step.append(_steps(each.scores[order], low, high))
                best.append(np.where(each.best >= 0, each.best + first, -1)[order])
            first += each.n
        empty = np.zeros(0, dtype=np.int64)
        self.image, self.step, self.best = (np.concatenate([*part, empty]) for part in (image, step, best))
        self.score = np.concatenate([*score, np.zeros(0)])

    def result(self, subset: str) -> WiderResult:
        """Steps 3, 5 and 6."""
        flags = [i.kept[subset] for i in self.images]
        kept = np.concatenate([*flags, np.zeros(1, dtype=np.bool_)])  # the last stands for "no ground truth": best = -1
        faces = np.array([int(f.sum()) for f in flags], dtype=np.int64)
        takes_kept = kept[self.best]
        counted = takes_kept | (self.best < 0)
        hit = np.zeros(len(self.best), dtype=np.bool_)
        _, firsts = np.unique(self.best[takes_kept], return_index=True)
        hit[np.flatnonzero(takes_kept)[firsts]] = True
        matches = Matches(self.image, self.score, self.step, counted, hit)
        n_faces = np.float64(faces.sum())
        totals = [np.bincount(self.step[f], minlength=1001)[:1000].cumsum().astype(np.float64) for f in (counted, hit)]
        precision, recall = _curve(totals[0], totals[1], n_faces)
        exact_precision, exact_recall = _curve(*matches.cumulative(np.ones(len(flags))), n_faces)
        return WiderResult(
            subset=subset,
            ap=average_precision(recall, precision) if n_faces else float("nan"),
            ap_exact=average_precision(exact_recall, exact_precision) if n_faces else float("nan"),
            precision=precision,
            recall=recall,
            n_faces=int(n_faces),
            n_images=len(flags),
            n_listed=self.n_listed,
            n_predictions=self.n_predictions,
            without_predictions=self.without_predictions,
            images=tuple(i.key for i in self.images),
            faces=faces,
            matches=matches,
        )


def average_precision(recall: ArrayLike, precision: ArrayLike) -> float:
    """Area under the envelope of a precision-recall curve, as PASCAL VOC since 2010 and the WIDER FACE tool take it.

    Args:
        recall: (T,) rising, in 0..1.
        precision: (T,) in 0..1; NaN (nothing counted yet) is passed over as MATLAB's ``max`` does.
    """
    return float(_area(np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)))


def _steps(scores: Floats, low: float, high: float) -> Ints:
    """The place of the first threshold that each score reaches once normalised; 1000 where 0 is divided by 0."""
    if high == low:
        return np.full(len(scores), len(THRESHOLDS), dtype=np.int64)
    normalised = (scores - low) / (high - low)
    return len(THRESHOLDS) - np.searchsorted(THRESHOLDS[::-1], normalised, side="right").astype(np.int64)


def _curve(counted: Floats, hits: Floats, n_faces: ArrayLike) -> tuple[Floats, Floats]:
    faces = np.asarray(n_faces, dtype=np.float64)
    precision = np.divide(hits, counted, out=np.zeros_like(hits, dtype=np.float64), where=counted > 0)
    return precision, np.divide(hits, faces, out=np.zeros_like(precision), where=faces > 0)


def _area(recall: Floats, precision: Floats) -> Floats:
    """The area under the envelope along the last axis."""
    envelope = np.maximum.accumulate(np.nan_to_num(precision)[..., ::-1], axis=-1)[..., ::-1]
    area: Floats = (np.diff(recall, prepend=0.0, axis=-1) * envelope).sum(axis=-1)
    return area


def _checked(key: ImageKey, value: ArrayLike | None) -> Floats:
    table = np.zeros((0, 5)) if value is None else np.asarray(value, dtype=np.float64)
    if table.size == 0:
        return np.zeros((0, 5))
    if table.ndim != 2 or table.shape[1] != 5:
        raise DataError(f"predictions of {'/'.join(key)} have shape {table.shape}; valid is (K, 5): x, y, w, h, score")
    if not np.isfinite(table).all():
        raise DataError(f"predictions of {'/'.join(key)} hold NaN or infinity; every number must be finite")
    return table
