"""HR's training signal: which response should say what, which of them count, and the two losses.

Hu & Ramanan 2017, sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lipcore.detectors.hr_mini import STRIDE
from lipcore.training.widerface_train import Crop, Floats


@dataclass(frozen=True)
class Targets:
    """What the responses of one image should say; N cells row by row, T templates, P positive responses.

    Attributes:
        labels: (N, T) int8: 1 face, 0 background, -1 does not count.
        regression: (P, 4) tx, ty, tw, th of the positive responses toward their faces, in the labels' order.
    """

    labels: NDArray[np.int8]
    regression: NDArray[np.float32]


def make_targets(crop: Crop, templates: Floats, positive: float, negative: float) -> Targets:
    """Labels by IoU of the templates, undecoded, with the faces; overlaps are products of those of rows and columns.

    Background is not learnt where a response overlaps an ignored place or is centred on one.

    Args:
        crop: its faces and ignored places.
        templates: (T, 2) pixels.
        positive, negative: see :class:`lipcore.training.hr_mini.TrainConfig`.
    """
    rows, cols = (n // STRIDE for n in crop.pixels.shape[:2])
    centres = [(np.arange(n) + 0.5) * STRIDE for n in (cols, rows)]
    count = len(templates)

    def overlaps(boxes: Floats) -> Floats:
        x, y = (
            np.minimum(c[:, None, None] + templates[:, i, None] / 2, boxes[:, i + 2])
            - np.maximum(c[:, None, None] - templates[:, i, None] / 2, boxes[:, i])
            for i, c in enumerate(centres)
        )
        inter = np.maximum(y, 0)[:, None] * np.maximum(x, 0)[None]
        union = templates.prod(axis=1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - inter
        return np.asarray((inter / union).reshape(rows * cols * count, -1))

    labels = np.zeros(rows * cols * count, np.int8)
    centre = np.stack(np.broadcast_arrays(centres[0][None], centres[1][:, None]), axis=-1).reshape(-1, 2)
    if len(crop.ignored):
        after, before = (centre[:, None] >= crop.ignored[:, :2]), (centre[:, None] <= crop.ignored[:, 2:])
        inside = np.any(np.all(after & before, axis=2), axis=1)
        labels[(overlaps(crop.ignored).max(axis=1) > 0.1) | inside.repeat(count)] = -1
    owner = np.zeros(len(labels), np.int64)
    if len(crop.faces):
        overlap = overlaps(crop.faces)
        owner = overlap.argmax(axis=1)
        best = overlap[np.arange(len(overlap)), owner]
        labels[best >= negative] = -1
        labels[best >= positive] = 1
        where = overlap.argmax(axis=0)
        top = overlap[where, np.arange(len(where))]
        lonely = np.flatnonzero((top > 0.3) & (top < positive))
        labels[where[lonely]] = 1
        owner[where[lonely]] = lonely
    chosen = np.flatnonzero(labels == 1)
    face = crop.faces[owner[chosen]] if len(chosen) else np.empty((0, 4))
    template = templates[chosen % count]
    shift = ((face[:, :2] + face[:, 2:]) / 2 - centre[chosen // count]) / template
    scale = np.log((face[:, 2:] - face[:, :2]) / template)
    return Targets(labels.reshape(-1, count), np.concatenate((shift, scale), axis=1).astype(np.float32))


def sample(labels: Tensor, losses: Tensor, samples: int, easy: float, generator: torch.Generator) -> Tensor:
    """Which responses of one image count: hard ones, a random half of ``samples`` of each kind. Bool, shaped alike."""
    counted = torch.zeros_like(labels, dtype=torch.bool).flatten()
    for label in (1, 0):
        hard = ((labels == label) & (losses >= easy)).flatten().nonzero()[:, 0]
        if len(hard) > samples // 2:
            order = torch.randperm(len(hard), generator=generator)[: samples // 2]
            hard = hard[order.to(hard.device)]
        counted[hard] = True
    return counted.reshape(labels.shape)


def sampled_loss(
    logits: Tensor, regression: Tensor, targets: list[Targets], samples: int, easy: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logistic loss per counted response, and Huber loss per positive.

    Args:
        logits: (B, ...), for each image shaped as its labels.
        regression: (B, ..., 4).
        targets: of each image.
        samples, easy, generator: see :func:`sample`.
    """
    labels = torch.from_numpy(np.stack([t.labels for t in targets])).to(logits.device)
    losses = F.softplus(torch.where(labels == 1, -logits, logits))  # log(1 + exp(-y f)), y in {1, -1}
    with torch.no_grad():
        counted = torch.stack([sample(y, x, samples, easy, generator) for y, x in zip(labels, losses, strict=True)])
        positive = labels == 1
        wanted = torch.from_numpy(np.concatenate([t.regression for t in targets])).to(logits.device)
    score = losses[counted].sum() / counted.sum().clamp_min(1)
    box = F.smooth_l1_loss(regression[positive], wanted, reduction="sum", beta=0.1) / max(1, 4 * len(wanted))
    return score, box


def split_scores(scores: Tensor) -> tuple[Tensor, Tensor]:
    """HR's maps (B, 5 T, rows, cols) as logits (B, N, T) and box numbers (B, N, T, 4), N cells row by row."""
    count = scores.shape[1] // 5
    maps = scores.float().permute(0, 2, 3, 1).reshape(len(scores), -1, 5, count)
    return maps[:, :, 0], maps[:, :, 1:].transpose(2, 3)
