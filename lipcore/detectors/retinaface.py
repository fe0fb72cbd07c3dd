"""RetinaFace with a MobileNet-0.25 trunk (Deng et al. 2020, arXiv 1905.00641), an anchor-based single-stage detector.

A MobileNet of a quarter of the channels taps strides 8, 16 and 32; a feature pyramid merges them top down; a context
module (SSH, Najibi et al. 2017) widens what each level sees; every cell of a level scores two square anchors. Layers
are named as in the PyTorch checkpoint that is in common use (MIT licence, trained on WIDER FACE; its authors give a
single-scale AP of .907 / .882 / .738 on val), so that it loads as it is. Its landmark heads are left out.

Two things the file does not say were settled by what its batch norms recorded in training and by the AP on real images:
channels come as blue, green, red, and the activations are plain ReLUs. With the leaky ones of slope 0.1 that the usual
class puts there, the statistics drift from the recorded ones layer by layer and a third of the AP is lost.

The head is a softmax over background and face; the logit here is z_face - z_background. Each anchor is a template.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from lipcore.detectors.base import Detector, Responses
from lipcore.detectors.checkpoints import load_checkpoint
from lipcore.detectors.weights import find_weights, identity

STRIDES = (8, 16, 32)
#: Sides in pixels of the two anchors at each stride.
ANCHORS = ((16, 32), (64, 128), (256, 512))
#: By which the box head's outputs are scaled: centre shifts, then log sizes.
VARIANCES = (0.1, 0.2)
#: Subtracted from the input, whose channels are blue, green, red.
MEAN = (104.0, 117.0, 123.0)
CHANNELS = 64

#: Output channels and stride of the trunk's depthwise blocks, stage by stage; the first stage begins with a stem of 8.
STAGES = (
    ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)),
    ((128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
    ((256, 2), (256, 1)),
)


def _conv(channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out)]


def _conv_relu(channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [*_conv(channels, out, kernel, stride, groups), nn.ReLU(inplace=True)]


def _depthwise(channels: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*_conv_relu(channels, channels, 3, stride, channels), *_conv_relu(channels, out, 1))


class Trunk(nn.Module):
    """MobileNet (Howard et al. 2017) of a quarter of the channels, without its last pooling and classifier."""

    def __init__(self) -> None:
        super().__init__()
        channels = 8
        for number, blocks in enumerate(STAGES, start=1):
            layers = [nn.Sequential(*_conv_relu(3, channels, 3, 2))] if number == 1 else []
            for out, stride in blocks:
                layers.append(_depthwise(channels, out, stride))
                channels = out
            self.add_module(f"stage{number}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.children():
            x = stage(x)
            maps.append(x)
        return maps


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al. 2017): all levels at 64 channels, the coarser added to the finer."""

    def __init__(self) -> None:
        super().__init__()
        for number, blocks in enumerate(STAGES, start=1):
            self.add_module(f"output{number}", nn.Sequential(*_conv_relu(blocks[-1][0], CHANNELS, 1)))
        self.merge1 = nn.Sequential(*_conv_relu(CHANNELS, CHANNELS))
        self.merge2 = nn.Sequential(*_conv_relu(CHANNELS, CHANNELS))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (self.get_submodule(f"output{i}")(x) for i, x in enumerate(maps, start=1))
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return [fine, middle, coarse]


class Context(nn.Module):
    """SSH's context module: what 3x3, 5x5 and 7x7 convolutions would see, side by side."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = CHANNELS // 2, CHANNELS // 4
        self.conv3X3 = nn.Sequential(*_conv(CHANNELS, half))
        self.conv5X5_1 = nn.Sequential(*_conv_relu(CHANNELS, quarter))
        self.conv5X5_2 = nn.Sequential(*_conv(quarter, quarter))
        self.conv7X7_2 = nn.Sequential(*_conv_relu(quarter, quarter))
        self.conv7x7_3 = nn.Sequential(*_conv(quarter, quarter))

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        parts = (self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared)))
        return F.relu_(torch.cat(parts, dim=1))


class Head(nn.Module):
    """A 1x1 convolution that gives ``numbers`` values for each of a cell's two anchors."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(CHANNELS, 2 * numbers, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H * W * 2, numbers)."""
        values: Tensor = self.conv1x1(x).permute(0, 2, 3, 1)
        return values.reshape(len(x), -1, self.numbers)


class RetinaFace(Detector):
    """RetinaFace MobileNet-0.25 at one scale, with sides of any length.

    Args:
        weights: path of a state dict of the usual PyTorch implementation, in any wrapping that
            :mod:`lipcore.detectors.checkpoints` reads; by default the shipped one, whose tensors are those of
            ``mobilenet0.25_Final.pth``.

    Raises:
        WeightsError: no such file, or one that holds another network.
    """

    name = "retinaface"
    templates = tuple(f"stride {s}, {side} px" for s, pair in zip(STRIDES, ANCHORS, strict=True) for side in pair)
    nms_iou = 0.4
    mean: Tensor

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.body = Trunk()
        self.fpn = Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        self.ClassHead = nn.ModuleList(Head(2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(Head(4) for _ in STRIDES)
        self.register_buffer("mean", torch.tensor(MEAN)[None, :, None, None], persistent=False)
        path = find_weights("retinaface", weights)
        load_checkpoint(self, path, "RetinaFace with MobileNet-0.25", ignore=("LandmarkHead.",))
        self.weights_sha256 = identity("retinaface", path)
        self.freeze()
        self._fold()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _fold(self) -> None:
        """Puts every batch norm into the convolution before it: the same function in fewer steps."""
        for block in [m for m in self.modules() if isinstance(m, nn.Sequential)]:
            for i in range(len(block) - 1):
                conv, norm = block[i], block[i + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[i], block[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
        self.requires_grad_(False)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The heads' raw outputs, levels, rows, columns and anchors in this order: (B, A, 2) and (B, A, 4)."""
        x = (images.flip(1) - self.mean).contiguous(memory_format=torch.channels_last)
        maps = self.fpn(self.body(x))
        maps = [ssh(m) for ssh, m in zip((self.ssh1, self.ssh2, self.ssh3), maps, strict=True)]
        scores, shifts = (
            torch.cat([head(m) for head, m in zip(heads, maps, strict=True)], dim=1)
            for heads in (self.ClassHead, self.BboxHead)
        )
        return scores, shifts

    def respond(self, images: Tensor) -> Responses:
        scores, shifts = self.heads(images)
        anchors, templates = anchors_of(images)
        with torch.no_grad():
            centres = anchors[:, :2] + shifts[..., :2] * VARIANCES[0] * anchors[:, 2:]
            sides = anchors[:, 2:] * (shifts[..., 2:] * VARIANCES[1]).exp()
            boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=-1)
        return Responses(scores[..., 1] - scores[..., 0], boxes, anchors[:, :2], templates)


def anchors_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """The anchors of images (B, 3, H, W), as centre x, centre y, width, height in pixels (A, 4), and their templates.

    A level has ceil(side / stride) cells; an anchor's centre is that of its cell.
    """
    found, templates = [], []
    for level, (stride, sides) in enumerate(zip(STRIDES, ANCHORS, strict=True)):
        rows, cols = (-(-n // stride) for n in images.shape[2:])
        y, x = (torch.arange(n, device=images.device, dtype=images.dtype) + 0.5 for n in (rows, cols))
        centres = torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), dim=-1).reshape(-1, 1, 2) * stride
        size = torch.tensor(sides, device=images.device, dtype=images.dtype).reshape(1, 2, 1)
        found.append(torch.cat((centres.expand(-1, 2, 2), size.expand(rows * cols, 2, 2)), dim=-1).flatten(0, 1))
        templates.append(torch.tensor((2 * level, 2 * level + 1), device=images.device).repeat(rows * cols))
    return torch.cat(found), torch.cat(templates)
