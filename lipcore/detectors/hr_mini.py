"""HR-mini: a small HR ("Finding Tiny Faces", Hu & Ramanan, CVPR 2017, arXiv 1612.04402) with weights of our own.

What is HR's: bottleneck residual trunk without its last stage; ``score_res3`` at stride 8 plus the bilinearly
upsampled ``score_res4`` of stride 16; for every cell of stride 8 and every template one face logit and four box
numbers; templates clustered from the data by k-medoids on IoU; logistic loss with balanced sampling and hard mining.

What is smaller: channels, the number of bottlenecks at strides 4 and 8, and 12 templates for 25. The stage of stride 16
keeps its depth, and every second 3x3 convolution there is dilated by 2, so that the theoretical receptive field stays
near that of HR's ResNet-101 (:meth:`HRMiniNet.receptive_field`).

What is changed: every reduction of resolution is a convolution whose kernel is as wide as its stride, so that the cell
(row, column) is centred on the pixel (8 column + 4, 8 row + 4) at every depth, and a flipped image gives a flipped map.

The weights are made by :mod:`lipcore.training.hr_mini` and described in ``data/weights/hr_mini.md``; those of
HR-mini II, whose training went on from them, in ``data/weights/hr_mini_2.md``; those of its short and its long
sister, which differ in the dilations at stride 16 alone, in ``data/weights/hr_mini_reach.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.boxes import nms
from lipcore.detectors.base import Detections, Detector, Responses
from lipcore.detectors.checkpoints import match, read_checkpoint
from lipcore.detectors.weights import find_weights, sha256
from lipcore.errors import WeightsError

STRIDE = 8
#: The deepest stage's stride; images are padded to a multiple of it.
PAD_TO = 16
FORMAT = "lipcore.hr_mini/1"
#: RGB mean of HR's training, in 0..255, and one divisor for all channels.
MEAN, STD = (119.2996, 110.5463, 101.8384), 64.0

STEM = 16
#: Stages res2, res3, res4: channels, channels inside the bottleneck, blocks, dilations taken in turn.
STAGES = ((48, 32, 2, (1,)), (128, 64, 4, (1,)), (256, 64, 16, (1, 2)))
DILATIONS = STAGES[-1][-1]
#: Log sizes are clamped here before exp: a box is at most e^2 times its template.
MAX_LOG_SIZE = 2.0


class ConvBN(nn.Module):
    """A convolution that keeps resolution, or divides it by ``stride`` with a kernel of that width, and batch norm.

    Args:
        channels: input channels.
        out: output channels.
        kernel: odd, or equal to ``stride``.
        stride: 1 or 2.
        dilation: of the kernel.
        folded: batch norm is part of the convolution, which then has a bias: how the weights ship.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, dilation: int = 1, *, folded: bool = False
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2) if stride == 1 else 0
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=folded)
        self.bn = nn.Identity() if folded else nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.bn(self.conv(x))
        return y


class Bottleneck(nn.Module):
    """Reduce 1x1, 3x3, expand 1x1, added to the input (He et al. 2016, fig. 5 right)."""

    def __init__(self, channels: int, inside: int, dilation: int, *, folded: bool = False) -> None:
        super().__init__()
        self.branch2a = ConvBN(channels, inside, 1, folded=folded)
        self.branch2b = ConvBN(inside, inside, 3, dilation=dilation, folded=folded)
        self.branch2c = ConvBN(inside, channels, 1, folded=folded)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        return F.relu(x + self.branch2c(F.relu(self.branch2b(F.relu(self.branch2a(x))))))


def stage(channels: int, out: int, inside: int, blocks: int, dilations: Sequence[int], folded: bool) -> nn.Sequential:
    """Half the resolution, then ``blocks`` bottlenecks."""
    reduce = [ConvBN(channels, out, 2, 2, folded=folded), nn.ReLU()]
    return nn.Sequential(
        *reduce, *(Bottleneck(out, inside, dilations[i % len(dilations)], folded=folded) for i in range(blocks))
    )


class HRMiniNet(nn.Module):
    """The network alone: normalised images in, score maps out; trained with batch norm, shipped with it folded.

    Args:
        templates: how many; the head has five channels for each.
        dilations: of the 3x3 convolutions at stride 16, taken in turn: they decide how far a response sees.
        folded: see :class:`ConvBN`.
    """

    def __init__(self, templates: int, dilations: Sequence[int] = DILATIONS, *, folded: bool = False) -> None:
        super().__init__()
        (c2, m2, n2, d2), (c3, m3, n3, d3), (c4, m4, n4, _) = STAGES
        self.templates, self.dilations = templates, tuple(dilations)
        self.stem = ConvBN(12, STEM, 3, folded=folded)
        self.res2 = stage(STEM, c2, m2, n2, d2, folded)
        self.res3 = stage(c2, c3, m3, n3, d3, folded)
        self.res4 = stage(c3, c4, m4, n4, self.dilations, folded)
        self.score_res3 = nn.Conv2d(c3, 5 * templates, 1)
        self.score_res4 = nn.Conv2d(c4, 5 * templates, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised, H and W multiples of 16 -> (B, 5 T, H/8, W/8): T logits, then tx, ty, tw, th."""
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)  # with a 3x3: a 6x6 of stride 2
        x3 = self.res3(self.res2(F.relu(self.stem(x))))
        x4 = self.res4(x3)
        up = F.interpolate(self.score_res4(x4), scale_factor=2, mode="bilinear", align_corners=False)
        scores: Tensor = self.score_res3(x3) + up
        return scores

    def receptive_field(self) -> int:
        """Side of the theoretical receptive field of one score, in pixels."""
        side = 2 + 2 * 2  # the stem: 3x3 on blocks of two pixels
        stride = 2
        for _, _, blocks, dilations in (*STAGES[:-1], (*STAGES[-1][:-1], self.dilations)):
            side, stride = side + stride, stride * 2
            side += sum(2 * dilations[i % len(dilations)] for i in range(blocks)) * stride
        return side + stride  # the bilinear upsampling reads two neighbours

    def folded_state(self) -> dict[str, Tensor]:
        """The weights of the same network with batch norm folded into the convolutions, by name."""
        state = {}
        for name, module in self.named_modules():
            if isinstance(module, ConvBN) and isinstance(module.bn, nn.BatchNorm2d):
                bn = module.bn
                assert bn.running_var is not None
                assert bn.running_mean is not None
                gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
                state[f"{name}.conv.weight"] = module.conv.weight * gain[:, None, None, None]
                state[f"{name}.conv.bias"] = bn.bias - bn.running_mean * gain
            elif name.startswith("score_res"):
                state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias
        return {name: value.detach().clone() for name, value in state.items()}


def normalise(images: Tensor) -> Tensor:
    """0..255 RGB -> what the network reads."""
    mean = torch.tensor(MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    return (images - mean) / STD


def cell_centres(rows: int, cols: int, device: torch.device | str = "cpu") -> Tensor:
    """(rows * cols, 2): x, y in pixels of the centre of each cell, row by row."""
    y = (torch.arange(rows, device=device) + 0.5) * STRIDE
    x = (torch.arange(cols, device=device) + 0.5) * STRIDE
    return torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), dim=-1).flatten(0, 1)


def decode(regression: Tensor, centres: Tensor, templates: Tensor) -> Tensor:
    """Boxes from the head's numbers (HR's, section 3 of its supplement): cx += w tx, w *= exp(tw); y, h alike.

    Args:
        regression: (..., N, T, 4) tx, ty, tw, th.
        centres: (N, 2) pixels.
        templates: (T, 2) width and height in pixels.

    Returns:
        (..., N, T, 4) xyxy in pixels.
    """
    centre = centres[:, None] + regression[..., :2] * templates
    half = templates * regression[..., 2:].clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE).exp() / 2
    return torch.cat((centre - half, centre + half), dim=-1)


class HRMini(Detector):
    """HR-mini as a frozen detector.

    Args:
        weights: path of an ``hr_mini.safetensors``; the shipped one by default.

    Raises:
        WeightsError: no such file, or not an HR-mini.
    """

    name = "hr-mini"
    nms_iou = 0.3
    min_side = 16
    #: Scale of the image -> templates in use there: at its own scale all, below it the large, above it the small ones.
    #: Named by the template's longer side, in pixels.
    PYRAMID: tuple[tuple[float, float, float], ...] = (
        (0.25, 60, 1e9),
        (0.5, 60, 1e9),
        (1.0, 0, 1e9),
        (2.0, 0, 45),
    )

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = find_weights(self.name, weights)
        state = read_weights(path)
        sizes, dilations = state.pop("templates"), state.pop("dilations")
        self.register_buffer("sizes", sizes, persistent=False)
        self.sizes: Tensor
        self.templates = tuple(f"{w:.0f}x{h:.0f}" for w, h in sizes.tolist())
        self.net = HRMiniNet(len(sizes), dilations.int().tolist(), folded=True)
        expected = {name: tuple(value.shape) for name, value in self.net.state_dict().items()}
        self.net.load_state_dict(match(path, "HR-mini", state, expected))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights_sha256 = sha256(path)
        self.freeze()

    def respond(self, images: Tensor) -> Responses:
        """Every template of every cell of stride 8; the T responses of a cell lie side by side."""
        height, width = images.shape[2:]
        x = F.pad(normalise(images), (0, -width % PAD_TO, 0, -height % PAD_TO))
        # Cells whose centre lies in the padding stand for no place of the image.
        rows, cols = (height + STRIDE // 2 - 1) // STRIDE, (width + STRIDE // 2 - 1) // STRIDE
        scores = self.net(x)[:, :, :rows, :cols]
        count = len(self.templates)
        scores = scores.permute(0, 2, 3, 1).reshape(len(images), rows * cols, 5, count)
        centres = cell_centres(rows, cols, images.device).to(images.dtype)
        with torch.no_grad():
            boxes = decode(scores[:, :, 1:].detach().transpose(2, 3), centres, self.sizes.to(images.dtype))
        templates = torch.arange(count, device=images.device).repeat(rows * cols)
        return Responses(
            scores[:, :, 0].flatten(1), boxes.flatten(1, 2), centres.repeat_interleave(count, dim=0), templates
        )

    @torch.no_grad()
    def detect_pyramid(self, image: Tensor, threshold: float = 0.5) -> Detections:
        """Detections of one image (1, 3, H, W) over :attr:`PYRAMID`, one NMS over all scales, best first.

        ``responses`` are indices into the response map of the scale that each detection came from.
        """
        boxes, logits, responses = [], [], []
        longer = self.sizes.max(dim=1).values
        for scale, smallest, largest in self.PYRAMID:
            size = [max(self.min_side, round(side * scale)) for side in image.shape[2:]]
            resized = image if scale == 1 else resize(image, size)
            found = self(resized)
            used = ((longer >= smallest) & (longer <= largest))[found.templates]
            kept = ((found.logits[0].sigmoid() >= threshold) & used).nonzero()[:, 0]
            ratio = image.new_tensor([image.shape[3] / size[1], image.shape[2] / size[0]]).repeat(2)
            boxes.append(found.boxes[0, kept] * ratio)
            logits.append(found.logits[0, kept])
            responses.append(kept)
        every, score, index = torch.cat(boxes), torch.cat(logits), torch.cat(responses)
        best = nms(every, score, self.nms_iou)
        return Detections(every[best], score[best].sigmoid(), index[best])


class HRMini2(HRMini):
    """HR-mini II: the same network, trained further on three times as many photos, with 15 templates up to 284 px.

    Args:
        weights: path of an ``hr_mini_2.safetensors``; the shipped one by default.

    Raises:
        WeightsError: no such file, or not an HR-mini.
    """

    name = "hr-mini-2"


class HRMiniShort(HRMini):
    """HR-mini with a short reach, for :mod:`lipcore.studies.reach`."""

    name = "hr-mini-short"


class HRMiniEven(HRMini):
    """HR-mini with its own reach, trained as its short and its long sister were."""

    name = "hr-mini-even"


class HRMiniLong(HRMini):
    """HR-mini with a long reach."""

    name = "hr-mini-long"


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """``image`` (B, 3, H, W) in 0..255, bilinear to ``size`` (height, width), smoothed where it shrinks."""
    resized = F.interpolate(image, size=list(size), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 255)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of an ``hr_mini.safetensors`` as float32, among them ``templates`` (T, 2) and ``dilations`` (D,)."""
    state = read_checkpoint(path, FORMAT)
    sizes = state.get("templates", torch.empty(0))
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not bool((sizes > 0).all() and torch.isfinite(sizes).all()):
        raise WeightsError(f"{path} does not hold HR-mini: it has no templates (T, 2), widths and heights above 0")
    dilations = state.setdefault("dilations", torch.tensor(DILATIONS, dtype=torch.float32))
    if dilations.ndim != 1 or not bool((dilations >= 1).all() and (dilations == dilations.round()).all()):
        raise WeightsError(f"{path} does not hold HR-mini: its dilations are no whole numbers from 1 on")
    return state
