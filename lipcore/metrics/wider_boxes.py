"""Which face a detection takes on WIDER FACE: overlaps of inclusive pixels, and the official tool's arithmetic.

The official lists hold int32 boxes. In MATLAB an int32 with a double gives an int32, rounded half away from zero, so
the tool rounds the corners of the intersection and the area of the union; their quotient it does not round. A detection
at x = 3.4 takes a face 0 0 9 9 with 70 / 130, where floating point has 66 / 134: on the whole of val that moves AP by
up to 9e-4. Lists of doubles, such as those of generated crowds, are computed in floating point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IOU = 0.5
_INT32 = np.iinfo(np.int32)


def iou_plus_one(a: Floats, b: Floats, *, whole: bool = False) -> Floats:
    """IoU (N, M) of boxes (N, 4) and (M, 4), xyxy, counting both border pixels: sides are x2 - x1 + 1.

    Args:
        a: detections.
        b: faces.
        whole: with the tool's integers, as it computes where its lists hold ``b`` as int32.
    """
    rounded = to_int32 if whole else np.asarray
    with np.errstate(over="ignore", invalid="ignore"):  # a box may be as large as a float can be
        return _iou_plus_one(a, b, rounded)


def _iou_plus_one(a: Floats, b: Floats, rounded: Callable[[Floats], Floats]) -> Floats:
    top_left = rounded(np.maximum(a[:, None, :2], b[None, :, :2]))
    bottom_right = rounded(np.minimum(a[:, None, 2:], b[None, :, 2:]))
    sides = bottom_right - top_left + 1
    overlap = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], 0.0)
    area_a, area_b = ((x[:, 2] - x[:, 0] + 1) * (x[:, 3] - x[:, 1] + 1) for x in (a, b))
    union = rounded(area_a[:, None] + area_b[None]) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def best_face(overlap: Floats) -> Ints:
    """(N,) for each detection the face that it overlaps most, the first of equals; -1 below IoU 0.5."""
    if not overlap.size:
        return np.full(len(overlap), -1, dtype=np.int64)
    best = overlap.argmax(axis=1)
    return np.where(overlap[np.arange(len(overlap)), best] >= IOU, best, -1)


def to_int32(values: Floats) -> Floats:
    """Whole numbers as MATLAB's int32 has them: rounded half away from zero, kept within its range."""
    cut = np.trunc(values)
    whole: Floats = np.clip(cut + np.sign(values) * (np.abs(values - cut) >= 0.5), _INT32.min, _INT32.max)
    return whole
