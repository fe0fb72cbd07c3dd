"""Instances and their targets: which responses stand for which face, and which pixels e_i may touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcore.boxes import iou_matrix
from lipcore.detectors.base import Detector, Responses


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How proposals become an instance's targets (assumptions A10, A11 and A12).

    Attributes:
        tau_attack: probability a clean detection needs to be attacked, in (0, 1].
        tau_target: probability a proposal needs to be a target, in [0, 1].
        iou: overlap with the instance a target needs, in (0, 1].
        rematch: match the targets again at each step, on the image as it then is, instead of once on the clean image.
    """

    tau_attack: float = 0.5
    tau_target: float = 0.03
    iou: float = 0.5
    rematch: bool = False

    def __post_init__(self) -> None:
        for field in ("tau_attack", "tau_target", "iou"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} is {getattr(self, field)}; valid is a number in 0..1")


@dataclass(frozen=True)
class Instance:
    """One face m_i to attack, found without ground truth.

    Attributes:
        box: (4,) clean box, xyxy in pixels.
        score: clean probability, in [0, 1].
        targets: (T,) long, T >= 1: the responses T_i that stand for it, highest clean score first.
    """

    box: Tensor
    score: float
    targets: Tensor


@dataclass(frozen=True)
class Support:
    """The pixels of e_i: a window of the image and a mask inside it (C_ei is 1 there, 0 elsewhere).

    Attributes:
        top, left: the window's first row and column.
        mask: (h, w) bool.
    """

    top: int
    left: int
    mask: Tensor

    @property
    def rows(self) -> slice:
        """The window's rows, to index an image."""
        return slice(self.top, self.top + self.mask.shape[0])

    @property
    def cols(self) -> slice:
        """The window's columns, to index an image."""
        return slice(self.left, self.left + self.mask.shape[1])


def find_instances(detector: Detector, responses: Responses, matching: Matching) -> list[Instance]:
    """The instances of one clean image, best first (science: "instance" and "targets").

    Args:
        detector: gives threshold and NMS.
        responses: its response map of one image (B = 1).
        matching: the thresholds.

    Returns:
        One :class:`Instance` per post-NMS detection with probability >= ``tau_attack``; [] where there is none.
    """
    detections = detector.select(responses, matching.tau_attack)[0]
    targets = match_targets(responses, detections.boxes, matching)
    return [
        Instance(box, float(score), own if len(own) else response[None])
        for box, score, response, own in zip(
            detections.boxes, detections.scores, detections.responses, targets, strict=True
        )
    ]


def match_targets(responses: Responses, boxes: Tensor, matching: Matching) -> list[Tensor]:
    """For each box, the proposals that stand for it, highest score first.

    Every proposal with probability >= ``tau_target`` goes to the one box that it overlaps most, if by at least ``iou``.

    Args:
        responses: the response map of one image (B = 1).
        boxes: (N, 4) xyxy in pixels.
        matching: the thresholds.
    """
    if len(boxes) == 0:
        return []
    scores = responses.logits[0].detach().sigmoid()
    candidates = (scores >= matching.tau_target).nonzero()[:, 0]
    candidates = candidates[torch.argsort(scores[candidates], descending=True, stable=True)]
    # In chunks: on a weak detector both the candidates and the boxes can be thousands.
    found = [iou_matrix(responses.boxes[0, chunk], boxes).max(dim=1) for chunk in torch.split(candidates, 1024)]
    overlap, best = (torch.cat(parts) for parts in zip(*found, strict=True))
    return [candidates[(best == i) & (overlap >= matching.iou)] for i in range(len(boxes))]


def squares(centres: Tensor, sides: Sequence[int], height: int, width: int) -> Support:
    """The union of centred squares, clipped to the image.

    Args:
        centres: (T, 2) x, y in pixels (a pixel's own centre is at its index + 0.5).
        sides: T sides in pixels.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        ValueError: a side that is not positive.
    """
    if min(sides) <= 0:
        raise ValueError(f"the sides of e_i are {sorted(set(sides))}; valid are positive numbers of pixels")
    side = torch.tensor(sides, dtype=torch.float64)
    corner = (centres.cpu().double() - side[:, None] / 2).round().long()
    limit = torch.tensor([width, height])
    first = torch.minimum(corner.clamp_min(0), limit - 1)
    last = torch.maximum(torch.minimum(corner + side[:, None].long(), limit), first + 1)
    left, top = first.amin(0).tolist()
    right, bottom = last.amax(0).tolist()
    mask = torch.zeros(bottom - top, right - left, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(first.tolist(), last.tolist(), strict=True):
        mask[y0 - top : y1 - top, x0 - left : x1 - left] = True
    return Support(top, left, mask.to(centres.device))


def whole_image(height: int, width: int, device: torch.device | None = None) -> Support:
    """The support that crops nothing."""
    return Support(0, 0, torch.ones(height, width, dtype=torch.bool, device=device))


def union(supports: Sequence[Support], image: Tensor) -> Tensor:
    """The 0/1 mask (H, W) of all e_i together, in the image's dtype."""
    mask = torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
    for support in supports:
        mask[support.rows, support.cols] |= support.mask
    return mask.to(image.dtype)
