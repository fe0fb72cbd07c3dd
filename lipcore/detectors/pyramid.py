"""An image pyramid around any detector: one response map made of the response maps at several scales (A8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcore.detectors.base import Detector, Responses
from lipcore.errors import OptionError


class Pyramid(Detector):
    """A detector run at several scales of the image, its detections suppressed over all of them together.

    Boxes and centres are in pixels of the original image; a template at a scale is a template of its own, since its
    receptive field differs.

    Args:
        detector: what to run.
        scales: factors the image is resized by, each > 0.

    Raises:
        OptionError: no scale, or one that is not positive.
    """

    def __init__(self, detector: Detector, scales: Sequence[float] = (0.5, 1.0, 2.0)) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise OptionError(f"scales are {tuple(scales)}; valid are positive factors, at least one")
        self.detector = detector
        self.scales = tuple(float(s) for s in scales)
        self.name = f"{detector.name}-pyramid"
        self.templates = tuple(f"{t} at {s:g}" for s in self.scales for t in detector.templates)
        self.nms_iou, self.threshold = detector.nms_iou, detector.threshold
        self.min_side = int(detector.min_side / min(self.scales)) + 1
        self.weights_sha256 = detector.weights_sha256
        self.freeze()

    def respond(self, images: Tensor) -> Responses:
        maps = [self._at(index, scale, images) for index, scale in enumerate(self.scales)]
        return Responses(
            torch.cat([m.logits for m in maps], dim=1),
            torch.cat([m.boxes for m in maps], dim=1),
            torch.cat([m.centres for m in maps]),
            torch.cat([m.templates for m in maps]),
        )

    def _at(self, index: int, scale: float, images: Tensor) -> Responses:
        height, width = images.shape[2:]
        size = [round(height * scale), round(width * scale)]
        if scale != 1:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        found = self.detector.respond(images)
        back = torch.tensor([width / size[1], height / size[0]], dtype=images.dtype, device=images.device)
        templates = found.templates + index * len(self.detector.templates)
        return Responses(found.logits, found.boxes * back.repeat(2), found.centres * back, templates)

    def suppress(self, boxes: Tensor, logits: Tensor) -> Tensor:
        return self.detector.suppress(boxes, logits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scales={self.scales}"
