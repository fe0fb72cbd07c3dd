"""Reading HR's two weights files into the terms of :mod:`lipcore.detectors.hr`; no code in a file is ever run.

Both layouts list the same convolutions under their own names: :func:`convolutions` is the dictionary. Batch norm is
folded into the convolutions here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from torch import Tensor

from lipcore.datasets.mat_files import try_mat_files
from lipcore.detectors.checkpoints import match, read_checkpoint
from lipcore.errors import DataError, WeightsError, short

COUNT = 25
#: Stage: bottlenecks, channels inside them; four times as many come out.
STAGES = {"res2": (3, 64), "res3": (4, 128), "res4": (23, 256)}
MEAN = (119.2996, 110.5463, 101.8384)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def block_names(stage: str) -> list[str]:
    """Caffe's names of a stage's bottlenecks: res2a, res2b, res2c; res3a, res3b1, ...; res4a, res4b1 ... res4b22."""
    blocks = STAGES[stage][0]
    if stage == "res2":
        return [f"{stage}{letter}" for letter in "abc"]
    return [f"{stage}a", *(f"{stage}b{i}" for i in range(1, blocks))]


@dataclass(frozen=True)
class Loaded:
    """A weights file as ``HRNet``'s ``state``, and ``clusters`` (25, 5) where the file has them."""

    variant: str
    state: dict[str, Tensor]
    clusters: NDArray[np.float64] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def normalisation(variant: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and divisor per channel, in 0..255."""
    if variant == "matconvnet":
        return MEAN, (1.0, 1.0, 1.0)
    mean, std = (tuple(255 * v for v in values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def read_weights(path: Path) -> Loaded:
    """Reads either file, told apart by its first bytes; no code in it is run."""
    with path.open("rb") as file:
        head = file.read(128)
    if head[:8] == b"\x89HDF\r\n\x1a\n" or head.startswith(b"MATLAB 7.3"):
        raise WeightsError(f"{path} is a MATLAB 7.3 file; hr_res101.mat is version 5 (in MATLAB: save with '-v7')")
    return read_matconvnet(path) if head.startswith(b"MATLAB 5.0") else read_port(path)


def convolutions() -> Iterator[tuple[str, str, str, str, str]]:
    """Every convolution with batch norm: our name, MatConvNet's two, the port's two."""
    yield "conv1", "conv1", "bn_conv1", "model.conv1", "model.bn1"
    for layer, stage in enumerate(STAGES, start=1):
        for i, block in enumerate(block_names(stage)):
            branches = [(f"branch2{c}", f"conv{n}", f"bn{n}") for n, c in enumerate("abc", start=1)]
            if i == 0:
                branches.append(("branch1", "downsample.0", "downsample.1"))
            for branch, conv, bn in branches:
                port = f"model.layer{layer}.{i}"
                yield (
                    f"{stage}.{block}.{branch}",
                    f"{block}_{branch}",
                    f"{block.replace('res', 'bn')}_{branch}",
                    f"{port}.{conv}",
                    f"{port}.{bn}",
                )


def filters() -> Iterator[tuple[int, int, int, int]]:
    """The filters' shapes, (out, in, h, w), in the order of :func:`convolutions`."""
    yield 64, 3, 7, 7
    channels = 64
    for blocks, inside in STAGES.values():
        for i in range(blocks):
            yield inside, channels, 1, 1
            yield inside, inside, 3, 3
            yield 4 * inside, inside, 1, 1
            if i == 0:
                yield 4 * inside, channels, 1, 1
            channels = 4 * inside


def shapes(variant: str) -> dict[str, tuple[tuple[int, ...], ...]]:
    """What a file of that variant must hold: name -> the shapes that are right (the first one is usual)."""
    expected: dict[str, tuple[tuple[int, ...], ...]] = {}
    for (_, mat, mat_bn, port, port_bn), (out, channels, h, w) in zip(convolutions(), filters(), strict=True):
        if variant == "matconvnet":
            expected[f"{mat}_filter"] = ((h, w, channels, out),)
            expected |= {f"{mat_bn}_{part}": ((out,),) for part in ("mult", "bias")}
            expected[f"{mat_bn}_moments"] = ((out, 2),)
        else:
            expected[f"{port}.weight"] = ((out, channels, h, w),)
            expected |= {f"{port_bn}.{p}": ((out,),) for p in ("weight", "bias", "running_mean", "running_var")}
    n = 5 * COUNT
    for head, channels in (("score_res3", 512), ("score_res4", 1024)):
        if variant == "matconvnet":
            expected |= {f"{head}_filter": ((1, 1, channels, n),), f"{head}_bias": ((n,),)}
        else:
            expected |= {f"{head}.weight": ((n, channels, 1, 1),), f"{head}.bias": ((n,),)}
    if variant == "matconvnet":
        expected["score4f"] = ((4, 4, n, n), (4, 4, 1, n))
    else:
        expected["score4_upsample.weight"] = ((n, n, 4, 4),)
    return expected


def fold(weight: NDArray[Any], gain: NDArray[Any], shift: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """A convolution (out, in, h, w) followed by ``gain * x + shift``: its weight and bias."""
    folded = np.ascontiguousarray(weight * gain.astype(np.float32)[:, None, None, None], dtype=np.float32)
    return torch.from_numpy(folded), torch.from_numpy(shift.astype(np.float32))


def upsampling(weight: Tensor) -> Tensor:
    """(125, 125, 4, 4), input channel first -> (125, 1, 4, 4) where no channel reads another."""
    diagonal = torch.diagonal(weight).permute(2, 0, 1)
    if int(weight.count_nonzero()) == int(diagonal.count_nonzero()):
        return diagonal[:, None].contiguous()
    return weight.contiguous()


def read_matconvnet(path: Path) -> Loaded:
    """``hr_res101.mat``: a saved DagNN; ``params`` hold the arrays, filters as (h, w, in, out)."""
    try:
        try_mat_files([path])  # a damaged file can end the process, and so another one reads it first
        net = loadmat(str(path), struct_as_record=False, squeeze_me=False)["net"][0, 0]
        # The last two axes of a filter are kept however small: nothing is squeezed but vectors.
        raw = {str(p.name.item()): np.asarray(p.value) for p in net.params.flat}
    except DataError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # what a file lacks leads to errors of many kinds
        said = f"{type(error).__name__}: {short(error)}"
        raise WeightsError(f"{path} is not a saved DagNN ('net' with 'params'): {said}") from error
    arrays = {}
    for name, value in raw.items():
        if value.dtype.kind not in "fiu":
            raise WeightsError(f"{path}: {name} holds {value.dtype}, not numbers")
        is_vector = name.endswith(("_mult", "_bias"))
        arrays[name] = value.reshape(-1) if is_vector else value
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value, np.float64)) for name, value in arrays.items()}
    match(path, "HR (MatConvNet's layout)", tensors, shapes("matconvnet"))
    if unlike := [name for name, value in arrays.items() if name.endswith("_moments") and not (value[:, 1] > 0).all()]:
        raise WeightsError(f"{path} does not hold HR: deviations that are not above 0 in {', '.join(unlike[:3])}")
    state: dict[str, Tensor] = {}
    for ours, conv, bn, _, _ in convolutions():
        mean, sigma = arrays[f"{bn}_moments"].astype(np.float64).T  # sigma = sqrt(variance + epsilon)
        gain = arrays[f"{bn}_mult"] / sigma
        shift = arrays[f"{bn}_bias"] - mean * gain
        weight = arrays[f"{conv}_filter"].transpose(3, 2, 0, 1)
        state[f"{ours}.weight"], state[f"{ours}.bias"] = fold(weight, gain, shift)
    for head in ("score_res3", "score_res4"):
        weight = np.ascontiguousarray(arrays[f"{head}_filter"].transpose(3, 2, 0, 1), dtype=np.float32)
        state[f"{head}.weight"] = torch.from_numpy(weight)
        state[f"{head}.bias"] = torch.from_numpy(arrays[f"{head}_bias"].astype(np.float32))
    up = torch.from_numpy(np.ascontiguousarray(arrays["score4f"], dtype=np.float32))
    # (h, w, out, in) for the full kernel; one of a single group holds each channel's own.
    state["score4"] = upsampling(up.permute(3, 2, 0, 1)) if up.shape[2] > 1 else up.permute(3, 2, 0, 1).contiguous()
    clusters = find_field(net, ("meta", "clusters"))
    if clusters is not None and clusters.shape != (COUNT, 5):
        raise WeightsError(f"{path}: meta.clusters has shape {clusters.shape}, expected ({COUNT}, 5)")
    mean, std = normalisation("matconvnet")
    image = find_field(net, ("meta", "normalization", "averageImage"))
    if image is not None:
        if image.size != 3:
            raise WeightsError(f"{path}: meta.normalization.averageImage has shape {image.shape}, expected 3 numbers")
        r, g, b = (float(v) for v in image.flat)
        mean = (r, g, b)
    return Loaded("matconvnet", state, clusters, mean, std)


def find_field(struct: Any, names: tuple[str, ...]) -> NDArray[np.float64] | None:
    """The numbers at ``struct.a.b.c``, or None where there is no such field."""
    for name in names:
        while isinstance(struct, np.ndarray) and struct.dtype == object and struct.size == 1:
            struct = struct.item()
        struct = getattr(struct, name, None)
        if struct is None:
            return None
    return np.asarray(struct, dtype=np.float64)


def read_port(path: Path) -> Loaded:
    """The PyTorch port's checkpoint: a dict with 'model', or that state dict itself."""
    state = match(path, "HR (the port's layout)", read_checkpoint(path), shapes("pytorch"), ignore=("model.fc.",))
    arrays = {name: value.numpy() for name, value in state.items()}
    ours: dict[str, Tensor] = {}
    for name, _, _, conv, bn in convolutions():
        sigma = np.sqrt(arrays[f"{bn}.running_var"].astype(np.float64) + 1e-5)
        gain = arrays[f"{bn}.weight"] / sigma
        shift = arrays[f"{bn}.bias"] - arrays[f"{bn}.running_mean"] * gain
        ours[f"{name}.weight"], ours[f"{name}.bias"] = fold(arrays[f"{conv}.weight"], gain, shift)
    for head in ("score_res3", "score_res4"):
        ours[f"{head}.weight"], ours[f"{head}.bias"] = state[f"{head}.weight"], state[f"{head}.bias"]
    ours["score4"] = upsampling(state["score4_upsample.weight"])
    mean, std = normalisation("pytorch")
    return Loaded("pytorch", ours, None, mean, std)
