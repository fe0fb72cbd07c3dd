"""RPN-mini: a small region proposal network with weights of our own, on HR-mini's trunk.

What is Faster R-CNN's first stage: anchors of three shapes at every level of a feature pyramid, one head for all
levels, objectness and four box numbers; see :mod:`lipcore.detectors.rpn`, whose anchors, boxes and proposals it shares.

What is smaller: the trunk is HR-mini's up to stride 16 and one more stage of stride 32; levels have strides 8, 16, 32
and 64 (none of stride 4) and 96 channels, with two anchor sizes each. Larger images are shrunk to a longer side of
448 px, the size of those it learned from; gradients go through that. Anchors stand in the middle of their cells, since
every reduction of the trunk is centred there.

The weights are made by :mod:`lipcore.training.rpn_mini` and described in ``data/weights/rpn_mini.md``.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.detectors.checkpoints import match, read_checkpoint
from lipcore.detectors.hr_mini import STAGES, STEM, ConvBN, normalise, stage
from lipcore.detectors.rpn import FeaturePyramid, Head, Proposals
from lipcore.detectors.weights import find_weights, sha256

FORMAT = "lipcore.rpn_mini/1"
#: The coarsest level's stride; images are padded to a multiple of it.
PAD_TO = 64
#: res5, the stage that HR-mini does not have: channels, channels inside the bottleneck, blocks.
RES5 = (256, 96, 3)
#: Of every level of the pyramid.
CHANNELS = 96
#: Of the anchors in pixels, at strides 8, 16, 32 and 64.
SIDES = ((16, 27), (45, 75), (125, 190), (280, 400))
ANCHORS = 3 * len(SIDES[0])


class RPNMiniNet(nn.Module):
    """The network alone: normalised images in, the head's outputs of every level out. It has no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        (c2, m2, n2, d2), (c3, m3, n3, d3), (c4, m4, n4, d4) = STAGES
        c5, m5, n5 = RES5
        self.stem = ConvBN(12, STEM, 3, folded=True)
        self.res2 = stage(STEM, c2, m2, n2, d2, True)
        self.res3 = stage(c2, c3, m3, n3, d3, True)
        self.res4 = stage(c3, c4, m4, n4, d4, True)
        self.res5 = stage(c4, c5, m5, n5, (1,), True)
        self.fpn = FeaturePyramid((c3, c4, c5), CHANNELS)
        self.head = Head(CHANNELS, ANCHORS)

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, 3, H, W) normalised, H and W multiples of 64 -> objectness and box numbers of each level."""
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        x3 = self.res3(self.res2(F.relu(self.stem(x))))
        x4 = self.res4(x3)
        return [self.head(level) for level in self.fpn([x3, x4, self.res5(x4)])]


class RPNMini(Proposals):
    """RPN-mini as a frozen detector.

    Args:
        weights: path of an ``rpn_mini.safetensors``; the shipped one by default.
        longer: an image's longer side is shrunk to so many pixels; 0 leaves the size alone.

    Raises:
        WeightsError: no such file, or not an RPN-mini.
    """

    name = "rpn-mini"
    sides = SIDES
    offset = 0.5

    def __init__(self, weights: str | Path | None = None, longer: int = 448) -> None:
        super().__init__()
        self.templates, self.longer = self.name_templates(), longer
        path = find_weights("rpn-mini", weights)
        self.net = RPNMiniNet()
        expected = {name: tuple(value.shape) for name, value in self.net.state_dict().items()}
        self.net.load_state_dict(match(path, "RPN-mini", read_checkpoint(path, FORMAT), expected))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights_sha256 = sha256(path)
        self.freeze()

    def prepare(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        height, width = images.shape[2:]
        x = normalise(images)
        if self.longer and max(height, width) > self.longer:
            scale = self.longer / max(height, width)
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
            x = F.interpolate(x, size=[height, width], mode="bilinear", align_corners=False, antialias=True)
        return F.pad(x, (0, -width % PAD_TO, 0, -height % PAD_TO)), (height, width)

    def maps(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        found: list[tuple[Tensor, Tensor]] = self.net(x)
        return found

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, longer={self.longer}"
