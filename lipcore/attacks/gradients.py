"""Gradients of the loss toward label -1, L(f, -1) = log(1 + exp(f)) = softplus(f), with respect to the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcore.attacks.targets import Support
from lipcore.detectors.base import Detector


def loss(logits: Tensor) -> Tensor:
    """HR's logistic loss toward "no face", summed over the responses given; the attack descends it."""
    return F.softplus(logits).sum()


@torch.enable_grad()
def joint_gradient(detector: Detector, image: Tensor, targets: Tensor | None = None) -> Tensor:
    """The gradient of the summed loss of ``targets``, one forward and one backward pass.

    Args:
        detector: the detector under attack.
        image: (1, 3, H, W).
        targets: (T,) long, response indices; None for every response of the image.

    Returns:
        (1, 3, H, W).
    """
    image = image.detach().requires_grad_()
    logits = detector(image).logits[0]
    (gradient,) = torch.autograd.grad(loss(logits if targets is None else logits[targets]), image)
    return gradient


@torch.enable_grad()
def cropped_sum(detector: Detector, image: Tensor, targets: Sequence[Tensor], supports: Sequence[Support]) -> Tensor:
    """LIP's direction R = sum_i C_ei * grad L_mi, as the poster writes it.

    One forward pass, and one backward pass for each instance.

    Args:
        detector: the detector under attack.
        image: (1, 3, H, W).
        targets: for each instance its response indices (T_i,).
        supports: for each instance e_i.

    Returns:
        (1, 3, H, W).
    """
    image = image.detach().requires_grad_()
    logits = detector(image).logits[0]
    direction = torch.zeros_like(image)
    for own, support in zip(targets, supports, strict=True):
        (gradient,) = torch.autograd.grad(loss(logits[own]), image, retain_graph=True)
        direction[..., support.rows, support.cols] += gradient[..., support.rows, support.cols] * support.mask
    return direction
