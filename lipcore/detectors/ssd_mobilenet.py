"""SSD (Liu et al. 2016, arXiv 1512.02325) on MobileNetV1 (Howard et al. 2017, arXiv 1704.04861), for faces.

Six maps of strides 16 to 512 score three (stride 16) or six anchors a cell; the two finest are taken from the trunk,
the others from pairs of a 1x1 and a 3x3 convolution behind it. The weights (MIT, trained on WIDER FACE) are those of
the package @vladmandic/face-api; ``data/weights/ssd_mobilenet.md`` tells where they come from.

Three things are TensorFlow's. Where a stride of 2 meets an even side, all padding is at the end, so that the centre of
a response's receptive field lies nearly half a stride beyond its cell's. The activation is a ReLU6. And each class has
a sigmoid of its own, not a softmax, so that the face's output is the logit.

The network is run at the image's own scale, where its users shrink every photo to 512 px. There all sides are even;
TensorFlow would pad an odd one at both ends, and all that the network learned of places would be off by half a stride.
Here padding stays at the end at every size.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.detectors.base import Detector, Responses
from lipcore.detectors.checkpoints import match, read_checkpoint
from lipcore.detectors.weights import find_weights, sha256
from lipcore.errors import WeightsError

NETWORK = "SSD on MobileNetV1"
STRIDES = (16, 32, 64, 128, 256, 512)
#: Anchors of a cell of each map.
ANCHORS = (3, 6, 6, 6, 6, 6)
#: Output channels of MobileNetV1's first convolution and of its thirteen separable ones, and which of these halve.
TRUNK = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
HALVING = (0, 2, 4, 6, 12)
#: The map of stride 16 is taken from the trunk after this separable convolution.
TAP = 11
#: Channels of the 1x1 and the 3x3 convolution, which halves, before each of the coarser maps.
EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
#: Side in pixels of the image that the file's anchors stand for.
SIDE = 512
#: Of the trunk's batch norms.
BN_EPS = 1e-3
#: By which the box head's outputs are divided: centre shifts, then log sizes.
SHIFTS, SIZES = 10.0, 5.0


class Conv(nn.Conv2d):
    """A convolution, 1x1 or 3x3, padded as it was at 512 px, and a ReLU6."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] == 2:  # one more zero at the end of an odd side, for a last place of its own
            x = F.pad(x, (0, 1 + x.shape[3] % 2, 0, 1 + x.shape[2] % 2))
        return F.relu6(super().forward(x), inplace=True)


class SSDMobileNet(Detector):
    """SSD on MobileNetV1 at one scale, with sides of any length.

    Args:
        weights: path of an ``ssd_mobilenet.safetensors``; the shipped one by default.

    Raises:
        WeightsError: no such file, or one that holds another network.
    """

    name = "ssd-mobilenet"
    templates = tuple(f"stride {stride}" for stride in STRIDES)
    nms_iou = 0.5
    min_side = 32

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        layers = [Conv(3, TRUNK[0], 3, 2)]
        for number, (channels, out) in enumerate(pairwise(TRUNK), start=1):
            layers.append(Conv(channels, channels, 3, 2 if number in HALVING else 1, channels))
            layers.append(Conv(channels, out, 1))
        self.trunk = nn.ModuleList(layers)
        extras, channels, tapped = [], TRUNK[-1], [TRUNK[TAP], TRUNK[-1]]
        for inside, out in EXTRAS:
            extras += [Conv(channels, inside, 1), Conv(inside, out, 3, 2)]
            channels = out
            tapped.append(out)
        self.extras = nn.ModuleList(extras)
        self.scores = nn.ModuleList(nn.Conv2d(c, n, 1) for c, n in zip(tapped, ANCHORS, strict=True))
        self.shifts = nn.ModuleList(nn.Conv2d(c, 4 * n, 1) for c, n in zip(tapped, ANCHORS, strict=True))
        for index, count in enumerate(ANCHORS):
            self.register_buffer(f"anchors{index}", torch.empty(count, 2))
        path = find_weights(self.name, weights)
        expected = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        try:
            state = renamed(read_checkpoint(path, half=True))
        except (KeyError, RuntimeError) as error:
            raise WeightsError(f"{path} does not hold {NETWORK}: {error}") from error
        self.load_state_dict(match(path, NETWORK, state, expected))
        self.weights_sha256 = sha256(path)
        self.freeze()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def levels(self, images: Tensor) -> list[Tensor]:
        """The six maps (B, C, ceil(H / stride), ceil(W / stride))."""
        x = (images / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        maps = []
        for number, layer in enumerate(self.trunk):
            x = layer(x)
            if number in (2 * TAP, 2 * len(TRUNK) - 2):
                maps.append(x)
        for reduce, halve in zip(self.extras[::2], self.extras[1::2], strict=True):
            x = halve(reduce(x))
            maps.append(x)
        return maps

    def respond(self, images: Tensor) -> Responses:
        """The anchors of a cell lie side by side, the cells row by row, the maps from fine to coarse."""
        logits, boxes, centres, templates = [], [], [], []
        for index, features in enumerate(self.levels(images)):
            rows, cols = features.shape[2:]
            scored: Tensor = self.scores[index](features).permute(0, 2, 3, 1)
            logits.append(scored.flatten(1))
            y, x = (torch.arange(n, device=images.device, dtype=images.dtype) for n in (rows, cols))
            cells = torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), dim=-1).reshape(-1, 1, 2)
            stride = STRIDES[index]
            with torch.no_grad():
                sizes = self.get_buffer(f"anchors{index}")
                numbers = self.shifts[index](features).permute(0, 2, 3, 1)  # y x, then h w
                numbers = numbers.reshape(len(images), -1, len(sizes), 2, 2).flip(-1)
                middle = (cells + 0.5) * stride + sizes * numbers[..., 0, :] / SHIFTS
                half = sizes * (numbers[..., 1, :] / SIZES).exp() / 2
                boxes.append(torch.cat((middle - half, middle + half), dim=-1).flatten(1, 2))
            centres.append((cells * stride + stride - 0.5).expand(-1, len(sizes), 2).flatten(0, 1))
            templates.append(torch.full((len(centres[-1]),), index, device=images.device))
        return Responses(torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(centres), torch.cat(templates))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the module's names, batch norm put into the depthwise convolution before it.

    Raises:
        KeyError: a tensor that is missing.
    """
    made = {}

    def take(name: str, weight: Tensor, bias: Tensor) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = weight, bias

    for number in range(len(TRUNK)):
        prefix = f"MobilenetV1/Conv2d_{number}"
        if number:
            norm = f"{prefix}_depthwise/BatchNorm"
            gain = state[f"{norm}/gamma"] / (state[f"{norm}/moving_variance"] + BN_EPS).sqrt()
            weight = state[f"{prefix}_depthwise/depthwise_weights"] * gain[:, None, None, None]
            take(f"trunk.{2 * number - 1}", weight, state[f"{norm}/beta"] - state[f"{norm}/moving_mean"] * gain)
        pointwise = f"{prefix}_pointwise"
        take(f"trunk.{2 * number}", state[f"{pointwise}/weights"], state[f"{pointwise}/convolution_bn_offset"])
    for number in range(2 * len(EXTRAS)):
        prefix = f"Prediction/Conv2d_{number}_pointwise"
        take(f"extras.{number}", state[f"{prefix}/weights"], state[f"{prefix}/convolution_bn_offset"])
    for number in range(len(STRIDES)):
        prefix = f"Prediction/BoxPredictor_{number}"
        head = f"{prefix}/ClassPredictor"
        take(f"scores.{number}", state[f"{head}/weights"][1::3], state[f"{head}/biases"][1::3])  # 1 of 3 is the face
        head = f"{prefix}/BoxEncodingPredictor"
        take(f"shifts.{number}", state[f"{head}/weights"], state[f"{head}/biases"])
    start = 0
    for index, (stride, count) in enumerate(zip(STRIDES, ANCHORS, strict=True)):
        # The anchors of a map's cells differ by the cell's place alone, so those of the first are enough.
        cell = state["Output/extra_dim"][0, start : start + count] * SIDE
        made[f"anchors{index}"] = (cell[:, 2:] - cell[:, :2]).flip(1)  # y1 x1 y2 x2 -> width, height
        start += count * (SIDE // stride) ** 2
    return made
