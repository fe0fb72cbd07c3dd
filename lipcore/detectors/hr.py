"""HR, "Finding Tiny Faces" (Hu & Ramanan, CVPR 2017, arXiv 1612.04402): the network of its published code.

A ResNet-101 without its last stage. Two 1x1 convolutions score the ends of stage 3 (stride 8) and of stage 4 (stride
16, upsampled bilinearly); their sum gives, for every cell of stride 8 and each of 25 templates, a face logit and four
box numbers: 125 channels. The templates are face sizes clustered by k-medoids; each belongs to a scale of the image.

Two variants are in circulation and both load here:

``matconvnet``
    ``hr_res101.mat``, the authors' own. Stride 2 sits on a stage's first 1x1, the pool pads at the bottom and right
    only, the RGB mean is subtracted, the upsampled map has 2 n - 1 cells and the map of stage 3 is cropped to it.
``pytorch``
    The checkpoint of the well-known PyTorch port: torchvision's ResNet (stride 2 on the 3x3, symmetric padding of the
    pool), images divided by 255, then ImageNet's mean and deviation, and the upsampled map cropped to that of stage 3.

Neither file can be passed on here: give yours as ``load_detector("hr", weights=PATH)``. Batch norm is folded into the
convolutions when a file is read, so the variance's epsilon of either framework takes part exactly once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.boxes import nms
from lipcore.detectors.base import Detections, Detector, Responses
from lipcore.detectors.hr_files import COUNT, STAGES, Loaded, block_names, normalisation, read_weights
from lipcore.detectors.weights import locate, registry, sha256
from lipcore.errors import ImageError, UnknownName, WeightsError

STRIDE = 8
VARIANTS = ("matconvnet", "pytorch")

#: The 25 templates: half width, half height, scale of the image they were clustered at. The corners are -half..half,
#: and a width is x2 - x1 + 1.
TEMPLATES = (
    *((86.338235, 113.444118, 0.5), (48.75, 65.25, 0.5), (33.25, 43.75, 0.5), (25.75, 33.75, 0.5)),
    *((40.5, 54.5, 1.0), (34.5, 43.5, 1.0), (28.5, 38.0, 1.0), (25.658905, 31.32215, 1.0)),
    *((21.6137, 27.59767, 1.0), (20.0, 22.5, 1.0), (17.5, 25.5, 1.0), (16.327985, 20.88555, 1.0)),
    *((29.4755, 34.4803, 2.0), (25.4202, 37.10609, 2.0), (24.2118, 30.21456, 2.0), (22.0129, 24.7059, 2.0)),
    *((19.3142, 28.0202, 2.0), (17.9677, 22.7849, 2.0), (15.6123, 19.5907, 2.0), (13.1842, 18.3421, 2.0)),
    *((13.50277, 15.0792, 2.0), (11.1091, 16.4909, 2.0), (10.97686, 14.0478, 2.0), (9.9722, 12.4105, 2.0)),
    (9.6613, 10.6161, 2.0),
)
#: Templates in use, counted from 0: type A at every scale of the pyramid, type B only where the image is enlarged.
TYPE_A, TYPE_B = tuple(range(4, 12)), tuple(range(18, 25))
IN_USE = {"A": TYPE_A, "AB": TYPE_A + TYPE_B, "all": tuple(range(COUNT))}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to the input or, in a stage's first, to its projection (He et al. 2016, fig. 5 right)."""

    def __init__(self, channels: int, inside: int, stride: int, first: bool, variant: str) -> None:
        super().__init__()
        early, late = (stride, 1) if variant == "matconvnet" else (1, stride)
        self.branch2a = nn.Conv2d(channels, inside, 1, early)
        self.branch2b = nn.Conv2d(inside, inside, 3, late, 1)
        self.branch2c = nn.Conv2d(inside, 4 * inside, 1)
        self.branch1 = nn.Conv2d(channels, 4 * inside, 1, stride) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 * inside, ceil(H / stride), ceil(W / stride))."""
        y = self.branch2c(F.relu(self.branch2b(F.relu(self.branch2a(x)))))
        return F.relu(self.branch1(x) + y)


class HRNet(nn.Module):
    """The network alone: normalised images in, (B, 125, rows, cols) out.

    Every convolution has a bias, into which batch norm is folded; ``score4`` holds the upsampling kernel, per channel
    (125, 1, 4, 4) where it is diagonal, as published, else (125, 125, 4, 4).
    """

    score4: Tensor

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant = variant
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        if variant == "matconvnet":
            self.pool1 = nn.MaxPool2d(3, 2, 0, ceil_mode=True)  # pads one row and column at the bottom and right
        else:
            self.pool1 = nn.MaxPool2d(3, 2, 1)
        channels, stages = 64, {}
        for stage, (_, inside) in STAGES.items():
            blocks = {}
            for i, name in enumerate(block_names(stage)):
                stride = 2 if i == 0 and stage != "res2" else 1
                blocks[name] = Bottleneck(channels, inside, stride, i == 0, variant)
                channels = 4 * inside
            stages[stage] = nn.Sequential()
            for name, block in blocks.items():
                stages[stage].add_module(name, block)
        self.res2, self.res3, self.res4 = stages["res2"], stages["res3"], stages["res4"]
        self.score_res3 = nn.Conv2d(512, 5 * COUNT, 1)
        self.score_res4 = nn.Conv2d(1024, 5 * COUNT, 1)
        self.register_buffer("score4", bilinear_kernel().repeat(5 * COUNT, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 125, rows, cols): 25 logits, then tx, ty, tw, th of 25 each."""
        x3 = self.res3(self.res2(self.pool1(F.relu(self.conv1(x)))))
        score_res3 = self.score_res3(x3)
        score_res4 = self.score_res4(self.res4(x3))
        groups = 5 * COUNT if self.score4.shape[1] == 1 else 1
        up = F.conv_transpose2d(score_res4, self.score4, stride=2, padding=1, groups=groups)
        if self.variant == "matconvnet":
            up = up[:, :, :-1, :-1]  # crop (top, bottom, left, right) = 1, 2, 1, 2; the padding above is 1 all around
        rows, cols = (min(a, b) for a, b in zip(up.shape[2:], score_res3.shape[2:], strict=True))
        scores: Tensor = score_res3[:, :, :rows, :cols] + up[:, :, :rows, :cols]
        return scores


def bilinear_kernel() -> Tensor:
    """(1, 1, 4, 4): the kernel that doubles a map bilinearly."""
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    return (line[:, None] * line)[None, None]


@dataclass(frozen=True)
class Setting:
    """How HR's authors run it over a pyramid.

    Attributes:
        threshold: probability from which a response counts.
        nms_iou: of the one NMS over all scales.
        adaptive: scales follow the image's size (the demo), else they are 1/4, 1/2, 1 and 2.
        rounded: boxes are rounded to pixels, as the result files of the benchmark are; else clipped to the image.
    """

    threshold: float
    nms_iou: float
    adaptive: bool
    rounded: bool


SETTINGS = {
    "demo": Setting(threshold=0.5, nms_iou=0.1, adaptive=True, rounded=False),
    "benchmark": Setting(threshold=0.03, nms_iou=0.3, adaptive=False, rounded=True),
}
#: No pyramid level is larger than this, in pixels.
MAX_SIDE = 5000


@dataclass(frozen=True)
class PyramidDetections:
    """Detections of one image over the pyramid, best first.

    Attributes:
        boxes: (K, 4) x1, y1, x2, y2 as HR prints them: counted from pixel 1, both ends inside the box.
        logits: (K,) the score HR prints; the probability saturates in single precision.
        templates: (K,) long: index in 0..24.
        scales: (K,) of the image at which each was found.
    """

    boxes: Tensor
    logits: Tensor
    templates: Tensor
    scales: Tensor

    def rows(self) -> Tensor:
        """(K, 5): x, y, width, height, logit: the lines of a WIDER FACE result file; widths are x2 - x1 + 1."""
        size = self.boxes[:, 2:] - self.boxes[:, :2] + 1
        return torch.cat((self.boxes[:, :2], size, self.logits[:, None]), dim=1)


class HR(Detector):
    """HR as a frozen detector.

    Args:
        weights: ``hr_res101.mat`` or the port's checkpoint; which of the two it is, is found out.
        templates: which templates are responses of the single scale that attacks see: "A" (those in use at an image's
            own scale), "AB" (those in use on an enlarged image) or "all".

    Raises:
        WeightsError: no file, neither of the two, or not HR's; the message has every name that is missing, has another
            shape, or is left over. What is only left over raises a warning.
        UnknownName: ``templates`` is none of the three.
    """

    name = "hr"
    nms_iou = 0.3
    min_side = 16
    mean: Tensor
    std: Tensor
    sizes: Tensor

    def __init__(self, weights: str | Path | None = None, templates: str = "A") -> None:
        super().__init__()
        if templates not in IN_USE:
            raise UnknownName("templates", templates, IN_USE)
        path = find_hr(weights)
        loaded = read_weights(path)
        self._assemble(loaded, templates)
        self.weights_sha256 = sha256(path)

    def _assemble(self, loaded: Loaded, in_use: str) -> None:
        self.variant = loaded.variant
        self.net = HRNet(loaded.variant)
        if loaded.state["score4"].shape != self.net.score4.shape:
            self.net.score4 = torch.empty_like(loaded.state["score4"])
        self.net.load_state_dict(loaded.state)
        self.in_use = IN_USE[in_use]
        sizes = torch.tensor([[2 * w + 1, 2 * h + 1] for w, h, _ in TEMPLATES])
        if loaded.clusters is not None:
            sizes = torch.from_numpy(loaded.clusters[:, 2:4] - loaded.clusters[:, :2] + 1).float()
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("mean", torch.tensor(loaded.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(loaded.std)[:, None, None], persistent=False)
        self.templates = tuple(f"{w:.0f}x{h:.0f}" for w, h in sizes[list(self.in_use)].tolist())
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.freeze()

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 -> (B, 125, rows, cols), HR's ``score_final``."""
        x = (images - self.mean.to(images.dtype)) / self.std.to(images.dtype)
        scores: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return scores

    def decode(self, regression: Tensor) -> Tensor:
        """Boxes as published, in pixels of the image that was run.

        Args:
            regression: (B, 100, rows, cols): tx, ty, tw, th of 25 templates each.

        Returns:
            (B, rows, cols, 25, 4) x1, y1, x2, y2. Cell (i, j), counted from 0, is centred at (8 j - 1, 8 i - 1); then
            cx += w tx, w *= exp(tw), and the same for y.
        """
        batch, _, rows, cols = regression.shape
        t = regression.reshape(batch, 4, COUNT, rows, cols).permute(0, 3, 4, 2, 1)
        x = torch.arange(cols, device=t.device, dtype=t.dtype) * STRIDE - 1
        y = torch.arange(rows, device=t.device, dtype=t.dtype) * STRIDE - 1
        grid = torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), dim=-1)[:, :, None]
        sizes = self.sizes.to(t.dtype)
        centre = grid + sizes * t[..., :2]
        half = sizes * t[..., 2:].exp() / 2
        return torch.cat((centre - half, centre + half), dim=-1)

    def respond(self, images: Tensor) -> Responses:
        """One scale, the templates in use; the responses of a cell lie side by side."""
        scores = self.maps(images)
        batch, _, rows, cols = scores.shape
        use = torch.tensor(self.in_use, device=images.device)
        logits = scores[:, :COUNT][:, use].permute(0, 2, 3, 1).flatten(1)
        with torch.no_grad():
            boxes = self.decode(scores[:, COUNT:].detach())[:, :, :, use].reshape(batch, -1, 4)
        # Where the deep branch looks, whose field is the larger: pixel 8 j - 2 from 0 in MatConvNet's, 8 j - 4 in the
        # port's; half a pixel more is that pixel's middle.
        offset = -1.5 if self.variant == "matconvnet" else -3.5
        x = torch.arange(cols, device=images.device, dtype=images.dtype) * STRIDE + offset
        y = torch.arange(rows, device=images.device, dtype=images.dtype) * STRIDE + offset
        centres = torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), dim=-1).flatten(0, 1)
        templates = torch.arange(len(use), device=images.device).repeat(rows * cols)
        return Responses(logits, boxes, centres.repeat_interleave(len(use), dim=0), templates)

    def suppress(self, boxes: Tensor, logits: Tensor) -> Tensor:
        """Greedy NMS with the inclusive-pixel areas of HR's code."""
        return nms(boxes, logits, self.nms_iou, offset=1.0)

    def scales(self, height: int, width: int, setting: str) -> list[float]:
        """The pyramid's scales for an image of that size."""
        if not get_setting(setting).adaptive:
            return [s for s in (0.25, 0.5, 1.0, 2.0) if s <= 1 or max(height, width) * s <= MAX_SIDE]
        widest, tallest = self.sizes[list(range(4, 12))].max(dim=0).values.tolist()
        lowest = min(math.floor(math.log2(widest / width)), math.floor(math.log2(tallest / height)))
        highest = min(1.0, -math.log2(max(height, width) / MAX_SIDE))
        exponents: list[float] = [float(e) for e in range(lowest, 1)]
        exponents += [e for e in (0.5, 1.0) if e <= highest]
        return [2.0**e for e in exponents]

    @torch.no_grad()
    def pyramid(self, image: Tensor, setting: str = "benchmark") -> PyramidDetections:
        """HR's published inference on one image (1, 3, H, W) in 0..255.

        Args:
            image: any size; levels smaller than ``min_side`` are left out.
            setting: "demo" or "benchmark", see :data:`SETTINGS`.

        Raises:
            UnknownName: no such setting.
            ImageError: more than one image.
        """
        how = get_setting(setting)
        if image.ndim != 4 or len(image) != 1:
            raise ImageError(f"the pyramid takes one image (1, 3, H, W), got shape {tuple(image.shape)}")
        height, width = image.shape[2:]
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for scale in self.scales(height, width, setting):
            size = [math.ceil(side * scale - 1e-9) for side in (height, width)]
            if min(size) < self.min_side:
                continue
            level = image if scale == 1 else resize(image, size)
            scores = self.maps(level)
            use = torch.zeros(COUNT, dtype=torch.bool, device=image.device)
            use[list(IN_USE["A" if scale <= 1 else "AB"])] = True
            logits = scores[0, :COUNT].permute(1, 2, 0)
            chosen = (logits.sigmoid() > how.threshold) & use
            boxes = self.decode(scores[:, COUNT:])[0][chosen] / scale
            found.append((boxes, logits[chosen], chosen.nonzero()[:, 2], boxes.new_full((len(boxes),), scale)))
        if not found:
            raise ImageError(f"no level of the pyramid of {width} x {height} px has sides of {self.min_side} px")
        boxes, logits, templates, scales = (torch.cat(parts) for parts in zip(*found, strict=True))
        best = nms(boxes, logits, how.nms_iou, offset=1.0)
        boxes = boxes[best]
        if how.rounded:
            boxes = torch.sign(boxes) * (boxes.abs() + 0.5).floor()  # MATLAB's round: halves away from zero
        else:
            limit = torch.tensor([width, height, width, height], device=image.device)
            boxes = torch.minimum(boxes.clamp_min(1), limit)
        return PyramidDetections(boxes, logits[best], templates[best], scales[best])

    def detect_pyramid(self, image: Tensor, threshold: float = 0.03, setting: str = "benchmark") -> Detections:
        """:meth:`pyramid` as :class:`Detections` of probability >= ``threshold``; ``responses`` are -1."""
        found = self.pyramid(image, setting)
        scores = found.logits.sigmoid()
        kept = scores >= threshold
        none = torch.full((int(kept.sum()),), -1, dtype=torch.long, device=image.device)
        return Detections(found.boxes[kept], scores[kept], none)

    def extra_repr(self) -> str:
        """The base's, and the variant."""
        return f"{super().extra_repr()}, variant={self.variant!r}"


def random_hr(seed: int = 0, variant: str = "matconvnet", templates: str = "A") -> HR:
    """HR's architecture with random weights: for receptive fields and cost, no detector of anything.

    Use ``load_detector("lipcore.detectors.hr:random_hr")``. Weights are Kaiming's, and each bottleneck's last
    convolution is halved so that activations keep their size through 30 of them.
    """
    if variant not in VARIANTS:
        raise UnknownName("variant", variant, VARIANTS)
    if templates not in IN_USE:
        raise UnknownName("templates", templates, IN_USE)
    generator = torch.Generator().manual_seed(seed)
    net = HRNet(variant)
    state = net.state_dict()
    for name, value in state.items():
        if name.endswith(".bias"):
            value.zero_()
        elif name != "score4":
            gain = 0.5 if ".branch2c." in name else 1.0
            std = gain * math.sqrt(2 / value[0].numel())
            value.copy_(torch.randn(value.shape, generator=generator) * std)
    detector = HR.__new__(HR)
    Detector.__init__(detector)
    mean, std_ = normalisation(variant)
    detector._assemble(Loaded(variant, state, None, mean, std_), templates)
    return detector


def get_setting(name: str) -> Setting:
    """The setting of that name; raises :class:`UnknownName`."""
    if name not in SETTINGS:
        raise UnknownName("setting", name, SETTINGS)
    return SETTINGS[name]


def resize(image: Tensor, size: list[int]) -> Tensor:
    """Bilinear to ``size`` (height, width), smoothed where it shrinks, as MATLAB's imresize."""
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 255)


def find_hr(given: str | Path | None) -> Path:
    """The file ``given``, else one put beside our own weights or into the cache."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise WeightsError(f"no weights file at {path}")
        return path
    found = locate("hr")
    if found is None:
        raise WeightsError(f"the weights of 'hr' are not on this machine. {registry()['hr'].get}")
    return found
