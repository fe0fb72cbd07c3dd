"""Box arithmetic shared by detectors, attacks and metrics.

Boxes are float tensors in pixels, ``(x1, y1, x2, y2)``, the origin at the image's top left corner.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: So many boxes are compared with one another at a time.
CHUNK = 512


def areas(boxes: Tensor, offset: float = 0.0) -> Tensor:
    """Areas of ``boxes`` (N, 4) in square pixels, shape (N,); degenerate boxes have area 0.

    ``offset`` is added to every width and height: 0 for continuous coordinates, 1 for the inclusive pixel
    convention of the WIDER FACE tool and of HR.
    """
    sides = (boxes[:, 2:] - boxes[:, :2] + offset).clamp_min(0)
    return sides[:, 0] * sides[:, 1]


def iou_matrix(a: Tensor, b: Tensor, offset: float = 0.0) -> Tensor:
    """Intersection over union of every box of ``a`` (N, 4) with every box of ``b`` (M, 4), shape (N, M), in [0, 1]."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = (bottom_right - top_left + offset).clamp_min(0)
    intersection = sides[..., 0] * sides[..., 1]
    union = areas(a, offset)[:, None] + areas(b, offset)[None, :] - intersection
    return torch.where(union > 0, intersection / union.clamp_min(1e-12), torch.zeros_like(union))


def nearest_gaps(boxes: Tensor) -> Tensor:
    """Pixels between each of ``boxes`` (N, 4) and its nearest neighbour, shape (N,).

    Two boxes' gap is the larger of their gaps along x and along y, as between cells of a grid, and 0 where they touch
    or overlap. A single box has an infinite one.
    """
    if len(boxes) < 2:
        return boxes.new_full((len(boxes),), torch.inf)
    before, after = boxes[:, None, :2] - boxes[None, :, 2:], boxes[None, :, :2] - boxes[:, None, 2:]
    return torch.maximum(before, after).amax(-1).clamp_min(0).fill_diagonal_(torch.inf).amin(1)


def nms(boxes: Tensor, scores: Tensor, iou: float, offset: float = 0.0) -> Tensor:
    """Greedy non-maximum suppression.

    Keeps the best box, drops those whose IoU with it is above ``iou``, and goes on with the best one left. Equal
    scores are taken in the order given, so the result does not depend on the machine.

    Args:
        boxes: (N, 4) pixels.
        scores: (N,), any real scores.
        iou: threshold in [0, 1].
        offset: see :func:`areas`.

    Returns:
        Indices (K,) of the kept boxes, best first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    kept = order[:0]
    for chunk in torch.split(order, CHUNK):  # the matrices of whole lists could be too large
        free = (iou_matrix(boxes[chunk], boxes[kept], offset) <= iou).all(dim=1)
        left = chunk[free]
        near = ~(iou_matrix(boxes[left], boxes[left], offset) <= iou).cpu().numpy()
        alive = np.ones(len(left), dtype=np.bool_)
        for i in range(len(left)):
            if alive[i]:
                alive[i + 1 :] &= ~near[i, i + 1 :]
        kept = torch.cat((kept, left[torch.from_numpy(alive).to(left.device)]))
    return kept
