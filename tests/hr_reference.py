"""HR computed a second time, in numpy."""

from __future__ import annotations

import numpy as np

MEAN = np.array([119.2996, 110.5463, 101.8384])


STAGES = [("2", ["a", "b", "c"], 64, 1), ("3", ["a", "b1", "b2", "b3"], 128, 2)]


def conv(x: np.ndarray, filters: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """x (C, H, W), filters (h, w, in, out)."""
    h, w = filters.shape[:2]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (h, w), axis=(1, 2))[:, ::stride, ::stride]
    return np.tensordot(filters.astype(np.float64), windows, axes=((2, 0, 1), (0, 3, 4)))


def pool(x: np.ndarray, before: int, after: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (before, after), (before, after)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))


def double(x: np.ndarray) -> np.ndarray:
    """Transposed convolution 4x4 of stride 2 with the bilinear kernel, nothing cropped: 2 n + 2 a side."""
    line = np.array([0.25, 0.75, 0.75, 0.25])
    out = np.zeros((len(x), 2 * x.shape[1] + 2, 2 * x.shape[2] + 2))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += x[:, i, j, None, None] * np.outer(line, line)
    return out


def reference(image: np.ndarray, arrays: dict[str, np.ndarray], variant: str) -> np.ndarray:
    """(3, H, W) in 0..255 -> (125, rows, cols), by the layer table."""
    mat = variant == "matconvnet"

    def layer(x: np.ndarray, name: str, bn: str, stride: int = 1, pad: int = 0) -> np.ndarray:
        mult, bias, moments = (arrays[f"{bn}_{p}"].astype(np.float64) for p in ("mult", "bias", "moments"))
        y = conv(x, arrays[f"{name}_filter"], stride, pad)
        return (y - moments[:, :1, None]) / moments[:, 1:, None] * mult[..., None] + bias[..., None]

    if mat:
        x = image - MEAN[:, None, None]
    else:
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        x = (image / 255 - mean[:, None, None]) / std[:, None, None]
    x = np.maximum(layer(x, "conv1", "bn_conv1", 2, 3), 0)
    x = pool(x, 0, 1) if mat else pool(x, 1, 1)
    ends = {}
    for stage, blocks, _, first_stride in STAGES:
        for i, block in enumerate(blocks):
            stride = first_stride if i == 0 else 1
            early, late = (stride, 1) if mat else (1, stride)
            res, bn = f"res{stage}{block}_branch", f"bn{stage}{block}_branch"
            y = np.maximum(layer(x, f"{res}2a", f"{bn}2a", early), 0)
            y = np.maximum(layer(y, f"{res}2b", f"{bn}2b", late, 1), 0)
            y = layer(y, f"{res}2c", f"{bn}2c")
            x = np.maximum((layer(x, f"{res}1", f"{bn}1", stride) if i == 0 else x) + y, 0)
        ends[stage] = x
    score3, score4 = (
        conv(ends[s], arrays[f"score_res{s}_filter"], 1, 0) + arrays[f"score_res{s}_bias"].reshape(-1, 1, 1)
        for s in "34"
    )
    up = double(score4)[:, 1:-2, 1:-2] if mat else double(score4)[:, 1:-1, 1:-1]
    rows, cols = min(up.shape[1], score3.shape[1]), min(up.shape[2], score3.shape[2])
    return score3[:, :rows, :cols] + up[:, :rows, :cols]
