"""Discrete and continuous ROC on FDDB, as the official evaluation (Jain & Learned-Miller 2010, section 6) draws them.

For every distinct score as a threshold, in each image:

1. the detections with at least that score are matched one to one with the annotated ellipses so that the sum of the
   IoUs is greatest (pairs that do not overlap are no matches);
2. discrete: a matched pair counts 1 where its IoU is above 0.5, else 0; continuous: it counts its IoU;
3. a detection without a pair above 0.5 is a false positive, for both curves.

The curves are these sums over all images of all folds: the rate of true positives (by annotated faces) against the
*number* of false positives. Annotations that no detection reaches stay in the denominator.

As in the official program, regions are sets of pixels of the image (what lies outside is cut off): a rectangle takes
the pixels from its rounded corner to its rounded corner, both included; an ellipse has a rounded centre, truncated
radii and whole degrees. The program draws with OpenCV; here an ellipse holds the pixels within its radii + 0.5, which
on real annotations gives an IoU of 0.995 with OpenCV's region on average.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from lipcore.datasets.fddb import FddbImage, load_fddb, read_entries
from lipcore.errors import DataError, OptionError, UnknownName, short
from lipcore.metrics.intervals import bootstrap_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Kind = Literal["discrete", "continuous"]

KINDS: tuple[Kind, ...] = ("discrete", "continuous")
IOU = 0.5
#: Draws are counted in parts of so many numbers, to bound the memory.
CHUNK = 4_000_000
#: Images of the complete set.
N_IMAGES = 2845


@dataclass(frozen=True, eq=False)
class FddbResult:
    """The two curves, at every distinct score from the highest down.

    Attributes:
        thresholds: (M,) scores, falling.
        false_positives: (M,) numbers over all images.
        discrete: (M,) rate of true positives in 0..1.
        continuous: (M,) the same with IoUs for counts.
        n_faces: annotated faces.
        n_images: images evaluated.
        names: their names, in the order of ``faces``.
        faces: (n_images,) annotated faces of each.
        events: (E, 5) what each image adds as the threshold falls: image, score, change of discrete true positives,
            of continuous ones, of false positives; by falling score.
    """

    thresholds: Floats = field(repr=False)
    false_positives: Floats = field(repr=False)
    discrete: Floats = field(repr=False)
    continuous: Floats = field(repr=False)
    n_faces: int
    n_images: int
    names: tuple[str, ...] = field(repr=False)
    faces: Ints = field(repr=False)
    events: Floats = field(repr=False)

    def rate_at(self, false_positives: float, kind: Kind = "discrete") -> float:
        """The greatest rate of true positives with at most so many false positives in all; 0 where none has."""
        reached = _checked_kind(self, kind)[self.false_positives <= false_positives]
        return float(reached.max(initial=0.0))

    def resampled(self, weights: ArrayLike, false_positives: float, kind: Kind = "discrete") -> Floats:
        """:meth:`rate_at` with images drawn anew, (D,), as a bootstrap needs it.

        Args:
            weights: (D, n_images): how often each image is in each of D draws.
            false_positives: see :meth:`rate_at`.
            kind: which curve.
        """
        _checked_kind(self, kind)
        draws = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        if draws.shape[1] != self.n_images:
            raise ValueError(f"weights have shape {draws.shape}; valid is (D, {self.n_images})")
        rates = []
        for part in np.array_split(draws, -(-draws.shape[0] * max(1, len(self.events)) // CHUNK)):
            found, fp = _accumulate(self.events, part, (KINDS.index(kind), -1))
            reached = np.where(fp <= false_positives, found, 0.0)
            with np.errstate(invalid="ignore"):
                rates.append(reached.max(axis=1, initial=0.0) / (part @ self.faces))
        return np.concatenate(rates)


def evaluate_fddb(predictions: Mapping[str, ArrayLike], images: Sequence[FddbImage]) -> FddbResult:
    """Draws both curves; see the module's docstring for the rules.

    Args:
        predictions: image name -> (K, 5) x, y, w, h, score or (K, 6) major radius, minor radius, angle, centre x,
            centre y, score; pixels and radians, any real score. An image that is left out has none.
        images: the images to evaluate, on their own faces only; predictions for others are an error.

    Raises:
        DataError: predictions of a wrong shape, not finite or for another image; or an image whose size is unknown
            because its file is absent.
    """
    if unknown := sorted(predictions.keys() - {image.name for image in images}):
        raise DataError(f"predictions for {unknown[0]} and {len(unknown) - 1} more that are not among the images")
    overlaps = {}
    for image in images:
        found = _checked(image.name, predictions.get(image.name))
        ious = np.zeros((len(image), 0))
        if len(found):
            ious = region_ious(image.ellipses, found[:, :-1], image.size, image.name)
        overlaps[image.name] = (ious, found[:, -1])
    return evaluate_overlaps(overlaps)


def evaluate_overlaps(images: Mapping[str, tuple[Floats, Floats]]) -> FddbResult:
    """Draws both curves from overlaps that are computed already, as records of attacks keep them.

    Args:
        images: name -> IoU (N, K) of its N faces with its K detections, and their scores (K,).
    """
    events = [np.zeros((0, 5))]
    for i, (ious, scores) in enumerate(images.values()):
        if len(scores):
            changes = _image_events(ious, scores)
            events.append(np.hstack((np.full((len(changes), 1), float(i)), changes)))
    table = np.concatenate(events)
    table = table[np.argsort(-table[:, 1], kind="stable")]
    faces = np.array([len(ious) for ious, _ in images.values()], dtype=np.int64)
    n_faces = int(faces.sum())
    discrete, continuous, fp = _accumulate(table, np.ones(len(images)), (0, 1, -1))
    return FddbResult(
        thresholds=table[_last(table), 1],
        false_positives=fp,
        discrete=discrete / max(n_faces, 1),
        continuous=continuous / max(n_faces, 1),
        n_faces=n_faces,
        n_images=len(images),
        names=tuple(images),
        faces=faces,
        events=table,
    )


def region_ious(ellipses: Floats, found: Floats, size: tuple[int, int], name: str = "the image") -> Floats:
    """IoU (N, K) of annotated ``ellipses`` (N, 5) with detected rectangles (K, 4) xywh or ellipses (K, 5), in pixels.

    Args:
        ellipses: major radius, minor radius, angle, centre x, centre y.
        found: x, y, w, h or an ellipse.
        size: (height, width) of the image, which cuts regions off.
        name: for messages.

    Raises:
        DataError: the image has no size.
    """
    if min(size) < 1:
        raise DataError(f"{name} has no size: its file is absent, so it cannot be evaluated")
    faces = [ellipse_mask(ellipse, size) for ellipse in ellipses]
    overlap = np.zeros((len(faces), len(found)))
    if found.shape[1] == 4:
        x1, y1, x2, y2 = _corners(found, size)
        areas = ((x2 - x1) * (y2 - y1)).astype(np.float64)
        for i, face in enumerate(faces):
            total = np.pad(face.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
            overlap[i] = total[y2, x2] - total[y1, x2] - total[y2, x1] + total[y1, x1]
    else:
        areas = np.zeros(len(found))
        for j, ellipse in enumerate(found):
            mask = ellipse_mask(ellipse, size)
            areas[j] = mask.sum()
            overlap[:, j] = [(face & mask).sum() for face in faces]
    sums = np.array([face.sum() for face in faces], dtype=np.float64)[:, None] + areas[None] - overlap
    return np.divide(overlap, sums, out=np.zeros_like(overlap), where=sums > 0)


def ellipse_mask(ellipse: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H, W) of an ellipse (major radius, minor radius, angle, centre x, centre y); see the module."""
    major, minor, angle, x, y = np.asarray(ellipse, dtype=np.float64).tolist()
    turn = math.radians(round(math.degrees(math.fmod(angle, math.tau) if abs(angle) > 1e3 else angle)))
    down, right = (np.arange(n, dtype=np.float64) for n in size)
    down, right = down[:, None] - float(round(y)), right[None] - float(round(x))
    along = (right * math.cos(turn) + down * math.sin(turn)) / (int(major) + 0.5)
    across = (down * math.cos(turn) - right * math.sin(turn)) / (int(minor) + 0.5)
    with np.errstate(over="ignore"):
        return np.asarray(along**2 + across**2 <= 1)


def read_predictions(path: str | Path, shape: Literal["rectangle", "ellipse"] = "rectangle") -> dict[str, Floats]:
    """Reads detections in the official text format: a file, or a folder with ``fold-<01..10>-out.txt``.

    Returns:
        name -> (K, 5) for rectangles or (K, 6) for ellipses, the score last.

    Raises:
        UnknownName: no such shape.
        DataError: nothing there, a malformed file, or an image in two files.
    """
    columns = _columns(shape)
    path = Path(path)
    files = sorted(path.glob("fold-*-out.txt")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"no detections at {path}; give a file, or a folder with fold-01-out.txt and the like")
    predictions: dict[str, Floats] = {}
    for file in files:
        entries = read_entries(file, (columns,))
        if twice := sorted(entries.keys() & predictions.keys()):
            raise DataError(f"{file}: {twice[0]} is in another file too")
        predictions |= entries
    if not predictions:
        raise DataError(f"{path} is empty; an image without detections has its name and the count 0")
    return predictions


def write_predictions(folder: str | Path, images: Iterable[FddbImage], predictions: Mapping[str, ArrayLike]) -> None:
    """Writes ``fold-<01..10>-out.txt`` with every one of ``images`` in order, as the official program reads them.

    Raises:
        DataError: predictions of a wrong shape or not finite.
    """
    by_fold: dict[int, list[str]] = {}
    for image in images:
        table = _checked(image.name, predictions.get(image.name))
        rows = [" ".join(map(repr, row)) for row in table.tolist()]
        by_fold.setdefault(image.fold, []).extend([image.name, str(len(table)), *rows])
    Path(folder).mkdir(parents=True, exist_ok=True)
    for fold, lines in by_fold.items():
        (Path(folder) / f"fold-{fold:02d}-out.txt").write_text("\n".join(lines) + "\n")


def write_roc(prefix: str | Path, result: FddbResult) -> tuple[Path, Path]:
    """Writes ``<prefix>DiscROC.txt`` (rate, false positives, threshold) and ``<prefix>ContROC.txt`` (without the last).

    By rising threshold, as the official program writes them.
    """
    discrete, continuous = Path(f"{prefix}DiscROC.txt"), Path(f"{prefix}ContROC.txt")
    fp, score = result.false_positives[::-1].tolist(), result.thresholds[::-1].tolist()
    rows = zip(result.discrete[::-1].tolist(), fp, score, strict=True)
    discrete.write_text("".join(f"{rate!r} {n:.0f} {s!r}\n" for rate, n, s in rows))
    rates = zip(result.continuous[::-1].tolist(), fp, strict=True)
    continuous.write_text("".join(f"{rate!r} {n:.0f}\n" for rate, n in rates))
    return discrete, continuous


def evaluate(
    predictions_path: str | Path,
    root: str | Path,
    *,
    shape: Literal["rectangle", "ellipse"] = "rectangle",
    false_positives: Sequence[float] = (1000.0,),
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Evaluates a file or folder of detections on the images of FDDB that are at hand.

    Args:
        predictions_path: see :func:`read_predictions`.
        root: the dataset's folder.
        shape: what a detection is.
        false_positives: where the curves are read, in false positives for the *complete* 2,845 images; on fewer images
            at as many per image.
        draws: of the bootstrap over images, for the 95 % intervals; 0 for none.
        seed: of the bootstrap.

    Returns:
        A row for each point and curve: ``metric`` (``"discrete"``, ``"continuous"``), ``false_positives`` (in all, on
        the images evaluated), ``value``, ``ci_low``, ``ci_high`` (rates in 0..1), ``n`` (faces), ``n_images``,
        ``n_listed``, ``partial``, ``without_predictions`` (images), ``without_image`` (predictions for images that
        are not at hand, left out).

    Raises:
        DataError: see :func:`read_predictions` and :func:`lipcore.datasets.fddb.load_fddb`.
    """
    for limit in false_positives:
        if not 0 <= limit < math.inf:
            raise OptionError(f"{limit:g} false positives cannot be; valid is a number from 0 on")
    data = load_fddb(root)
    names = {image.name for image in data}
    listed = names | {*data.report.absent, *data.report.unannotated}
    predictions = _under_listed_names(predictions_path, read_predictions(predictions_path, shape), listed)
    if not names & predictions.keys():
        raise DataError(
            f"{predictions_path} holds no predictions of the {len(names)} images at hand, but of {len(predictions)} "
            f"others, the first {short(repr(next(iter(predictions))), 80)}; valid are names as the folds list them, "
            f"like {data[0].name}"
        )
    result = evaluate_fddb({name: table for name, table in predictions.items() if name in names}, data)
    weights = bootstrap_weights(result.n_images, draws=draws, seed=seed) if draws else None
    rows: list[dict[str, Any]] = []
    for full in false_positives:
        limit = full * result.n_images / N_IMAGES
        for kind in KINDS:
            low = high = None
            if weights is not None:
                low, high = np.nanquantile(result.resampled(weights, limit, kind), (0.025, 0.975)).tolist()
            rows.append(
                {
                    "metric": kind,
                    "false_positives": limit,
                    "value": result.rate_at(limit, kind),
                    "ci_low": low,
                    "ci_high": high,
                    "n": result.n_faces,
                    "n_images": result.n_images,
                    "n_listed": data.report.listed,
                    "partial": result.n_images < N_IMAGES,
                    "without_predictions": len(names - predictions.keys()),
                    "without_image": len(predictions.keys() - names),
                }
            )
    return rows


def _under_listed_names(path: str | Path, found: Mapping[str, Floats], listed: set[str]) -> dict[str, Floats]:
    """Predictions by the names of the folds, without the ending and the leading folders that programs add."""
    named: dict[str, Floats] = {}
    for name, table in found.items():
        parts = re.sub(r"\.jpe?g$", "", name.replace("\\", "/"), flags=re.IGNORECASE).split("/")
        known = next((end for i in range(len(parts)) if (end := "/".join(parts[i:])) in listed), name)
        if known in named:
            raise DataError(f"{path}: {short(repr(name), 80)} is there twice, as {known}")
        named[known] = table
    return named


def _image_events(ious: Floats, scores: Floats) -> Floats:
    """What one image adds at each of its distinct scores, (E, 4): score and the changes of the three counts."""
    overlapping = (ious > 0).any(axis=0)
    levels = np.unique(scores)[::-1]
    counts = np.zeros((len(levels) + 1, 3))
    for i, level in enumerate(levels, start=1):
        in_play = scores >= level
        if not (overlapping & (scores == level)).any():
            counts[i, :2] = counts[i - 1, :2]  # nothing that could be matched came in
        else:
            part = ious[:, in_play & overlapping]
            matched = part[linear_sum_assignment(part, maximize=True)]
            counts[i, :2] = (matched > IOU).sum(), matched.sum()
        counts[i, 2] = in_play.sum() - counts[i, 0]
    return np.hstack((levels[:, None], np.diff(counts, axis=0)))


def _accumulate(events: Floats, weights: Floats, which: Sequence[int]) -> list[Floats]:
    """The weighted counts down to each distinct score: 0 discrete, 1 continuous, -1 false positives.

    ``weights`` is (n_images,) or (D, n_images), the counts are (T,) or (D, T).
    """
    own = weights[..., events[:, 0].astype(np.int64)]
    return [(own * events[:, 2:][:, i]).cumsum(axis=-1)[..., _last(events)] for i in which]


def _last(events: Floats) -> Flags:
    """Which events are the last of their score."""
    scores = events[:, 1]
    return np.append(scores[1:] != scores[:-1], np.ones(min(len(scores), 1), dtype=np.bool_))


def _corners(boxes: Floats, size: tuple[int, int]) -> tuple[Ints, Ints, Ints, Ints]:
    """Rectangles (K, 4) xywh as half-open pixel ranges within the image: x1, y1, x2, y2, each (K,)."""
    with np.errstate(over="ignore"):  # a box may be as large as a float can be
        edges = np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
    first, last = np.hsplit(np.rint(edges).clip(-(2**31), 2**31).astype(np.int64), 2)
    height, width = size
    low, high = np.minimum(first, last), np.maximum(first, last) + 1
    x1, x2 = (edge[:, 0].clip(0, width) for edge in (low, high))
    y1, y2 = (edge[:, 1].clip(0, height) for edge in (low, high))
    return x1, y1, x2, y2


def _columns(shape: str) -> int:
    if shape not in ("rectangle", "ellipse"):
        raise UnknownName("shape of detections", shape, ("rectangle", "ellipse"))
    return 5 if shape == "rectangle" else 6


def _checked_kind(result: FddbResult, kind: str) -> Floats:
    if kind not in KINDS:
        raise UnknownName("curve", kind, KINDS)
    return result.discrete if kind == "discrete" else result.continuous


def _checked(name: str, value: ArrayLike | None) -> Floats:
    table = np.zeros((0, 5)) if value is None else np.asarray(value, dtype=np.float64)
    if table.size == 0:
        return np.zeros((0, 5))
    if table.ndim != 2 or table.shape[1] not in (5, 6):
        raise DataError(f"predictions of {name} have shape {table.shape}; valid is (K, 5) or (K, 6), the score last")
    if not np.isfinite(table).all():
        raise DataError(f"predictions of {name} hold NaN or infinity; every number must be finite")
    return table
