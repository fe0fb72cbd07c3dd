"""Images, faces and predictions that tests of WIDER FACE's average precision are made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipcore.datasets.wider import SUBSETS, ImageKey, WiderGroundTruth

A, B, C = ("0--A", "a"), ("0--A", "b"), ("1--C", "c")


FACE, FAR, THIRD = (0, 0, 19, 19), (100, 100, 19, 19), (200, 0, 19, 19)  # x, y, w, h, far apart


def truth(faces: Mapping[ImageKey, ArrayLike], kept: Mapping[ImageKey, list[bool]] | None = None) -> WiderGroundTruth:
    """Ground truth from x, y, w, h; every face counts unless said otherwise."""
    boxes = {key: np.array(value, dtype=float).reshape(-1, 4) for key, value in faces.items()}
    boxes = {key: np.hstack((box[:, :2], box[:, :2] + box[:, 2:])) for key, box in boxes.items()}
    flags = {key: np.array((kept or {}).get(key, [True] * len(box)), dtype=bool) for key, box in boxes.items()}
    return WiderGroundTruth(boxes, dict.fromkeys(SUBSETS, flags), frozenset(boxes))


def scored(*rows: tuple[tuple[float, float, float, float], float]) -> NDArray[np.float64]:
    """Predictions (K, 5) from boxes and scores."""
    return np.array([(*box, score) for box, score in rows], dtype=float).reshape(-1, 5)
