"""A tiny YOLOv2 (Redmon & Farhadi 2017, arXiv 1612.08242) for faces: 0.2 million parameters.

One convolution, then five separable ones, each after a pooling that halves the resolution; every cell of stride 32
scores five anchors. The weights (MIT, trained on some 14,000 photographs of its author's) are the "tiny face detector"
of the package @vladmandic/face-api; ``data/weights/tiny_yolo.md`` tells where they come from.

The first convolution is not padded, and every pooling reads to the right of and below its place: the receptive field of
a response has its centre 17 px to the right of and below that of its cell.

The network is run at the image's own scale, where its users shrink every photo to 416 px or so.
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

NETWORK = "the tiny YOLOv2"
STRIDE = 32
#: Output channels of the first convolution and of the separable ones.
CHANNELS = (16, 32, 64, 128, 256, 512)
#: Width and height of the anchors, in cells.
ANCHORS = ((1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308))
#: RGB, subtracted from the input, which is then divided by 255.
MEAN = (117.001, 114.697, 97.404)
SLOPE = 0.1
#: x and y of the centre of the first cell's receptive field: it reads the pixels from -62 up to 127.
FIRST = 33.0


class TinyYolo(Detector):
    """Tiny YOLOv2 at one scale, with sides of any length.

    Args:
        weights: path of a ``tiny_yolo.safetensors``; the shipped one by default.

    Raises:
        WeightsError: no such file, or one that holds another network.
    """

    name = "tiny-yolo"
    nms_iou = 0.4
    min_side = 32
    mean: Tensor
    anchors: Tensor

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS[0], 3)
        self.separable = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False), nn.Conv2d(c, out, 1))
            for c, out in pairwise(CHANNELS)
        )
        self.head = nn.Conv2d(CHANNELS[-1], 5 * len(ANCHORS), 1)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("anchors", torch.tensor(ANCHORS) * STRIDE, persistent=False)
        path = find_weights(self.name, weights)
        expected = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        try:
            state = renamed(read_checkpoint(path, half=True))
        except KeyError as error:
            raise WeightsError(f"{path} does not hold {NETWORK}: {error}") from error
        self.load_state_dict(match(path, NETWORK, state, expected))
        self.weights_sha256 = sha256(path)
        self.freeze()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def heads(self, images: Tensor) -> Tensor:
        """Raw outputs (B, 25, ceil((H - 2) / 32), ceil((W - 2) / 32)), of each anchor tx, ty, tw, th and the logit."""
        x = ((images - self.mean) / 255).contiguous(memory_format=torch.channels_last)
        x = F.leaky_relu_(self.stem(x), SLOPE)
        for layers in self.separable:
            x = F.leaky_relu_(layers(F.max_pool2d(x, 2, 2, ceil_mode=True)), SLOPE)
        x = F.max_pool2d(x, 2, 1, padding=1)[:, :, 1:, 1:]  # each place with those to its right and below
        raw: Tensor = self.head(x)
        return raw

    def respond(self, images: Tensor) -> Responses:
        """The anchors of a cell lie side by side, the cells row by row."""
        raw = self.heads(images).permute(0, 2, 3, 1)
        rows, cols = raw.shape[1:3]
        raw = raw.reshape(len(images), rows, cols, len(ANCHORS), 5)
        y, x = (torch.arange(n, device=images.device, dtype=images.dtype) for n in (rows, cols))
        cells = torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), dim=-1)[:, :, None]
        with torch.no_grad():
            middle = (cells + raw[..., :2].sigmoid()) * STRIDE
            half = self.anchors * raw[..., 2:4].exp() / 2
            boxes = torch.cat((middle - half, middle + half), dim=-1).flatten(1, 3)
        centres = (FIRST + cells * STRIDE).expand(-1, -1, len(ANCHORS), 2).flatten(0, 2)
        templates = torch.zeros(len(centres), dtype=torch.long, device=images.device)
        return Responses(raw[..., 4].flatten(1), boxes, centres, templates)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the module's names.

    Raises:
        KeyError: a tensor that is missing.
    """
    made = {"stem.weight": state["conv0/filters"], "stem.bias": state["conv0/bias"]}
    for number in range(1, len(CHANNELS)):
        made[f"separable.{number - 1}.0.weight"] = state[f"conv{number}/depthwise_filter"]
        made[f"separable.{number - 1}.1.weight"] = state[f"conv{number}/pointwise_filter"]
        made[f"separable.{number - 1}.1.bias"] = state[f"conv{number}/bias"]
    return made | {"head.weight": state["conv8/filters"], "head.bias": state["conv8/bias"]}
