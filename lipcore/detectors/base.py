"""The contract that every detector keeps, and the only thing attacks know about one.

A single-stage detector scores every place of an image in one pass. Here that pass is ``detector(images) ->
Responses``: all logits with the boxes they stand for, before any threshold. :meth:`Detector.detect` does what a user
of the detector would do with them: threshold, then non-maximum suppression.

To add a detector, write one file with a subclass that implements :meth:`Detector.respond`, and add one line to
``lipcore.detectors.REGISTRY``; or pass ``"package.module:factory"`` to :func:`lipcore.detectors.load_detector`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcore.boxes import nms
from lipcore.errors import ImageError


@dataclass(frozen=True)
class Responses:
    """The response map: every candidate ("proposal") a detector scores in one pass.

    Attributes:
        logits: (B, A) face logits; the probability is their sigmoid. Differentiable with respect to the images. For a
            two-class softmax head this is z_face - z_background.
        boxes: (B, A, 4) decoded boxes, xyxy in pixels of the input image; no gradient.
        centres: (A, 2) x, y in pixels: the centre of each response's receptive field.
        templates: (A,) long: the index of each response's template in ``Detector.templates``.
    """

    logits: Tensor
    boxes: Tensor
    centres: Tensor
    templates: Tensor


@dataclass(frozen=True)
class Detections:
    """Detections of one image after threshold and NMS, best first.

    Attributes:
        boxes: (K, 4) xyxy in pixels.
        scores: (K,) probabilities in [0, 1].
        responses: (K,) long: the response each detection came from.
    """

    boxes: Tensor
    scores: Tensor
    responses: Tensor

    def __len__(self) -> int:
        return int(self.scores.numel())


class Detector(nn.Module, ABC):
    """A frozen single-stage detector.

    Attributes:
        name: the registry name.
        templates: names of the templates; most detectors have one. ERFs are measured per template.
        nms_iou: IoU above which the weaker of two detections is suppressed.
        min_side: the smallest image side, in pixels, that the detector accepts.
        weights_sha256: digest of the file the weights came from; part of every result's provenance.
    """

    name: str = "detector"
    templates: tuple[str, ...] = ("face",)
    nms_iou: float = 0.3
    min_side: int = 16
    weights_sha256: str = ""

    @abstractmethod
    def respond(self, images: Tensor) -> Responses:
        """The response map of checked ``images`` (B, 3, H, W); normalising and padding are done here."""

    def forward(self, images: Tensor) -> Responses:
        """The response map of ``images``.

        Args:
            images: (B, 3, H, W) float RGB in 0..255, any H and W of at least ``min_side``.

        Raises:
            ImageError: wrong type, shape, range, a NaN, or an image too small.
        """
        check_images(images, min_side=self.min_side)
        return self.respond(images)

    def freeze(self) -> Detector:
        """Evaluation mode and no parameter gradients; a detector is handed out only so. Returns itself."""
        self.eval()
        self.requires_grad_(False)
        return self

    @torch.no_grad()
    def detect(self, images: Tensor, threshold: float = 0.5) -> list[Detections]:
        """Detections with probability >= ``threshold`` (in [0, 1]), one :class:`Detections` per image of the batch."""
        return self.select(self(images), threshold)

    def select(self, responses: Responses, threshold: float = 0.5) -> list[Detections]:
        """Threshold and NMS on a response map that is at hand already."""
        found = []
        for logits, boxes in zip(responses.logits.detach(), responses.boxes, strict=True):
            scores = logits.sigmoid()
            candidates = (scores >= threshold).nonzero()[:, 0]
            kept = candidates[self.suppress(boxes[candidates], logits[candidates])]
            found.append(Detections(boxes[kept], scores[kept], kept))
        return found

    def suppress(self, boxes: Tensor, logits: Tensor) -> Tensor:
        """NMS as this detector's authors do it: indices kept, best first."""
        return nms(boxes, logits, self.nms_iou)

    def extra_repr(self) -> str:
        return f"name={self.name!r}, templates={len(self.templates)}, nms_iou={self.nms_iou}"


def check_images(images: object, *, min_side: int = 1) -> None:
    """Refuse what is not a batch of images.

    Raises:
        ImageError: ``images`` is not a float tensor (B, 3, H, W) with finite values in 0..255 and sides of at least
            ``min_side`` pixels. The message says which.
    """
    valid = "valid is a float tensor (B, 3, H, W), RGB in 0..255"
    if not isinstance(images, Tensor):
        raise ImageError(f"images are a {type(images).__name__}; {valid} (lipcore.images.load_image reads a photo)")
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
        raise ImageError(f"images have shape {tuple(images.shape)}; {valid}")
    if not images.is_floating_point():
        raise ImageError(f"images have dtype {images.dtype}; {valid} (call .float(), do not divide by 255)")
    if min(images.shape[2:]) < min_side:
        height, width = images.shape[2:]
        raise ImageError(f"images are {width} x {height} px; this detector needs sides of at least {min_side} px")
    low, high = torch.aminmax(images.detach())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ImageError(f"images hold NaN or infinite values; {valid}")
    if low < 0 or high > 255:
        raise ImageError(f"images range over {low:.4g}..{high:.4g}; {valid}")
