"""Operations that read a neighbourhood: convolution, pooling, resampling, padding, and pixels turned into channels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lipcore.graph.channels import Arranged, signed_axis
from lipcore.graph.rules import Node, Rule, Single, UnsupportedOperation, as_map, shape_of
from lipcore.graph.windows import FAR, Boxes, Ints, Windows, margins


class Sliding(Single):
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
        if self.weight.ndim != 4:
            raise UnsupportedOperation(f"a convolution along {self.weight.ndim - 2} axes")
        kernel = self.weight.shape[-2:]
        super().__init__(node, size, kernel, node._saved_stride, node._saved_padding, node._saved_dilation)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        if self.reach.any() or (self.stride > 1).any():
            out.wipe(self.made)
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
        out.wipe(self.made)
        natural = self.reads(Boxes(out.origin, out.origin + out.size))
        count = (natural.hi - natural.lo).max(axis=0)
        values = out.placed(natural.lo * self.stride - self.padding, (count - 1) * self.stride + self.reach + 1)
        settings = (self.stride.tolist(), 0, self.dilation.tolist(), self.node._saved_groups)
        return Windows(F.conv2d(values, self.weight, None, *settings), natural.lo, clean=False, own=True).trimmed(keep)


def convolution_rule(node: Node, size: tuple[int, int]) -> Convolution:
    """The rule of a convolution, transposed or not."""
    return (Transposed if node._saved_transposed else Convolution)(node, size)


class MaxPool(Sliding):
    """The place that was the largest gets the gradient."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        stride = node._saved_stride or node._saved_kernel_size  # F.max_pool2d(x, 2) leaves it out
        super().__init__(node, size, node._saved_kernel_size, stride, node._saved_padding, node._saved_dilation)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.made)
        first = out.origin * self.stride - self.padding
        height, width = (int(s) for s in (out.size - 1) * self.stride + self.reach + 1)
        winner = out.cut(as_map(self.node._saved_result1, self.made))  # flat index into the input map
        top, left = torch.as_tensor(first, device=winner.device)[:, :, None, None, None].unbind(1)
        place = (winner // self.size[1] - top) * width + winner % self.size[1] - left
        place.clamp_(0, height * width - 1)  # beyond the border of the map, where the gradient is zero
        count, channels = out.values.shape[:2]
        values = out.values.new_zeros(count, channels, height * width)
        values.scatter_add_(2, place.flatten(2), out.values.flatten(2))
        return Windows(values.view(count, channels, height, width), first, clean=True).trimmed(keep)


class Separable(Single):
    """A linear operation that treats rows and columns apart: two matrices, found by applying it to unit impulses."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        self.matrices = tuple(self._matrix(axis, size[axis], self.made[axis]) for axis in (0, 1))
        used = [m.numpy() != 0 for m in self.matrices]
        self.reading = [(u.argmax(1), u.shape[1] - u[:, ::-1].argmax(1)) for u in used]
        self.reaching = [(u.argmax(0), u.shape[0] - u[::-1].argmax(0)) for u in used]

    def _matrix(self, axis: int, size: int, out: int) -> Tensor:
        """(out, size): the weights with which an output place reads the inputs."""
        impulses = torch.eye(size, dtype=self.node._input_metadata[0].dtype)[None, None]
        return self.along(axis, impulses, out)[0, 0]  # column i was an impulse at row i; only the rows are treated

    @abstractmethod
    def along(self, axis: int, x: Tensor, out: int) -> Tensor:
        """The operation on the rows of ``x`` as the node does it along ``axis``, to ``out`` rows; columns stay."""

    def _extent(self, boxes: Boxes, table: Any) -> Boxes:
        lo, hi = np.full_like(boxes.lo, FAR), np.full_like(boxes.hi, -FAR)
        for k, (first, last) in enumerate(table):
            for i in np.flatnonzero(boxes.lo[:, k] < boxes.hi[:, k]):
                a, b = boxes.lo[i, k].clip(0, len(first) - 1), boxes.hi[i, k].clip(1, len(first))
                lo[i, k], hi[i, k] = first[a:b].min(), last[a:b].max()  # a mirror turns the order of places round
        return Boxes(lo, hi)

    def reads(self, out: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return self._extent(out, self.reading)

    def reaches(self, boxes: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return self._extent(boxes, self.reaching)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.made)
        low, high = keep.cleaned().lo, keep.cleaned().hi
        first = np.where(keep.filled[:, None], low, 0)
        size = np.where(keep.filled[:, None], high - low, 1).max(axis=0)
        blocks = []
        for k, matrix in enumerate(self.matrices):
            weights = matrix.to(out.values)
            rows = torch.as_tensor(out.origin[:, k, None] + np.arange(out.size[k]))
            cols = torch.as_tensor(first[:, k, None] + np.arange(int(size[k])))
            valid = ((rows >= 0) & (rows < matrix.shape[0]))[:, :, None] & (cols < matrix.shape[1])[:, None]
            block = weights[
                rows.clamp(0, matrix.shape[0] - 1)[:, :, None], cols.clamp(max=matrix.shape[1] - 1)[:, None]
            ]
            blocks.append(block * valid.to(block))
        values = torch.einsum("nchw,nhy,nwx->ncyx", out.values, *blocks)
        return Windows(values, first, clean=True)


class Resize(Separable):
    """Resampling, smoothed or not."""

    def along(self, axis: int, x: Tensor, out: int) -> Tensor:
        """See :class:`Separable`."""
        node, name = self.node, self.node.name()
        scale, size = (node._saved_scales_h, node._saved_scales_w)[axis], [out, x.shape[3]]
        if name.startswith("UpsampleNearest"):
            rows: Tensor = torch.ops.aten.upsample_nearest2d(x, size, scale, None)
            return rows
        kind = ("_" if "Aa" in name else "") + f"upsample_{'bicubic' if 'Bicubic' in name else 'bilinear'}2d"
        resample: Callable[..., Tensor] = getattr(torch.ops.aten, kind + ("_aa" if "Aa" in name else ""))
        return resample(x, size, node._saved_align_corners, scale, None)


class AveragePool(Separable):
    """Means of rectangles, at a stride or so many of them that they fill the map."""

    def along(self, axis: int, x: Tensor, out: int) -> Tensor:
        """See :class:`Separable`."""
        node = self.node
        if "Adaptive" in node.name():
            return F.adaptive_avg_pool2d(x, (out, x.shape[3]))
        sides, strides = node._saved_kernel_size, node._saved_stride or node._saved_kernel_size
        kernel, stride, padding = (int((list(v) * 2)[axis]) for v in (sides, strides, node._saved_padding))
        divisor = node._saved_divisor_override
        settings = (node._saved_ceil_mode, node._saved_count_include_pad, 1 if divisor else None)
        rows = F.avg_pool2d(x, (kernel, 1), (stride, 1), (padding, 0), *settings)
        return rows / divisor if divisor and axis == 0 else rows


class Mirrored(Separable):
    """Padding with the border's values, or with those before it."""

    def along(self, axis: int, x: Tensor, out: int) -> Tensor:
        """See :class:`Separable`."""
        before, after = self.node._saved_padding[2:] if axis == 0 else self.node._saved_padding[:2]
        return F.pad(x, (0, 0, before, after), mode="reflect" if "Reflection" in self.node.name() else "replicate")


class Padded(Single):
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
        out.wipe(self.made)
        return Windows(out.values, out.origin - self.shift, clean=False, own=out.own)


class Strided(Sliding):
    """Every so many rows or columns."""

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.made)
        height, width = ((out.size - 1) * self.stride + 1).tolist()
        values = out.values.new_zeros(*out.values.shape[:2], height, width)
        values[..., :: self.stride[0], :: self.stride[1]] = out.values
        return Windows(values, out.origin * self.stride - self.padding, clean=True, own=True)


def padding_rule(node: Node, size: tuple[int, int]) -> Rule:
    """The rule of a padding, whose amounts stand as left, right, top, bottom."""
    left, _, top, _, *others = (*node._saved_pad, 0, 0)[: max(4, len(node._saved_pad))]
    if any(others):
        raise UnsupportedOperation("a padding of channels")
    return Padded(node, size, np.asarray((top, left)))


def cutting_rule(node: Node, size: tuple[int, int]) -> Rule:
    """The rule of a slice of rows, columns or channels."""
    ndim = len(shape_of(node))
    along = signed_axis(node._saved_dim, ndim) - (ndim - 2)
    if along < 0:
        return Arranged(node, size)
    start, stride = np.zeros(2, np.int64), np.ones(2, np.int64)
    start[along], stride[along] = node._saved_start, node._saved_step
    if node._saved_step == 1:
        return Padded(node, size, -start)
    return Strided(node, size, 1, stride, -start, 1)


class Unshuffle(Single):
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


class Shuffle(Unshuffle):
    """Channels become r x r neighbouring pixels: input and output change places."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        Rule.__init__(self, node, size)
        self.factor = int(node._saved_upscale_factor)

    def reads(self, out: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return super().reaches(out)

    def reaches(self, boxes: Boxes) -> Boxes:
        """See :class:`Rule`."""
        return super().reads(boxes)

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        out.wipe(self.made)
        inside = self.reads(Boxes(out.origin, out.origin + out.size))
        values = out.placed(inside.lo * self.factor, (inside.hi - inside.lo).max(axis=0) * self.factor)
        return Windows(F.pixel_unshuffle(values, self.factor), inside.lo, clean=True)
