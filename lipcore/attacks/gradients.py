"""Gradients of the loss toward label -1, L(f, -1) = log(1 + exp(f)) = softplus(f), with respect to the image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcore.attacks.crop import Support
from lipcore.attacks.windowed import Graph
from lipcore.detectors.base import Detector, Responses
from lipcore.errors import LipcoreWarning
from lipcore.graph.rules import UnsupportedOperation


def loss(logits: Tensor) -> Tensor:
    """HR's logistic loss toward "no face", summed over the responses given; the attack descends it."""
    return F.softplus(logits).sum()


@dataclass(frozen=True)
class Forward:
    """A forward pass as torch recorded it: gradients can be taken of it, once.

    Attributes:
        image: (1, 3, H, W), the leaf that the responses depend on.
        responses: the response map of ``image``.
    """

    image: Tensor
    responses: Responses


@torch.enable_grad()
def forward(detector: Detector, image: Tensor) -> Forward:
    """The recorded forward pass of ``image`` (1, 3, H, W)."""
    image = image.detach().requires_grad_()
    return Forward(image, detector(image))


@torch.enable_grad()
def joint_gradient(
    detector: Detector, image: Tensor, targets: Tensor | None = None, recorded: Forward | None = None
) -> Tensor:
    """The gradient of the summed loss of ``targets``, one forward and one backward pass.

    Args:
        detector: the detector under attack.
        image: (1, 3, H, W).
        targets: (T,) long, response indices; None for every response of the image.
        recorded: the forward pass of ``image``, where it is at hand.

    Returns:
        (1, 3, H, W).
    """
    recorded = recorded or forward(detector, image)
    logits = recorded.responses.logits[0]
    (gradient,) = torch.autograd.grad(loss(logits if targets is None else logits[targets]), recorded.image)
    return gradient


@dataclass(frozen=True)
class Shortcut:
    """What LIP's windows leave out to be cheaper; see :meth:`lipcore.attacks.windowed.Graph.cropped_sum`.

    Attributes:
        stride: from the maps of this stride down, the instances are swept together; 0: never.
        margin: places further than this from e_i, in pixels, are left out.
        leak: what that changed where it was measured, as a share of the exact direction: |R' - R|_1 / |R|_1.
    """

    stride: float = 0.0
    margin: float = math.inf
    leak: float = 0.0


EXACT = Shortcut()
#: Margins in pixels that :func:`find_shortcut` tries at each stride.
MARGINS = (0.0, 32.0)


@torch.enable_grad()
def cropped_sum(
    detector: Detector,
    image: Tensor,
    targets: Sequence[Tensor],
    supports: Sequence[Support],
    shortcut: Shortcut = EXACT,
    recorded: Forward | None = None,
) -> Tensor:
    """LIP's direction R = sum_i C_ei * grad L_mi: one forward pass, and backward passes over windows.

    The windows give what :func:`cropped_sum_naive` gives (see :mod:`lipcore.attacks.windowed`). A detector with an
    operation they do not support gets the naive loop, and a warning that says which operation it is.

    Args:
        detector: the detector under attack.
        image: (1, 3, H, W).
        targets: for each instance its response indices (T_i,).
        supports: for each instance e_i.
        shortcut: what to leave out; by default nothing.
        recorded: the forward pass of ``image``, where it is at hand.

    Returns:
        (1, 3, H, W).
    """
    recorded = recorded or forward(detector, image)
    image, logits = recorded.image, recorded.responses.logits[0]
    try:
        graph = Graph(logits, image)
    except UnsupportedOperation as error:
        said = f"{detector.name}: {error}. LIP takes one backward pass per instance"
        warnings.warn(said, LipcoreWarning, stacklevel=2)
        return _looped(logits, image, targets, supports)
    with torch.no_grad():
        return graph.cropped_sum(targets, supports, shortcut.stride, shortcut.margin)


@torch.enable_grad()
def find_shortcut(
    detector: Detector, image: Tensor, targets: Sequence[Tensor], supports: Sequence[Support], tolerance: float
) -> Shortcut:
    """The boldest shortcut whose leak on this image is at most ``tolerance``, from the coarsest stride to the finest.

    It costs one exact step and a few cheap ones, so it pays over several steps.

    Args:
        detector, image, targets, supports: see :func:`cropped_sum`.
        tolerance: share of the direction's absolute mass, >= 0.

    Returns:
        The shortcut with its leak; :data:`EXACT` where none leaks so little or saves work, or the detector has no
        windows.
    """
    image = image.detach().requires_grad_()
    try:
        graph = Graph(detector(image).logits[0], image)
    except UnsupportedOperation:
        return EXACT
    with torch.no_grad():
        exact = graph.cropped_sum(targets, supports)
        effort = _effort(graph)
        for stride in [*reversed(graph.strides), 0.0]:
            for margin in MARGINS:
                changed = graph.cropped_sum(targets, supports, stride, margin) - exact
                leak = float(changed.abs().sum() / exact.abs().sum().clamp_min(1e-30))
                if leak <= tolerance and _effort(graph) < effort:
                    return Shortcut(stride, margin, leak)
    return EXACT


def _effort(graph: Graph) -> int:
    """Multiplications and additions of the last sum's convolutions."""
    return sum(work.area * work.macs for work in graph.work)


@torch.enable_grad()
def cropped_sum_naive(
    detector: Detector, image: Tensor, targets: Sequence[Tensor], supports: Sequence[Support]
) -> Tensor:
    """LIP's direction as the poster writes it: one whole backward pass for each instance.

    Arguments and result are those of :func:`cropped_sum`.
    """
    image = image.detach().requires_grad_()
    return _looped(detector(image).logits[0], image, targets, supports)


def _looped(logits: Tensor, image: Tensor, targets: Sequence[Tensor], supports: Sequence[Support]) -> Tensor:
    direction = torch.zeros_like(image)
    for own, support in zip(targets, supports, strict=True):
        (gradient,) = torch.autograd.grad(loss(logits[own]), image, retain_graph=True)
        direction[..., support.rows, support.cols] += gradient[..., support.rows, support.cols] * support.mask
    return direction
