"""Operations that arrange channels anew, part them, or sum over them; rows and columns stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lipcore.graph.rules import Elementwise, Node, Rule, Single, UnsupportedOperation, shape_of
from lipcore.graph.windows import Boxes, Windows


def signed_axis(number: int, ndim: int) -> int:
    """An axis as torch stores it, unsigned, and where -1 is as good as the last."""
    return (number - (1 << 64) if number >= 1 << 63 else number) % ndim


def _leading(node: Node, number: int, ndim: int) -> int:
    """An axis that is neither rows nor columns."""
    if (found := signed_axis(number, ndim)) >= ndim - 2:
        raise UnsupportedOperation(f"{node.name()} along rows or columns")
    return found


def _permuted(node: Node, numbers: Tensor, _: int) -> Tensor:
    dims = [signed_axis(d, numbers.ndim) for d in node._saved_dims]
    if dims[-2:] != [numbers.ndim - 2, numbers.ndim - 1]:
        raise UnsupportedOperation("a permutation that moves rows or columns")
    return numbers.permute(dims)


def _indexed(node: Node, numbers: Tensor, _: int) -> Tensor:
    indices = list(node._saved_indices)
    if len(indices) > numbers.ndim - 2 and any(i is not None for i in indices[numbers.ndim - 2 :]):
        raise UnsupportedOperation("rows or columns picked by a list")
    return numbers[tuple(slice(None) if i is None else i for i in indices)]


def _dim(node: Node, numbers: Tensor) -> int:
    return _leading(node, node._saved_dim, numbers.ndim)


#: Each operation, done on the channels' numbers, which have the map's axes but one row and one column.
ARRANGEMENTS: dict[str, Callable[[Node, Tensor, int], Tensor]] = {
    "SplitBackward0": lambda n, x, i: torch.split(x, n._saved_split_size, _dim(n, x))[i],
    "SplitWithSizesBackward0": lambda n, x, i: torch.split(x, list(n._saved_split_sizes), _dim(n, x))[i],
    "UnbindBackward0": lambda n, x, i: x.unbind(_dim(n, x))[i],
    "SelectBackward0": lambda n, x, i: x.select(_dim(n, x), n._saved_index),
    "SliceBackward0": lambda n, x, i: x.transpose(0, _dim(n, x))[
        n._saved_start : n._saved_end : n._saved_step
    ].transpose(0, _dim(n, x)),
    "IndexSelectBackward0": lambda n, x, i: x.index_select(_dim(n, x), n._saved_index),
    "IndexBackward0": _indexed,
    "PermuteBackward0": _permuted,
    "TransposeBackward0": lambda n, x, i: x.transpose(
        _leading(n, n._saved_dim0, x.ndim), _leading(n, n._saved_dim1, x.ndim)
    ),
    "FlipBackward0": lambda n, x, i: x.flip([_leading(n, d, x.ndim) for d in n._saved_dims]),
    "ChannelShuffleBackward0": lambda n, x, i: torch.channel_shuffle(x, n._saved_groups),
    **{
        f"{name}Backward{version}": lambda n, x, i: x  # the same order, in other brackets
        for name in ("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze")
        for version in (0, 1, 2)
    },
}


class Arranged(Rule):
    """Channels picked, parted or put in another order: each goes back to where it came from."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        if self.made != size:
            raise UnsupportedOperation(f"{node.name()} that makes {self.made} of {size}, rows and columns")
        (shape,) = [shape_of(*source) for source in node.next_functions if source[0] is not None]
        numbers = torch.arange(math.prod(shape[:-2])).view(*shape[:-2], 1, 1)
        self.channels = numbers.numel()
        self.origins = [
            ARRANGEMENTS[node.name()](node, numbers, output).flatten() for output in range(len(node._input_metadata))
        ]

    def backward(
        self, out: Windows, keep: Sequence[Boxes | None], output: int = 0
    ) -> Iterator[tuple[tuple[Node, int], Windows]]:
        """See :class:`Rule`."""
        came = self.origins[output]
        values = out.values
        if not torch.equal(came, torch.arange(self.channels)):
            count, _, height, width = values.shape
            shape = (count, self.channels, height, width)
            values = values.new_zeros(shape).index_add_(1, came.to(values.device), values)
        for source in self.node.next_functions:
            if source[0] is not None:
                yield source, Windows(values, out.origin, out.clean)


class Spread(Single):
    """One channel shown as many: they all send their gradient to it."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        (shape,) = [shape_of(*source) for source in node.next_functions if source[0] is not None]
        if self.made != size or math.prod(shape[:-2]) not in (1, math.prod(shape_of(node)[:-2])):
            raise UnsupportedOperation(f"{node.name()} of {shape} to {shape_of(node)}")
        self.channels = math.prod(shape[:-2])

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        if self.channels == out.values.shape[1]:
            return Windows(out.values, out.origin, out.clean)
        return Windows(out.values.sum(dim=1, keepdim=True), out.origin, out.clean, own=True)


class Reduced(Elementwise):
    """A sum, mean, norm or extreme over all channels: each channel's slope at each place."""

    def __init__(self, node: Node, size: tuple[int, int]) -> None:
        super().__init__(node, size)
        (shape,) = [shape_of(*source) for source in node.next_functions if source[0] is not None]
        dims = getattr(node, "_saved_dim", None)
        dims = dims if isinstance(dims, (tuple, list)) else range(len(shape)) if dims is None else [dims]
        over = {signed_axis(d, len(shape)) for d in dims}
        left = [length for d, length in enumerate(shape[:-2]) if d not in over]
        if max(over) >= len(shape) - 2 or math.prod(left) > 1:
            raise UnsupportedOperation(f"{node.name()} over something else than the channels")

    def apply(self, out: Windows, keep: Boxes) -> Windows:
        """See :class:`Rule`."""
        g = out.trimmed(keep)
        return Windows(g.values * g.cut(self.source), g.origin, g.clean, own=True)
