"""The backward pass of each supported operation, on windows: what a place reads, what it reaches, and its gradient.

An operation is a node of torch's autograd graph; weights and activations are those that the node saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lipcore.attacks.windowed.windows import FAR, Boxes, Ints, Windows, margins
from lipcore.errors import LipcoreError

#: A node of torch's autograd graph.
Node = Any


class UnsupportedOperation(LipcoreError):
    """The detector uses an operation whose backward pass is not known window by window."""


class Rule:
    """How one recorded operation, with one spatial input, treats boxes and gradients.

    Args:
        node: of the autograd graph.
        size: height and width of the input map.
    """

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        self.node, self.size = node, size

    def reads(self, out: Boxes) -> Boxes:
        """The input places that these output places depend on (they may lie outside the map)."""
        return out

    def reaches(self, boxes: Boxes) -> Boxes:
        """The output places that depend on these input places."""
        return boxes

    def backward(self, out: Windows, keep: list[Boxes | None]) -> Iterator[tuple[Node, Windows]]:
        """The gradient at each input, at least on what is to be kept there (None: the image has no part in it)."""
        for (parent, _), wanted in zip(self.node.next_functions, keep, strict=True):
            if parent is not None and wanted is not None:
                yield parent, self.apply(out, wanted)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """The gradient at the one input, at least on ``keep``."""
        raise NotImplementedError


class Pixelwise(Rule):
    """Arithmetic, or a change of the channels: each place for itself. The node itself is called."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        other = getattr(node, "_saved_other", None)
        if isinstance(other, Tensor) and other.ndim > 1 and other.shape[-2:].numel() > 1:
            raise UnsupportedOperation(f"{node.name()} by a factor that differs from place to place")
        if node.name() == "CatBackward0" and node._saved_dim != 1:
            raise UnsupportedOperation("a concatenation along rows or columns")
        if node.name() == "FlipBackward0" and tuple(node._saved_dims) != (1,):
            raise UnsupportedOperation("a flip of rows or columns")

    def backward(self, out: Windows, keep: list[Boxes | None]) -> Iterator[tuple[Node, Windows]]:
        """See :class:`Rule`."""
        sent = self.node(out.values)
        for (parent, _), values in zip(
            self.node.next_functions, sent if isinstance(sent, tuple) else (sent,), strict=True
        ):
            if parent is not None and values is not None:
                yield parent, Windows(values, out.origin, out.clean)


class Elementwise(Rule):
    """An activation function: its slope at each place, all slopes found at once by calling the node on ones."""

    @cached_property
    def source(self) -> Tensor:
        """What the slope is read from, (1, C, H, W): here itself."""
        made = self.node._input_metadata[0]
        ones = torch.ones(tuple(made.shape), dtype=made.dtype, device=made.device)
        sent = self.node(ones.contiguous(memory_format=torch.channels_last))
        slope: Tensor = sent[0] if isinstance(sent, tuple) else sent
        return slope

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
        saved: Tensor = self.node._saved_result
        return saved

    def fill(self, into: Tensor, gradient: Tensor, there: Tensor) -> None:
        """See :class:`Elementwise`."""
        torch.ops.aten.threshold_backward.grad_input(gradient, there, 0, grad_input=into)


class Prelu(Elementwise):
    """The same, with the saved input in place of a map of slopes."""

    @cached_property
    def source(self) -> Tensor:
        """What the operation got, (1, C, H, W)."""
        saved: Tensor = self.node._saved_self
        return saved

    def fill(self, into: Tensor, gradient: Tensor, there: Tensor) -> None:
        """See :class:`Elementwise`."""
        torch.mul(gradient, torch.where(there > 0, 1, self.node._saved_weight), out=into)


class Scaled(Rule):
    """Batch norm at rest: a factor for each channel."""

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        node = self.node
        if node._saved_training:
            raise UnsupportedOperation("batch norm in training mode couples all images; call detector.freeze()")
        gain = node._saved_weight * torch.rsqrt(node._saved_running_var + node._saved_eps)
        return Windows(out.values * gain[:, None, None], out.origin, out.clean, own=True)


class Sliding(Rule):
    """Output place j reads the input places j * stride - padding + dilation * t, t = 0 .. kernel - 1.

    Args:
        node, size: see :class:`Rule`.
        kernel, stride, padding, dilation: (2,) vertical and horizontal, or one number.
    """

    def __init__(
        self, node: Node, size: tuple[int, int], kernel: Any, stride: Any, padding: Any, dilation: Any
    ) -> None:
        super().__init__(node, size)
        self.kernel, self.stride, self.padding, self.dilation = (
            np.broadcast_to(np.asarray(v), (2,)) for v in (kernel, stride, padding, dilation)
        )
        self.reach = self.dilation * (self.kernel - 1)

    def reads(self, out: Boxes) -> Boxes:
        """See :class:`Rule`."""
        lo = out.lo * self.stride - self.padding
        return Boxes(lo, (out.hi - 1) * self.stride - self.padding + self.reach + 1)

    def reaches(self, boxes: Boxes) -> Boxes:
        """See :class:`Rule`."""
        lo = -((self.reach - self.padding - boxes.lo) // self.stride)  # rounded up
        return Boxes(lo, (boxes.hi - 1 + self.padding) // self.stride + 1)


class Convolution(Sliding):
    """A convolution, with groups or without."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        self.weight: Tensor = node._saved_weight
        kernel = self.weight.shape[-2:]
        super().__init__(node, size, kernel, node._saved_stride, node._saved_padding, node._saved_dilation)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        if self.reach.any() or (self.stride > 1).any():
            out.wipe(self.node._input_metadata[0].shape[-2:])
        else:  # a 1x1 kernel leaves each place alone, so that trimming first is cheaper
            out = out.trimmed(Boxes(keep.lo + self.padding, keep.hi + self.padding))
        groups = self.node._saved_groups
        if self.kernel.max() == 1 and groups == 1 and self.stride.max() == 1:
            values = (out.values.permute(0, 2, 3, 1) @ self.weight[:, :, 0, 0]).permute(0, 3, 1, 2)
            return Windows(values, out.origin - self.padding, out.clean and not self.padding.any(), own=True)
        first = out.origin * self.stride - self.padding
        size = (out.size - 1) * self.stride + self.reach + 1
        padding = np.minimum(np.minimum(*margins(first, size, keep)), (size - 1) // 2)
        shape = (len(out.values), self.weight.shape[1] * groups, *(size - 2 * padding).tolist())
        like = torch.empty(shape, dtype=out.values.dtype, device=out.values.device, memory_format=torch.channels_last)
        values, _, _ = torch.ops.aten.convolution_backward(
            out.values,
            like,
            self.weight,
            None,
            self.stride.tolist(),
            padding.tolist(),
            self.dilation.tolist(),
            False,
            [0, 0],
            groups,
            [True, False, False],
        )
        return Windows(values, first + padding, clean=False, own=True).trimmed(keep)


class Transposed(Convolution):
    """A transposed convolution: input and output change places."""

    def reads(self, out: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return super().reaches(out)

    def reaches(self, boxes: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return super().reads(boxes)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.node._input_metadata[0].shape[-2:])
        natural = self.reads(Boxes(out.origin, out.origin + out.size))
        count = (natural.hi - natural.lo).max(axis=0)
        values = out.placed(natural.lo * self.stride - self.padding, (count - 1) * self.stride + self.reach + 1)
        settings = (self.stride.tolist(), 0, self.dilation.tolist(), self.node._saved_groups)
        return Windows(F.conv2d(values, self.weight, None, *settings), natural.lo, clean=False, own=True).trimmed(keep)


def convolution(node: Node, size: tuple[int, int]) -> Convolution:
    """The rule of a convolution, transposed or not."""
    return (Transposed if node._saved_transposed else Convolution)(node, size)


class MaxPool(Sliding):
    """The place that was the largest gets the gradient."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        n = node
        super().__init__(n, size, n._saved_kernel_size, n._saved_stride, n._saved_padding, n._saved_dilation)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.node._input_metadata[0].shape[-2:])
        first = out.origin * self.stride - self.padding
        height, width = (int(s) for s in (out.size - 1) * self.stride + self.reach + 1)
        winner = out.cut(self.node._saved_result1)  # flat index into the input map
        top, left = torch.as_tensor(first, device=winner.device)[:, :, None, None, None].unbind(1)
        place = (winner // self.size[1] - top) * width + winner % self.size[1] - left
        place.clamp_(0, height * width - 1)  # beyond the border of the map, where the gradient is zero
        count, channels = out.values.shape[:2]
        values = out.values.new_zeros(count, channels, height * width)
        values.scatter_add_(2, place.flatten(2), out.values.flatten(2))
        return Windows(values.view(count, channels, height, width), first, clean=True).trimmed(keep)


class Resize(Rule):
    """Any linear resampling that treats rows and columns apart: two matrices, found by resampling unit impulses."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        out = tuple(node._input_metadata[0].shape[-2:])
        self.matrices = tuple(self._matrix(axis, size[axis], out[axis]) for axis in (0, 1))
        used = [m.numpy() != 0 for m in self.matrices]
        self.reading = [(u.argmax(1), u.shape[1] - u[:, ::-1].argmax(1)) for u in used]
        self.reaching = [(u.argmax(0), u.shape[0] - u[::-1].argmax(0)) for u in used]

    def _matrix(self, axis: int, size: int, out: int) -> Tensor:
        """(out, size): the weights with which an output place reads the inputs."""
        node, name = self.node, self.node.name()
        scale = (node._saved_scales_h, node._saved_scales_w)[axis]
        impulses = torch.eye(size, dtype=node._input_metadata[0].dtype)[
            None, None
        ]  # column i is an impulse at row i; only the rows are resampled
        if name.startswith("UpsampleNearest"):
            rows: Tensor = torch.ops.aten.upsample_nearest2d(impulses, [out, size], scale, None)
        else:
            kind = "_upsample_bilinear2d_aa" if "Aa" in name else "upsample_bilinear2d"
            resample: Callable[..., Tensor] = getattr(torch.ops.aten, kind)
            rows = resample(impulses, [out, size], node._saved_align_corners, scale, None)
        return rows[0, 0]

    def _extent(self, boxes: Boxes, table: Any) -> Boxes:
        lo, hi = boxes.lo.copy(), boxes.hi.copy()
        for axis, (first, last) in enumerate(table):
            inside = lo[:, axis] < hi[:, axis]
            a, b = lo[:, axis].clip(0, len(first) - 1), (hi[:, axis] - 1).clip(0, len(first) - 1)
            lo[:, axis] = np.where(inside, first[a], FAR)
            hi[:, axis] = np.where(inside, last[b], -FAR)
        return Boxes(lo, hi)

    def reads(self, out: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return self._extent(out, self.reading)

    def reaches(self, boxes: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return self._extent(boxes, self.reaching)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.node._input_metadata[0].shape[-2:])
        low, high = keep.cleaned().lo, keep.cleaned().hi
        first = np.where(keep.filled[:, None], low, 0)
        size = np.where(keep.filled[:, None], high - low, 1).max(axis=0)
        blocks = []
        for axis, matrix in enumerate(self.matrices):
            weights = matrix.to(out.values)
            rows = torch.as_tensor(out.origin[:, axis, None] + np.arange(out.size[axis]))
            cols = torch.as_tensor(first[:, axis, None] + np.arange(int(size[axis])))
            valid = ((rows >= 0) & (rows < matrix.shape[0]))[:, :, None] & (cols < matrix.shape[1])[:, None]
            block = weights[
                rows.clamp(0, matrix.shape[0] - 1)[:, :, None], cols.clamp(max=matrix.shape[1] - 1)[:, None]
            ]
            blocks.append(block * valid.to(block))
        values = torch.einsum("nchw,nhy,nwx->ncyx", out.values, *blocks)
        return Windows(values, first, clean=True)


class Padded(Rule):
    """Padding with a constant, or cutting off: the same values elsewhere.

    Args:
        node, size: see :class:`Rule`.
        shift: (2,) output place less input place.
    """

    def __init__(self, node: Node, size: tuple[int, int], shift: Ints) -> None:
        super().__init__(node, size)
        self.shift = shift

    def reads(self, out: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return Boxes(out.lo - self.shift, out.hi - self.shift)

    def reaches(self, boxes: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return Boxes(boxes.lo + self.shift, boxes.hi + self.shift)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.node._input_metadata[0].shape[-2:])
        return Windows(out.values, out.origin - self.shift, clean=False, own=out.own)


class Channels(Rule):
    """Some neighbouring channels of a map."""

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        before = self.node._saved_start
        after = self.node._saved_self_sym_sizes[1] - before - out.values.shape[1]
        return Windows(F.pad(out.values, (0, 0, 0, 0, before, after)), out.origin, out.clean)


def padding(node: Node, size: tuple[int, int]) -> Rule:
    """The rule of a padding, whose amounts stand as left, right, top, bottom."""
    left, _, top, _, *others = (*node._saved_pad, 0, 0)[: max(4, len(node._saved_pad))]
    if any(others):
        raise UnsupportedOperation("a padding of channels")
    return Padded(node, size, np.asarray((top, left)))


def cutting(node: Node, size: tuple[int, int]) -> Rule:
    """The rule of a slice of rows, columns or channels."""
    if node._saved_step != 1:
        raise UnsupportedOperation(f"a slice with a step of {node._saved_step}")
    axis = (node._saved_dim & 3) - 2  # stored unsigned, and -1 is as good as 3
    if axis == -1:
        return Channels(node, size)
    shift = np.zeros(2, np.int64)
    shift[axis] = -node._saved_start
    return Padded(node, size, shift)


class Unshuffle(Rule):
    """r x r neighbouring pixels become channels."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        self.factor = int(node._saved_downscale_factor)

    def reads(self, out: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return Boxes(out.lo * self.factor, out.hi * self.factor)

    def reaches(self, boxes: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return Boxes(boxes.lo // self.factor, -(-boxes.hi // self.factor))

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        return Windows(F.pixel_shuffle(out.values, self.factor), out.origin * self.factor, out.clean)
