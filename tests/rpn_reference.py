"""Faster R-CNN's region proposals a second time: the layer table of its first stage, and what it computes, in numpy."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, np.ndarray]


STAGES = ((1, 64, 3), (2, 128, 4), (3, 256, 6), (4, 512, 3))


BODY, FPN = "backbone.body", "backbone.fpn"


def convolutions() -> list[tuple[str, str, tuple[int, int, int, int]]]:
    """Of the trunk: name of the convolution, of its batch norm, shape (out, in, h, w)."""
    table = [(f"{BODY}.conv1", f"{BODY}.bn1", (64, 3, 7, 7))]
    channels = 64
    for stage, inside, blocks in STAGES:
        for i in range(blocks):
            block = f"{BODY}.layer{stage}.{i}"
            table.append((f"{block}.conv1", f"{block}.bn1", (inside, channels, 1, 1)))
            table.append((f"{block}.conv2", f"{block}.bn2", (inside, inside, 3, 3)))
            table.append((f"{block}.conv3", f"{block}.bn3", (4 * inside, inside, 1, 1)))
            if i == 0:
                table.append((f"{block}.downsample.0", f"{block}.downsample.1", (4 * inside, channels, 1, 1)))
            channels = 4 * inside
    return table


def heads() -> list[tuple[str, str, tuple[int, int, int, int]]]:
    """Of pyramid and head: the name now, the name in the published checkpoint, shape; all have a bias."""
    table = []
    for i, channels in enumerate((256, 512, 1024, 2048)):
        table.append((f"{FPN}.inner_blocks.{i}.0", f"{FPN}.inner_blocks.{i}", (256, channels, 1, 1)))
        table.append((f"{FPN}.layer_blocks.{i}.0", f"{FPN}.layer_blocks.{i}", (256, 256, 3, 3)))
    table.append(("rpn.head.conv.0.0", "rpn.head.conv", (256, 256, 3, 3)))
    table.append(("rpn.head.cls_logits", "rpn.head.cls_logits", (3, 256, 1, 1)))
    table.append(("rpn.head.bbox_pred", "rpn.head.bbox_pred", (12, 256, 1, 1)))
    return table


def published(arrays: Arrays) -> dict[str, Tensor]:
    """The older names, no counters, and a second stage that nobody asks for."""
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    for new, old, _ in heads():
        for part in ("weight", "bias"):
            state[f"{old}.{part}"] = state.pop(f"{new}.{part}")
    return state | {
        "roi_heads.box_head.fc6.weight": torch.zeros(4, 12544),
        "roi_heads.box_head.fc6.bias": torch.ones(4),
    }


def present(arrays: Arrays) -> dict[str, Tensor]:
    """Today's names, with the counters of batch norms that were trained."""
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    state |= {f"{bn}.num_batches_tracked": torch.tensor(7) for _, bn, _ in convolutions()}
    return state | {"roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 4)}


def conv(x: np.ndarray, weight: np.ndarray, stride: int = 1, pad: int = 0) -> np.ndarray:
    """x (C, H, W), weight (out, in, h, w)."""
    h, w = weight.shape[2:]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (h, w), axis=(1, 2))[:, ::stride, ::stride]
    return np.tensordot(weight.astype(np.float64), windows, axes=((1, 2, 3), (0, 3, 4)))


def maps(x: np.ndarray, arrays: Arrays, eps: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Padded and normalised (3, H, W) -> the two outputs of the head for the five levels."""

    def layer(x: np.ndarray, name: str, bn: str, stride: int = 1, pad: int = 0) -> np.ndarray:
        parts = ("weight", "bias", "running_mean", "running_var")
        gain, bias, mean, var = (arrays[f"{bn}.{p}"].astype(np.float64)[:, None, None] for p in parts)
        return (conv(x, arrays[f"{name}.weight"], stride, pad) - mean) / np.sqrt(var + eps) * gain + bias

    def plain(x: np.ndarray, name: str, pad: int = 0) -> np.ndarray:
        return conv(x, arrays[f"{name}.weight"], 1, pad) + arrays[f"{name}.bias"].astype(np.float64)[:, None, None]

    x = np.maximum(layer(x, f"{BODY}.conv1", f"{BODY}.bn1", 2, 3), 0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
    trunk = []
    for stage, _, blocks in STAGES:
        for i in range(blocks):
            block, stride = f"{BODY}.layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = np.maximum(layer(x, f"{block}.conv1", f"{block}.bn1"), 0)
            y = np.maximum(layer(y, f"{block}.conv2", f"{block}.bn2", stride, 1), 0)
            y = layer(y, f"{block}.conv3", f"{block}.bn3")
            if i == 0:
                x = layer(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            x = np.maximum(x + y, 0)
        trunk.append(x)
    levels: list[np.ndarray] = []
    top = np.zeros((256, 1, 1))
    for i in (3, 2, 1, 0):
        _, height, width = trunk[i].shape
        rows, cols = (np.arange(n) * m // n for n, m in zip((height, width), top.shape[1:], strict=True))
        top = plain(trunk[i], f"{FPN}.inner_blocks.{i}.0") + top[:, rows][:, :, cols]
        levels.insert(0, plain(top, f"{FPN}.layer_blocks.{i}.0", 1))
    levels.append(levels[3][:, ::2, ::2])
    found = []
    for level in levels:
        x = np.maximum(plain(level, "rpn.head.conv.0.0", 1), 0)
        found.append((plain(x, "rpn.head.cls_logits"), plain(x, "rpn.head.bbox_pred")))
    return found


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear between the centres of pixels, nothing smoothed."""
    for axis, n in enumerate(size, start=1):
        m = image.shape[axis]
        at = np.maximum((np.arange(n) + 0.5) * m / n - 0.5, 0)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, m - 1)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


def reference(
    image: np.ndarray, arrays: Arrays, eps: float, shorter: int, longer: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[int, int]]:
    """(3, H, W) in 0..255 -> for each level logits (A,) and boxes (A, 4), unclipped; both in pixels of what the
    network reads, whose height and width before padding are returned too."""
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (image / 255 - mean) / std
    height, width = image.shape[1:]
    if shorter:
        scale = min(shorter / min(height, width), longer / max(height, width))
        height, width = math.floor(height * scale), math.floor(width * scale)
        x = resized(x, (height, width))
    down, across = (math.ceil(n / 32) * 32 for n in (height, width))
    padded = np.zeros((3, down, across))
    padded[:, :height, :width] = x
    found = []
    for size, (objectness, deltas) in zip((32, 64, 128, 256, 512), maps(padded, arrays, eps), strict=True):
        _, rows, cols = objectness.shape
        logits, boxes = [], []
        for row in range(rows):
            for col in range(cols):
                for a, ratio in enumerate((0.5, 1.0, 2.0)):
                    right, bottom = np.round(size / math.sqrt(ratio) / 2), np.round(size * math.sqrt(ratio) / 2)
                    x0, y0, w, h = col * (across // cols), row * (down // rows), 2 * right, 2 * bottom
                    tx, ty, tw, th = deltas[4 * a : 4 * a + 4, row, col]
                    x1, y1 = x0 + tx * w, y0 + ty * h
                    w, h = (n * math.exp(min(t, math.log(1000 / 16))) for n, t in ((w, tw), (h, th)))
                    logits.append(objectness[a, row, col])
                    boxes.append([x1 - w / 2, y1 - h / 2, x1 + w / 2, y1 + h / 2])
        found.append((np.array(logits), np.array(boxes)))
    return found, (height, width)


def clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.stack([boxes[:, i].clip(0, (width, height)[i % 2]) for i in range(4)], axis=1)


def proposals(levels: list[tuple[np.ndarray, np.ndarray]], counted: dict[str, int] | None = None) -> list[int]:
    """Numbers of the proposals, over all levels, best first; ``counted`` gets how many each step took away."""
    taken = dict.fromkeys(("before", "small", "overlap", "after"), 0)
    kept: list[tuple[float, int]] = []
    first = 0
    for logits, boxes in levels:
        order = sorted(range(len(logits)), key=lambda i, logits=logits: -logits[i])
        taken["before"] += len(order[1000:])
        order = order[:1000]
        solid = [i for i in order if min(boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]) >= 1e-3]
        taken["small"] += len(order) - len(solid)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        alive: list[int] = []
        for i in solid:
            mine = boxes[alive]
            w = np.minimum(mine[:, 2], boxes[i, 2]) - np.maximum(mine[:, 0], boxes[i, 0])
            h = np.minimum(mine[:, 3], boxes[i, 3]) - np.maximum(mine[:, 1], boxes[i, 1])
            shared = w.clip(0) * h.clip(0)
            if (shared / (area[alive] + area[i] - shared) > 0.7).any():
                taken["overlap"] += 1
            else:
                alive.append(i)
        kept += [(-logits[i], first + i) for i in alive]
        first += len(logits)
    kept.sort()
    taken["after"] = len(kept[1000:])
    if counted is not None:
        counted |= taken
    return [i for _, i in kept[:1000]]


def picture(height: int, width: int, seed: int = 1) -> np.ndarray:
    """Noise on coarse blocks, so that scales differ."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.uniform(0, 200, (3, height // 16 + 1, width // 16 + 1)), np.ones((16, 16)))
    return np.floor(blocks[:, :height, :width] + rng.uniform(0, 56, (3, height, width)))


def batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).float()[None]
