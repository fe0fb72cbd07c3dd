"""The step that reads weights: every wrapping of the same tensors gives the same network, anything else one line."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from lipcore.detectors import load_detector
from lipcore.detectors.centerface import CenterFace
from lipcore.detectors.checkpoints import load_checkpoint, match, read_checkpoint
from lipcore.detectors.weights import find_weights
from lipcore.errors import LipcoreWarning, WeightsError


def net() -> nn.Module:
    return nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4)})


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.rand(v.shape, generator=generator) + 0.1 for name, v in net().state_dict().items()}
    return found | {"bn.num_batches_tracked": torch.tensor(7)}


def before(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {prefix + name: value for name, value in state.items()}


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda s: s,
    "ordered": OrderedDict,
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "sparse": lambda s: s | {"conv.bias": s["conv.bias"].to_sparse()},
    "not contiguous": lambda s: s | {"conv.weight": s["conv.weight"].transpose(2, 3).contiguous().transpose(2, 3)},
    "no counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "DataParallel": before("module."),
    "compiled": before("_orig_mod."),
    "both": before("module._orig_mod."),
    "compiled inside": lambda s: {k.replace("bn.", "bn._orig_mod."): v for k, v in s.items()},
    "in a module": before("detector."),
    "in one and DataParallel": before("module.net."),
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: torch.zeros(2)}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.1},
    "model": lambda s: {"epoch": 5, "model": before("module.")(s)},
    "model inside": lambda s: {"model": {"state_dict": s}},
    "Namespace beside": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
    "NumPy number beside": lambda s: {"state_dict": s, "best": np.float64(0.7), "n": np.int64(3)},
    "number among them": lambda s: s | {"epoch": 3},
}


@pytest.mark.parametrize("kind", [*WRAPPINGS, "legacy", "safetensors"])
def test_the_same_tensors_load_in_every_wrapping(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    path = tmp_path / "file.pth"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(WRAPPINGS.get(kind, WRAPPINGS["bare"])(state), path, _use_new_zipfile_serialization=kind != "legacy")
    module = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(module, path, "Toy")
    for name, value in module.state_dict().items():
        if name != "bn.num_batches_tracked":
            assert torch.equal(value, state[name].float()), name
            assert value.dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_lost_digits_are_told(tmp_path: Path, state: dict[str, Tensor], kind: torch.dtype) -> None:
    torch.save(
        {name: value.to(kind) if value.is_floating_point() else value for name, value in state.items()}, tmp_path / "a"
    )
    with pytest.warns(LipcoreWarning, match=f"stored in {str(kind).removeprefix('torch.')}: its scores differ"):
        found = read_checkpoint(tmp_path / "a")
    assert torch.equal(found["conv.weight"], state["conv.weight"].to(kind).float())


def refused(path: Path, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        load_checkpoint(net(), path, "Toy")
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) - len(str(path)) < 400
    assert "weights_only" not in said


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "NaN": (lambda s: s | {"conv.bias": torch.full((4,), torch.nan)}, r"not hold Toy: not finite \(1\): conv.bias$"),
    "overflow": (lambda s: s | {"bn.bias": torch.full((4,), 1e39, dtype=torch.float64)}, r"finite \(1\): bn.bias$"),
    "variance": (lambda s: s | {"bn.running_var": torch.tensor([1.0, 1, -1, 1])}, r"negative variance \(1\): bn.run"),
    "shape": (lambda s: s | {"conv.bias": torch.zeros(5)}, r"wrong shape \(1\): conv.bias \(5,\), expected \(4,\)$"),
    "missing": (lambda s: {"conv.weight": s["conv.weight"]}, r"missing \(5\): conv.bias, bn.weight, bn.bias, \.\.\.$"),
    "another": (lambda s: {f"l{i}.w": torch.zeros(1) for i in range(99)}, r"left over \(99\): l0.w, l1.w, l2.w, \.+$"),
    "a scale more": (lambda s: s | {"conv.scale": torch.ones(4)}, r"left over \(1\): conv.scale$"),
    "complex": (lambda s: s | {"conv.bias": torch.zeros(4, dtype=torch.complex64)}, "conv.bias holds complex numbers"),
    "meta": (lambda s: s | {"conv.bias": torch.zeros(4, device="meta")}, "conv.bias has a shape but no values"),
    "numbers as names": (lambda s: {1: torch.zeros(1)}, r"missing \(6\)"),
    "a list": (lambda s: [1, 2], "holds no state dict .* but a list"),
    "a tensor": (lambda s: torch.zeros(3), "holds no state dict .* but a Tensor"),
    "nothing": (lambda s: {}, "holds no state dict .* but an empty dict"),
    "None": (lambda s: {"state_dict": None}, "holds no state dict .* but a dict of state_dict"),
    "a module": (
        lambda s: nn.Linear(2, 2),
        r"more than tensors \(torch.nn.modules.linear.Linear\); .*its maker can save",
    ),
    "arrays": (lambda s: {k: v.numpy() for k, v in s.items()}, r"holds more than tensors \(numpy"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_right_is_refused_in_one_line(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    change, message = BROKEN[kind]
    torch.save(change(state), tmp_path / "file.pth")
    refused(tmp_path / "file.pth", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html><body>Virus scan warning</body></html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a pointer of Git LFS"),
        (b"no such thing", "is damaged or cut off, or no file of tensors"),
        (b"PK\x03\x04 cut off", "is damaged or cut off"),
        (b"\x80\x02}q\x00.", "is damaged or cut off"),
        (b"\x10\0\0\0\0\0\0\0{" + b"x" * 40, "is not a safetensors file, or a damaged one"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    refused(tmp_path / "file.pth", message)


def test_a_cut_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "file.pth")
    content = (tmp_path / "file.pth").read_bytes()
    for length in (9, len(content) // 2, len(content) - 9):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        refused(tmp_path / "cut.pth", "is damaged or cut off")
    refused(tmp_path, "cannot read")


class Payload:
    """What a hostile file would run."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("old", [True, False])
def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    monkeypatch.chdir(tmp_path)
    if old:
        Path("bad.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=2))
    else:
        torch.save({"model": Payload()}, "bad.pth")
    refused(Path("bad.pth"), "holds more than tensors|is damaged")
    assert not Path("ran").exists()


def test_other_heads_are_left_out_with_a_warning_or_without(tmp_path: Path, state: dict[str, Tensor]) -> None:
    more = state | {"head.weight": torch.zeros(2)}
    with pytest.warns(LipcoreWarning, match=r"holds more than Toy; left over \(1\): head\.weight"):
        found = match(tmp_path, "Toy", more, {"conv.bias": (4,), "conv.weight": (4, 3, 3, 3)}, ignore=("bn.",))
    assert sorted(found) == ["conv.bias", "conv.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        match(tmp_path, "Toy", more, {"conv.bias": ((4,), (5,)), "conv.weight": (4, 3, 3, 3)}, ignore=("bn.", "head."))


# CenterFace's graph as converters leave it


IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255


@pytest.fixture(scope="module")
def published() -> tuple[Tensor, ...]:
    return CenterFace().maps(IMAGE)


def as_nodes(graph: onnx.GraphProto) -> None:
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
    nodes += list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)


def renamed(graph: onnx.GraphProto) -> None:
    names = {t.name: f"t{i}" for i, t in enumerate(graph.initializer)}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def handed_on(graph: onnx.GraphProto) -> None:
    """Weights through Identity nodes, as after an optimiser; the landmarks are cut off."""
    nodes = []
    for node in graph.node:
        if node.op_type == "Conv":
            nodes.append(helper.make_node("Identity", [node.input[1]], [f"{node.output[0]}.w"]))
            node.input[1] = f"{node.output[0]}.w"
        nodes.append(node)
    kept = [n for n in nodes if n.output[0] != graph.output[3].name]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.output[3]


def folded_norms(graph: onnx.GraphProto) -> None:
    """The batch norms after the transposed convolutions folded into them, which gives those a bias."""
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "BatchNormalization"]:
        up = next(n for n in graph.node if n.output[0] == node.input[0])
        scale, shift, mean, variance = (arrays[name] for name in node.input[1:])
        gain = scale / np.sqrt(variance + 1e-3)
        for name, value in (("w", arrays[up.input[1]] * gain[:, None, None]), ("b", shift - mean * gain)):
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), f"{up.output[0]}.{name}"))
        up.input[:] = [up.input[0], f"{up.output[0]}.w", f"{up.output[0]}.b"]
        up.output[0] = node.output[0]
        graph.node.remove(node)


def without_bias(graph: onnx.GraphProto) -> None:
    """The first convolution's bias, made zero, left out: the same function as with the zeros."""
    del next(n for n in graph.node if n.op_type == "Conv").input[2]


def half(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        if (value := numpy_helper.to_array(tensor)).dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))


def converted(change: Callable[[onnx.GraphProto], None], path: Path) -> Path:
    model = onnx.load(str(find_weights("centerface")))
    change(model.graph)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [(as_nodes, 0.0), (renamed, 0.0), (handed_on, 0.0), (folded_norms, 1e-4), (half, 0.05)],
)
def test_centerface_from_every_form_of_its_graph(
    tmp_path: Path, published: tuple[Tensor, ...], change: Callable[[onnx.GraphProto], None], tolerance: float
) -> None:
    path = converted(change, tmp_path / "other.onnx")
    with pytest.warns(LipcoreWarning, match=r"other\.onnx is not the registered file of 'centerface'"):
        detector = load_detector("centerface", weights=path)
    assert isinstance(detector, CenterFace)
    for own, right in zip(detector.maps(IMAGE), published, strict=True):
        assert float((own - right).abs().max()) <= tolerance * max(1.0, float(right.abs().max()))


def test_a_convolution_without_bias_has_a_bias_of_zero(tmp_path: Path, published: tuple[Tensor, ...]) -> None:
    detector = CenterFace(converted(without_bias, tmp_path / "other.onnx"))
    assert not detector.stem.bias.any()  # type: ignore[union-attr]
    right = CenterFace()
    right.stem.bias.data.zero_()  # type: ignore[union-attr]
    assert torch.equal(detector.maps(IMAGE)[0], right.maps(IMAGE)[0])


def divided(graph: onnx.GraphProto) -> None:
    """An image of 0..1 is multiplied by 255 first: the same layers, another function of what this project feeds it."""
    graph.initializer.append(numpy_helper.from_array(np.float32([255]), "255"))
    first = graph.node[0]
    graph.node.insert(0, helper.make_node("Mul", [first.input[0], "255"], ["scaled"]))
    graph.node[1].input[0] = "scaled"


def padded(graph: onnx.GraphProto) -> None:
    next(a for a in graph.node[0].attribute if a.name == "strides").ints[:] = [1, 1]


def not_a_number(graph: onnx.GraphProto) -> None:
    tensor = next(t for t in graph.initializer if t.name == "head.pos_conv.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.float32([np.nan]), tensor.name))


def short(graph: onnx.GraphProto) -> None:
    del graph.node[10:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (divided, "its graph computes another heatmap from the same layers"),
        (padded, "stem has other strides or padding"),
        (not_a_number, r"not finite \(1\): heatmap\.bias"),
        (short, "does not hold CenterFace"),
    ],
)
def test_another_graph_is_refused(tmp_path: Path, change: Callable[[onnx.GraphProto], None], message: str) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        CenterFace(converted(change, tmp_path / "other.onnx"))
    assert "other.onnx" in str(error.value)
    assert "\n" not in str(error.value)
