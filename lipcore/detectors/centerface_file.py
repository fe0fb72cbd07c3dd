"""Reading CenterFace's ONNX graph, as published or as converters leave it; no more is asked of it than its layers.

Constants may be initialisers or nodes, in any floating type and under any name; a convolution may lack its bias or be
followed by a batch norm of its own. Whether the graph computes CenterFace's function is found out by running it, in
:mod:`lipcore.detectors.centerface`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from lipcore.detectors.checkpoints import check_head
from lipcore.errors import WeightsError

#: Nodes that hand on what they get, as far as a weight or a head's output is concerned.
HANDED_ON = ("Identity", "Cast")
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """A convolution of the graph, with the batch norm that follows it.

    Attributes:
        output: the name of what it computes, batch norm included.
        weight: (out, in, h, w), of a transposed one (in, out, h, w).
        bias: (out,).
        geometry: stride, padding, dilation and groups, as torch's modules have them.
        norm: the batch norm's tensors by torch's names, or None.
        eps: of the batch norm.
    """

    output: str
    weight: Tensor
    bias: Tensor
    geometry: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
    norm: dict[str, Tensor] | None = None
    eps: float = 0.0

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does what this and its batch norm do."""
        if self.norm is None:
            return self.weight, self.bias
        gain, shift, mean, variance = (self.norm[part] for part in NORM)
        gain = gain / torch.sqrt(variance + self.eps)
        return self.weight * gain[:, None, None, None], (self.bias - mean) * gain + shift

    def norm_at(self, eps: float) -> dict[str, Tensor]:
        """The tensors of a batch norm with ``eps`` that adds the bias and does what the own one does, if any."""
        one = torch.ones_like(self.bias)
        if self.norm is None:
            return dict(zip(NORM, (one, self.bias, 0 * one, one - eps), strict=True))
        same = abs(eps - self.eps) < 1e-9  # the graph holds it in single precision
        variance = self.norm["running_var"] + (0.0 if same else self.eps - eps)
        return self.norm | {"running_mean": self.norm["running_mean"] - self.bias, "running_var": variance}


def read_model(path: Path) -> onnx.ModelProto:
    """The file's model.

    Raises:
        WeightsError: not an ONNX file.
    """
    check_head(path)
    try:
        model = onnx.load(str(path))
    except Exception as error:  # onnx raises protobuf's own errors
        raise WeightsError(f"{path} is damaged or not an ONNX file") from error
    if not model.graph.node:
        raise WeightsError(f"{path} is damaged or not an ONNX file: it holds no graph")
    return model


def sorted_layers(graph: onnx.GraphProto) -> tuple[list[Layer], list[Layer], list[Layer]]:
    """The graph's convolutions and transposed ones, in its order, and the heads of heatmap, size and offset.

    The graph's outputs are these three and the landmarks, which are left out.
    """
    found = _layers(graph)
    heads = [_head(graph, output.name) for output in graph.output]
    named = {layer.output: layer for _, layer in found}
    convs = [layer for kind, layer in found if kind == "Conv" and layer.output not in heads]
    ups = [layer for kind, layer in found if kind == "ConvTranspose"]
    return convs, ups, [named[name] for name in heads[:3]]


def ends_in_sigmoid(graph: onnx.GraphProto) -> bool:
    """Whether the first output is probabilities, not logits."""
    made = {name: node for node in graph.node for name in node.output}
    node = made[graph.output[0].name]
    while node.op_type in HANDED_ON:
        node = made[node.input[0]]
    return bool(node.op_type == "Sigmoid")


def run(model: onnx.ModelProto, image: Tensor) -> list[Tensor]:
    """The first three outputs for ``image`` (1, 3, H, W), by ONNX's own reference in NumPy."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.ModelProto.FromString(model.SerializeToString())
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, 15)  # the reference takes older batch norms for ones in training
    constants = _constants(model.graph)
    given = next(value for value in model.graph.input if value.name not in constants)
    kind = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    names = [output.name for output in model.graph.output[:3]]
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(model).run(names, {given.name: image.numpy().astype(kind)})
    return [torch.from_numpy(np.asarray(value, np.float32)) for value in found]


def _layers(graph: onnx.GraphProto) -> list[tuple[str, Layer]]:
    """Every convolution in the graph's order, with its kind."""
    constants = _constants(graph)
    found: dict[str, tuple[str, Layer]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            layer = _convolution(node, constants)
            found[layer.output] = (node.op_type, layer)
        elif node.op_type == "BatchNormalization" and node.input[0] in found:
            kind, layer = found.pop(node.input[0])
            norm = dict(zip(NORM, (constants[name] for name in node.input[1:5]), strict=True))
            eps = _attributes(node).get("epsilon", 1e-5)
            found[node.output[0]] = (kind, replace(layer, output=node.output[0], norm=norm, eps=float(eps)))
    return list(found.values())


def _convolution(node: onnx.NodeProto, constants: dict[str, Tensor]) -> Layer:
    weight = constants[node.input[1]]
    given = _attributes(node)
    groups = int(given.get("group", 1))
    channels = weight.shape[1] * groups if node.op_type == "ConvTranspose" else weight.shape[0]
    has_bias = len(node.input) > 2 and node.input[2]
    pads = tuple(given.get("pads", (0, 0, 0, 0)))
    if pads[:2] != pads[2:]:
        raise ValueError(f"{node.output[0]} is padded unevenly")
    return Layer(
        node.output[0],
        weight,
        constants[node.input[2]] if has_bias else torch.zeros(channels),
        (tuple(given.get("strides", (1, 1))), pads[:2], tuple(given.get("dilations", (1, 1))), groups),
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _constants(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Every constant tensor by name, floating ones as float32: initialisers, nodes, and what only hands them on."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in (given := _attributes(node)):
            arrays[node.output[0]] = numpy_helper.to_array(given["value"])
        elif node.op_type in HANDED_ON and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in arrays.items()}


def _head(graph: onnx.GraphProto, output: str) -> str:
    """The name of the convolution's output that leads to a graph's output."""
    made = {name: node for node in graph.node for name in node.output}
    while made[output].op_type in (*HANDED_ON, "Sigmoid"):
        output = made[output].input[0]
    return output
