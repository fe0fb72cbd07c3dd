"""The first stage of Faster R-CNN (Ren et al. 2015): a region proposal network on a feature pyramid (Lin et al. 2017).

It is a single-stage detector of "something": one pass scores every anchor of every level, and no class is named. Here
every anchor is a response, its objectness logit the score. :class:`RPN` is the network of torchvision's
``fasterrcnn_resnet50_fpn``, built in plain torch and named as there, so that the published checkpoint loads as it is;
:class:`Proposals` holds what any such network shares, and :mod:`lipcore.detectors.rpn_mini` is a small one of our own.

As torchvision has it: anchors are rounded to whole pixels and stand at multiples of the stride, which is the padded
image's side over the map's; a box is moved by the anchor's size and clipped to the image; each level's best 1000 are
kept, boxes without extent dropped, suppressed level by level at IoU 0.7, and the best 1000 of all levels are proposals.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.boxes import nms
from lipcore.detectors.base import Detections, Detector, Responses
from lipcore.detectors.checkpoints import match, read_checkpoint, strip_prefix
from lipcore.detectors.weights import find_weights, sha256

#: Height over width of the anchors.
RATIOS = (0.5, 1.0, 2.0)
#: Log sizes are clamped here before exp.
MAX_LOG_SIZE = math.log(1000 / 16)
#: The best of each level that suppression sees, and the best of all levels after it.
BEFORE_NMS, AFTER_NMS = 1000, 1000
#: Boxes with a shorter side, in pixels, are no proposals.
LEAST_SIDE = 1e-3


def anchor_shapes(sides: Sequence[float]) -> Tensor:
    """(R * S, 4) anchors around the origin, xyxy in whole pixels; ratio by ratio, all ``sides`` of each."""
    heights = torch.tensor(RATIOS).sqrt()
    side = torch.tensor(sides, dtype=torch.float32)
    width, height = ((r[:, None] * side).flatten() for r in (1 / heights, heights))
    return (torch.stack((-width, -height, width, height), dim=1) / 2).round()


def anchor_grid(shapes: Tensor, cells: tuple[int, int], strides: tuple[int, int], offset: float = 0.0) -> Tensor:
    """(rows * cols * K, 4) anchors of one level, xyxy in pixels, cell by cell in rows.

    Args:
        shapes: (K, 4), around the origin.
        cells: rows and columns of the map.
        strides: of the rows and the columns, in pixels.
        offset: where in its cell an anchor stands, as a share of the stride: 0 is the corner, as in torchvision.
    """
    y, x = ((torch.arange(n, device=shapes.device) + offset) * s for n, s in zip(cells, strides, strict=True))
    shift = torch.stack((x.expand(*cells), y[:, None].expand(*cells)), dim=-1).reshape(-1, 1, 2).repeat(1, 1, 2)
    return (shift + shapes).reshape(-1, 4)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes from the head's numbers (Ren et al. 2015, equation 2): x = x_a + w_a tx, w = w_a exp(tw); y, h alike.

    Args:
        deltas: (..., A, 4) tx, ty, tw, th.
        anchors: (A, 4) xyxy in pixels.

    Returns:
        (..., A, 4) xyxy in pixels.
    """
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2 + deltas[..., :2] * size
    half = deltas[..., 2:].clamp(max=MAX_LOG_SIZE).exp() * size / 2
    return torch.cat((centre - half, centre + half), dim=-1)


class FeaturePyramid(nn.Module):
    """Merges the trunk's maps top down; one more level takes every second place of the coarsest (Lin et al. 2017).

    Args:
        channels: of the trunk's maps, the finest first.
        out: of every level.
    """

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, out, 1)) for c in channels)
        self.layer_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(out, out, 3, padding=1)) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels, the finest first, one more than ``maps``."""
        top: Tensor | None = None
        levels: list[Tensor] = []
        for inner, layer, x in zip(
            reversed(self.inner_blocks), reversed(self.layer_blocks), reversed(maps), strict=True
        ):
            own = inner(x)
            top = own if top is None else own + F.interpolate(top, size=own.shape[2:], mode="nearest")
            levels.insert(0, layer(top))
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]


class Head(nn.Module):
    """The two outputs of every level: an objectness logit and four box numbers for each of ``anchors`` anchors."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()))
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, K, H, W) and (B, 4 K, H, W)."""
        x = self.conv(x)
        return self.cls_logits(x), self.bbox_pred(x)


class Proposals(Detector):
    """A region proposal network: what is left for one of its own is :meth:`prepare` and :meth:`maps`.

    Attributes:
        sides: of the anchors in pixels, level by level; each comes in the shapes of :data:`RATIOS`.
        offset: see :func:`anchor_grid`.
    """

    nms_iou = 0.7
    min_side = 32
    sides: tuple[tuple[int, ...], ...]
    offset: float = 0.0

    @abstractmethod
    def prepare(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What the network reads, padded, and the height and width of the image in it before padding."""

    @abstractmethod
    def maps(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The head's two outputs for every level, of what :meth:`prepare` made."""

    @property
    def per_level(self) -> int:
        """How many templates a level has."""
        return len(RATIOS) * len(self.sides[0])

    def name_templates(self) -> tuple[str, ...]:
        """``WIDTHxHEIGHT`` of each anchor's shape, level by level."""
        shapes = torch.cat([anchor_shapes(sides) for sides in self.sides])
        return tuple(f"{w:.0f}x{h:.0f}" for w, h in (shapes[:, 2:] - shapes[:, :2]).tolist())

    def respond(self, images: Tensor) -> Responses:
        """Every anchor of every level, the finest level first."""
        x, (height, width) = self.prepare(images)
        found = self.maps(x)
        logits = torch.cat([objectness.permute(0, 2, 3, 1).flatten(1) for objectness, _ in found], dim=1)
        with torch.no_grad():
            anchors, templates = self.anchors(x, [objectness.shape[2:] for objectness, _ in found])
            deltas = [d.detach().permute(0, 2, 3, 1).reshape(len(d), -1, 4) for _, d in found]
            boxes = decode(torch.cat(deltas, dim=1), anchors)
            limit = boxes.new_tensor([width, height]).repeat(2)
            scale = boxes.new_tensor([images.shape[3] / width, images.shape[2] / height]).repeat(2)
            boxes = torch.minimum(boxes.clamp_min(0), limit) * scale
            centres = (anchors[:, :2] + anchors[:, 2:]) / 2 * scale[:2]
        return Responses(logits, boxes, centres, templates)

    def anchors(self, x: Tensor, cells: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The anchors (A, 4) of all levels, xyxy in the pixels of ``x``, and their templates (A,)."""
        found, templates = [], []
        for level, ((rows, cols), sides) in enumerate(zip(cells, self.sides, strict=True)):
            shapes = anchor_shapes(sides).to(x)
            strides = x.shape[2] // rows, x.shape[3] // cols
            found.append(anchor_grid(shapes, (rows, cols), strides, self.offset))
            numbers = torch.arange(self.per_level, device=x.device) + level * self.per_level
            templates.append(numbers.repeat(rows * cols))
        return torch.cat(found), torch.cat(templates)

    def propose(self, responses: Responses, index: int = 0) -> Detections:
        """The proposals of one image of the batch, best first, at most :data:`AFTER_NMS`."""
        logits, boxes = responses.logits[index].detach(), responses.boxes[index]
        levels = responses.templates // self.per_level
        kept = []
        for level in range(len(self.sides)):
            own = (levels == level).nonzero()[:, 0]
            own = own[logits[own].argsort(descending=True, stable=True)[:BEFORE_NMS]]
            own = own[(boxes[own, 2:] - boxes[own, :2] >= LEAST_SIDE).all(dim=1)]
            kept.append(own[nms(boxes[own], logits[own], self.nms_iou)])
        every = torch.cat(kept)
        every = every[logits[every].argsort(descending=True, stable=True)[:AFTER_NMS]]
        return Detections(boxes[every], logits[every].sigmoid(), every)

    def select(self, responses: Responses, threshold: float = 0.5) -> list[Detections]:
        """The proposals of each image with probability >= ``threshold``."""
        found = (self.propose(responses, i) for i in range(len(responses.logits)))
        counts = ((d, int((d.scores >= threshold).sum())) for d in found)
        return [Detections(d.boxes[:n], d.scores[:n], d.responses[:n]) for d, n in counts]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sides={self.sides}, offset={self.offset}"


class Block(nn.Module):
    """A bottleneck of ResNet (He et al. 2016); the stride is in the 3x3 convolution."""

    def __init__(self, channels: int, inside: int, stride: int) -> None:
        super().__init__()
        out = 4 * inside
        self.conv1, self.bn1 = nn.Conv2d(channels, inside, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = nn.Conv2d(inside, inside, 3, stride, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = nn.Conv2d(inside, out, 1, bias=False), nn.BatchNorm2d(out)
        changed = stride != 1 or channels != out
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if changed else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 inside, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """ResNet-50 without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for i, (inside, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            stage = []
            for j in range(blocks):
                stage.append(Block(channels, inside, 2 if i > 1 and j == 0 else 1))
                channels = 4 * inside
            self.add_module(f"layer{i}", nn.Sequential(*stage))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of stride 4, 8, 16 and 32."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        found = []
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            found.append(x)
        return found


class Backbone(nn.Module):
    """Trunk and pyramid, named as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet50()
        self.fpn = FeaturePyramid((256, 512, 1024, 2048), 256)


class Stage(nn.Module):
    """What torchvision calls ``rpn``."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.head = Head(channels, anchors)


class RPN(Proposals):
    """The region proposal network of torchvision's ``fasterrcnn_resnet50_fpn``.

    An image is brought to a shorter side of 800 px, the longer one at most 1333, and padded to a multiple of 32; boxes
    are given in the image's own pixels, and gradients go through the resizing.

    Args:
        weights: the published checkpoint (``fasterrcnn_resnet50_fpn_coco-258fb6c6.pth``), or a state dict of the same
            model; its second stage is left out.
        shorter, longer: see above, in pixels; 0 for ``shorter`` leaves the size alone.
        eps: of the batch norms. By default 0 where the names are those of the published checkpoint, which was trained
            so, else torchvision's 1e-5.

    Raises:
        WeightsError: no such file, or not that network; the message says which names or shapes are wrong.
    """

    name = "rpn"
    sides = ((32,), (64,), (128,), (256,), (512,))
    PAD_TO = 32
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(
        self, weights: str | Path | None = None, shorter: int = 800, longer: int = 1333, eps: float | None = None
    ) -> None:
        super().__init__()
        self.templates = self.name_templates()
        self.shorter, self.longer = shorter, longer
        self.backbone = Backbone()
        self.rpn = Stage(256, self.per_level)
        path = find_weights("rpn", weights)
        expected = self.expected()
        state, published = read_state(path, expected)
        network = "the region proposal network of fasterrcnn_resnet50_fpn"
        self.load_state_dict(match(path, network, state, expected, ignore=("roi_heads.",)), strict=False)
        self.eps = (0.0 if published else 1e-5) if eps is None else eps
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = self.eps
        self.weights_sha256 = sha256(path)
        self.freeze()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The names and shapes that a file must hold."""
        return {n: tuple(v.shape) for n, v in self.state_dict().items() if not n.endswith("num_batches_tracked")}

    def prepare(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.MEAN, self.STD))
        x = (images / 255 - mean) / std
        height, width = images.shape[2:]
        if self.shorter:
            scale = min(self.shorter / min(height, width), self.longer / max(height, width))
            height, width = (max(1, int(side * scale)) for side in (height, width))
            x = F.interpolate(x, size=[height, width], mode="bilinear", align_corners=False)
        x = F.pad(x, (0, -width % self.PAD_TO, 0, -height % self.PAD_TO))
        return x.contiguous(memory_format=torch.channels_last), (height, width)

    def maps(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [self.rpn.head(level) for level in self.backbone.fpn(self.backbone.body(x))]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, shorter={self.shorter}, longer={self.longer}, eps={self.eps:g}"


#: Names of the published checkpoint -> those that torchvision gives them now.
RENAMED = (
    (re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)"), r"\1.0.\2"),
    (re.compile(r"rpn\.head\.conv\.(weight|bias)"), r"rpn.head.conv.0.0.\1"),
)


def read_state(path: Path, expected: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], bool]:
    """The tensors under the names that torchvision gives them now; whether they had the older ones.

    Raises:
        WeightsError: not a file of tensors, or no state dict.
    """
    found = strip_prefix(read_checkpoint(path), expected)
    renamed: dict[str, Tensor] = {}
    for name, value in found.items():
        new = name
        for pattern, to in RENAMED:
            new = pattern.sub(to, new) if pattern.fullmatch(new) else new
        renamed[new] = value
    return renamed, any(name not in found for name in renamed)
