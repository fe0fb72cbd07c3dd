"""What is common to all operations, and the arithmetic among them: each place of a map for itself.

An operation is a node of torch's autograd graph; weights and activations are those that the node saved. A map has its
rows and columns last; whatever stands before them counts as its channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lipcore.errors import LipcoreError
from lipcore.graph.windows import Boxes, Windows

#: A node of torch's autograd graph.
Node = Any


class UnsupportedOperation(LipcoreError):
    """The detector uses an operation whose backward pass is not known window by window."""


def shape_of(node: Node, output: int = 0) -> tuple[int, ...]:
    """The shape of what a node made."""
    return tuple(node._input_metadata[output].shape)


def as_map(values: Tensor, size: Sequence[int]) -> Tensor:
    """A tensor as (1, C, H, W), or (1, C, 1, 1) where it is the same at each place."""
    if values.ndim >= 2 and tuple(values.shape[-2:]) == tuple(size):
        return values.reshape(1, -1, *size)
    if values.ndim >= 2 and values.shape[-2:].numel() > 1:
        raise UnsupportedOperation(f"arithmetic with a tensor of shape {tuple(values.shape)} on a map of {tuple(size)}")
    return values.reshape(1, -1, 1, 1)


class Rule(ABC):
    """How one recorded operation, with one spatial input, treats boxes and gradients.

    Args:
        node: of the autograd graph.
        size: height and width of the input map.

    Attributes:
        joins: whether it takes several maps, all as large as what it makes.
    """

    joins = False

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        self.node, self.size = node, size

    @property
    def made(self) -> tuple[int, int]:
        """Height and width of the output map."""
        height, width = shape_of(self.node)[-2:]
        return height, width

    def reads(self, out: Boxes) -> Boxes:
        """The input places that these output places depend on (they may lie outside the map)."""
        return out

    def reaches(self, boxes: Boxes) -> Boxes:
        """The output places that depend on these input places."""
        return boxes

    @abstractmethod
    def backward(
        self, out: Windows, keep: Sequence[Boxes | None], output: int = 0
    ) -> Iterator[tuple[tuple[Node, int], Windows]]:
        """The gradient at each input, at least on what is to be kept there (None: the image has no part in it).

        Args:
            out: the gradient of one output.
            keep: for each of the node's ``next_functions``.
            output: its number; of the operations known here only those that part a map have several.

        Yields:
            The node that made an input, the number of its output, and the gradient there.
        """


class Single(Rule):
    """An operation with one input: how its gradient comes to be is all there is to say."""

    def backward(
        self, out: Windows, keep: Sequence[Boxes | None], output: int = 0
    ) -> Iterator[tuple[tuple[Node, int], Windows]]:
        """See :class:`Rule`."""
        for source, wanted in zip(self.node.next_functions, keep, strict=True):
            if source[0] is not None and wanted is not None:
                yield source, self.apply(out, wanted)

    @abstractmethod
    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """The gradient at the one input, at least on ``keep``."""


class Pixelwise(Rule):
    """Sums, differences, signs and copies: the node itself is called. An input of one channel gets the sum of all."""

    joins = True

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        if node.name() == "CatBackward0" and (node._saved_dim != 1 or len(shape_of(node)) != 4):
            raise UnsupportedOperation("a concatenation along something else than channels")

    def backward(
        self, out: Windows, keep: Sequence[Boxes | None], output: int = 0
    ) -> Iterator[tuple[tuple[Node, int], Windows]]:
        """See :class:`Rule`."""
        sent = self.node(out.values)
        for source, values in zip(self.node.next_functions, sent if isinstance(sent, tuple) else (sent,), strict=True):
            if source[0] is not None and values is not None:
                yield source, Windows(_fitted(values, source), out.origin, out.clean)


def _fitted(values: Tensor, source: tuple[Node, int]) -> Tensor:
    """A gradient on as many channels as its input has; torch itself would sum what was broadcast."""
    channels = math.prod(shape_of(*source)[:-2])
    if channels == values.shape[1]:
        return values
    if channels == 1:
        return values.sum(dim=1, keepdim=True)
    raise UnsupportedOperation(f"{channels} channels broadcast over {values.shape[1]}")


class Combined(Rule):
    """Arithmetic on two operands, of which the image has a part in one or in both: a factor at each place for each."""

    joins = True

    def backward(
        self, out: Windows, keep: Sequence[Boxes | None], output: int = 0
    ) -> Iterator[tuple[tuple[Node, int], Windows]]:
        """See :class:`Rule`."""
        for number, source in enumerate(self.node.next_functions):
            if source[0] is not None:
                values = self.times(out, number)
                yield source, Windows(_fitted(values, source), out.origin, out.clean)

    def times(self, out: Windows, operand: int) -> Tensor:
        """The gradient times the slope of the result in operand 0 or 1."""
        slope = self.slopes[operand]
        return out.values * (slope if slope.shape[-2:].numel() == 1 else out.cut(slope))

    @cached_property
    def slopes(self) -> dict[int, Tensor]:
        """Of each operand that the image has a part in, (1, C, H, W) or (1, C, 1, 1)."""
        found = {}
        for number, (parent, _) in enumerate(self.node.next_functions):
            if parent is not None:
                found[number] = as_map(self.slope(number), self.made)
        return found

    @abstractmethod
    def slope(self, operand: int) -> Tensor:
        """Of one operand."""

    def saved(self, operand: int) -> Tensor:
        """An operand as the node saved it."""
        value = self.node._saved_other if operand else self.node._saved_self
        return torch.as_tensor(value, dtype=self.node._input_metadata[0].dtype)


class Product(Combined):
    """a * b."""

    def slope(self, operand: int) -> Tensor:
        """See :class:`Combined`."""
        return self.saved(1 - operand)


class Quotient(Combined):
    """a / b."""

    def slope(self, operand: int) -> Tensor:
        """See :class:`Combined`."""
        below = self.saved(1)
        return -self.saved(0) / below.square() if operand else 1 / below


class Extreme(Combined):
    """The larger or the smaller of two; where both are equal torch gives each a half."""

    def slope(self, operand: int) -> Tensor:
        """See :class:`Combined`."""
        difference = self.saved(0) - self.saved(1)
        sign = 1 if ("Max" in self.node.name()) == (operand == 0) else -1
        return torch.heaviside(sign * difference, difference.new_tensor(0.5))


class Chosen(Combined):
    """torch.where: one of two."""

    def slope(self, operand: int) -> Tensor:
        """See :class:`Combined`."""
        condition: Tensor = self.node._saved_condition
        return (~condition if operand else condition).to(self.node._input_metadata[0].dtype)


class Elementwise(Single):
    """An activation function: its slope at each place, all slopes found at once by calling the node on ones."""

    @cached_property
    def source(self) -> Tensor:
        """What the slope is read from, (1, C, H, W): here itself."""
        made = self.node._input_metadata[0]
        ones = torch.ones(tuple(made.shape), dtype=made.dtype, device=made.device)
        sent = self.node(ones.contiguous(memory_format=torch.channels_last) if ones.ndim == 4 else ones)
        slope: Tensor = sent[0] if isinstance(sent, tuple) else sent
        return as_map(slope, self.size)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """The gradient times the slope, in place where it may be: fresh memory is slow."""
        g = out.trimmed(keep)
        values = g.values if g.own else torch.empty_like(g.values)
        for part, there in g.beside(self.source):
            self.fill(values[part], g.values[part], there)
        return Windows(values, g.origin, clean=g.clean and g.own, own=True)

    def fill(self, into: Tensor, gradient: Tensor, there: Tensor) -> None:
        """Writes the result on some windows; ``there`` is :attr:`source` on them."""
        torch.mul(gradient, there, out=into)


class Relu(Elementwise):
    """The same, with the saved result in place of a map of slopes."""

    @cached_property
    def source(self) -> Tensor:
        """What the operation gave, (1, C, H, W)."""
        return as_map(self.node._saved_result, self.size)

    def fill(self, into: Tensor, gradient: Tensor, there: Tensor) -> None:
        """See :class:`Elementwise`."""
        torch.ops.aten.threshold_backward.grad_input(gradient, there, 0, grad_input=into)


class Prelu(Elementwise):
    """The same, with the saved input in place of a map of slopes."""

    @cached_property
    def source(self) -> Tensor:
        """What the operation got, (1, C, H, W)."""
        return as_map(self.node._saved_self, self.size)

    def fill(self, into: Tensor, gradient: Tensor, there: Tensor) -> None:
        """See :class:`Elementwise`."""
        torch.mul(gradient, torch.where(there > 0, 1, self.node._saved_weight), out=into)


class Scaled(Single):
    """Batch norm at rest: a factor for each channel."""

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        node = self.node
        if node._saved_training:
            raise UnsupportedOperation("batch norm in training mode couples all images; call detector.freeze()")
        gain = torch.rsqrt(node._saved_running_var + node._saved_eps)
        if node._saved_weight is not None:
            gain = gain * node._saved_weight
        return Windows(out.values * gain[:, None, None], out.origin, out.clean, own=True)
