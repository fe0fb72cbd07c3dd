"""Instances and their targets: which responses stand for which face."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcore.boxes import iou_matrix
from lipcore.detectors.base import Detector, Responses
from lipcore.errors import OptionError


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
                raise OptionError(f"{field} is {getattr(self, field)}; valid is a number in 0..1")


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
