"""LIP-W and LIP-V: what can be done with the instances' gradients apart, as written down before they were run.

With g_i the gradient of face i's loss, C_i the mask of its e_i, and f_i the highest logit among its targets:

* LIP-W: R = sum_i w_i C_i g_i / |C_i g_i|_1 with w_i = max(0, f_i + 1); all w_i = 1 where every face is hidden.
* LIP-V: in each pixel the gradient of the one face whose centre is nearest, of those whose e_i it lies in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lipcore.attacks.crop import Support
from lipcore.attacks.gradients import EXACT, Forward, Shortcut, cropped_sum, forward, loss
from lipcore.attacks.presets import Perturbation
from lipcore.detectors.base import Detector

#: So far below the threshold, in logits, a face is hidden for good and has no vote.
MARGIN = 1.0


@dataclass(frozen=True, kw_only=True)
class Weighted(Perturbation):
    """LIP-W: votes by how far each face is from its threshold, whatever the size of its gradient."""

    @torch.enable_grad()
    def direction(
        self,
        detector: Detector,
        image: Tensor,
        targets: Sequence[Tensor],
        supports: Sequence[Support],
        generator: torch.Generator,
        shortcut: Shortcut = EXACT,
        recorded: Forward | None = None,
    ) -> Tensor:
        """R of LIP-W, one backward pass for each face that has a vote; see :meth:`Perturbation.direction`."""
        recorded = recorded or forward(detector, image)
        logits = recorded.responses.logits[0]
        weights = votes([float(logits[own].detach().max()) for own in targets])
        total = torch.zeros_like(image, requires_grad=False)
        for own, support, weight in zip(targets, supports, weights, strict=True):
            if weight == 0:
                continue
            (gradient,) = torch.autograd.grad(loss(logits[own]), recorded.image, retain_graph=True)
            cropped = gradient[..., support.rows, support.cols] * support.mask
            total[..., support.rows, support.cols] += weight * cropped / cropped.abs().sum().clamp_min(1e-30)
        return total


def votes(highest: Sequence[float]) -> list[float]:
    """w_i from f_i, the highest logit of each face."""
    weights = [max(0.0, f + MARGIN) for f in highest]
    return weights if any(weights) else [1.0] * len(weights)


@dataclass(frozen=True, kw_only=True)
class Owned(Perturbation):
    """LIP-V: each pixel belongs to one face."""

    def direction(
        self,
        detector: Detector,
        image: Tensor,
        targets: Sequence[Tensor],
        supports: Sequence[Support],
        generator: torch.Generator,
        shortcut: Shortcut = EXACT,
        recorded: Forward | None = None,
    ) -> Tensor:
        """R of LIP-V; see :meth:`Perturbation.direction`."""
        return cropped_sum(detector, image, targets, owned(supports, image), shortcut, recorded)


def owned(supports: Sequence[Support], image: Tensor) -> list[Support]:
    """The supports without the pixels whose nearest centre is another's; of equals the first has it.

    A support's centre is that of its window. Every pixel of the union is in exactly one of the new masks.
    """
    nearest = torch.full(image.shape[-2:], float("inf"), device=image.device)
    owner = torch.full(image.shape[-2:], -1, dtype=torch.long, device=image.device)
    for i, s in enumerate(supports):
        height, width = s.mask.shape
        y = torch.arange(height, device=image.device) - (height - 1) / 2
        x = torch.arange(width, device=image.device) - (width - 1) / 2
        distance = torch.where(s.mask, (y[:, None] ** 2 + x[None] ** 2).sqrt(), torch.inf)
        closer = distance < nearest[s.rows, s.cols]
        nearest[s.rows, s.cols] = torch.where(closer, distance, nearest[s.rows, s.cols])
        owner[s.rows, s.cols] = torch.where(closer, i, owner[s.rows, s.cols])
    return [Support(s.top, s.left, owner[s.rows, s.cols] == i) for i, s in enumerate(supports)]


def _separate(kind: type[Perturbation], name: str) -> Perturbation:
    return kind(name=name, loss="instances", crop="erf", instances="separate")


LIP_W = cast(Weighted, _separate(Weighted, "lip-w"))
LIP_V = cast(Owned, _separate(Owned, "lip-v"))
