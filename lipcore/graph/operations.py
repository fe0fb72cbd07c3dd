"""The operations that are known, by the names of their nodes in torch's autograd graph."""

from __future__ import annotations

from collections.abc import Callable

from lipcore.graph.channels import ARRANGEMENTS, Arranged, Reduced, Spread
from lipcore.graph.rules import (
    Chosen,
    Elementwise,
    Extreme,
    Node,
    Pixelwise,
    Prelu,
    Product,
    Quotient,
    Relu,
    Rule,
    Scaled,
)
from lipcore.graph.spatial import (
    AveragePool,
    MaxPool,
    Mirrored,
    Resize,
    Shuffle,
    Unshuffle,
    convolution_rule,
    cutting_rule,
    padding_rule,
)

#: What makes a rule from a node and the height and width of its input.
Maker = Callable[[Node, tuple[int, int]], Rule]


def _each(maker: Maker, *names: str, versions: int = 1) -> dict[str, Maker]:
    return {f"{name}Backward{version}": maker for name in names for version in range(versions)}


#: Functions of one number at a time.
FUNCTIONS: dict[str, Maker] = {
    "ReluBackward0": Relu,
    "PreluKernelBackward0": Prelu,
    **_each(
        Elementwise,
        *("LeakyRelu", "Hardtanh", "Hardswish", "Hardsigmoid", "Elu", "Silu", "Mish", "Gelu", "Tanh", "Sigmoid"),
        *("Softplus", "LogSigmoid", "Logit", "Exp", "Expm1", "Log", "Log1P", "Sqrt", "Rsqrt", "Pow", "Abs", "Erf"),
        *("Clamp", "ClampMin", "ClampMax", "Threshold", "Reciprocal", "Sin", "Cos"),
        versions=2,
    ),
}
#: Operations that read more than one place of a map.
NEIGHBOURHOODS: dict[str, Maker] = {
    "ConvolutionBackward0": convolution_rule,
    "NativeBatchNormBackward0": Scaled,
    "MaxPool2DWithIndicesBackward0": MaxPool,
    "PixelUnshuffleBackward0": Unshuffle,
    "PixelShuffleBackward0": Shuffle,
    "ConstantPadNdBackward0": padding_rule,
    **_each(AveragePool, "AvgPool2D", "AdaptiveAvgPool2D"),
    **_each(Mirrored, "ReplicationPad2D", "ReflectionPad2D"),
    **_each(Resize, "UpsampleBilinear2D", "UpsampleBilinear2DAa", "UpsampleBicubic2D", "UpsampleBicubic2DAa"),
    **_each(Resize, "UpsampleNearest2D"),
}
#: Arithmetic at each place, and changes of the channels.
PLACES: dict[str, Maker] = {
    **dict.fromkeys(ARRANGEMENTS, Arranged),
    "SliceBackward0": cutting_rule,
    **_each(Pixelwise, "Add", "Sub", "Rsub", "Neg", "Cat", "Alias", "Clone", "ToCopy", versions=2),
    **_each(Product, "Mul", versions=2),
    **_each(Quotient, "Div", versions=2),
    **_each(Extreme, "Maximum", "Minimum"),
    **_each(Chosen, "Where"),
    **_each(Spread, "Expand", "Repeat"),
    **_each(Reduced, "Sum", "Mean", "LinalgVectorNorm", "Norm", "Max", "Min", "Amax", "Amin", "Logsumexp", versions=2),
}
RULES: dict[str, Maker] = FUNCTIONS | NEIGHBOURHOODS | PLACES
