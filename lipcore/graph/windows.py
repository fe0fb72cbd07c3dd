"""Rectangles of a map, one for each instance, and gradients on them: what a backward pass over windows is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
#: Stands for "nothing yet" in a box: a union with it changes nothing.
FAR = 1 << 40
#: Small windows are treated together, as many as have so many values.
SMALL = 1 << 16


@dataclass(frozen=True)
class Boxes:
    """For each of n instances a rectangle of a map: rows and columns from ``lo`` up to, not including, ``hi``.

    Attributes:
        lo, hi: (n, 2) y, x; empty where ``hi <= lo``.
    """

    lo: Ints
    hi: Ints

    @classmethod
    def none(cls, count: int) -> Boxes:
        """Empty rectangles."""
        return cls(np.full((count, 2), FAR), np.full((count, 2), -FAR))

    def __or__(self, other: Boxes) -> Boxes:
        return Boxes(np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi))

    def __and__(self, other: Boxes) -> Boxes:
        return Boxes(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi))

    def clip(self, size: Sequence[int]) -> Boxes:
        """Only what lies on a map of that height and width."""
        return Boxes(np.maximum(self.lo, 0), np.minimum(self.hi, np.asarray(size)))

    def __getitem__(self, chosen: Any) -> Boxes:
        return Boxes(self.lo[chosen], self.hi[chosen])

    @property
    def filled(self) -> NDArray[np.bool_]:
        """(n,) which are not empty."""
        return np.asarray((self.hi > self.lo).all(axis=1))

    def cleaned(self) -> Boxes:
        """Those that are empty in one direction are empty in both."""
        filled = self.filled[:, None]
        return Boxes(np.where(filled, self.lo, FAR), np.where(filled, self.hi, -FAR))


@dataclass
class Windows:
    """Gradients of n instances on windows of one map.

    Attributes:
        values: (n, C, h, w).
        origin: (n, 2) y, x of each window's first place; a window may hang over the map's border.
        clean: places outside the map hold zeros.
        own: nothing else holds these values, so they may be changed in place.
    """

    values: Tensor
    origin: Ints
    clean: bool
    own: bool = False

    def __getitem__(self, chosen: Any) -> Windows:
        return replace(self, values=self.values[chosen], origin=self.origin[chosen])

    @property
    def size(self) -> Ints:
        """(2,) height and width."""
        return np.asarray(self.values.shape[-2:])

    def trimmed(self, keep: Boxes) -> Windows:
        """Without the rows and columns that no instance needs to ``keep``."""
        first, last = self._margins(keep)
        (top, left), (height, width) = first, self.size - last
        return Windows(self.values[..., top:height, left:width], self.origin + first, self.clean, self.own)

    def _margins(self, keep: Boxes) -> tuple[Ints, Ints]:
        return margins(self.origin, self.size, keep)

    def placed(self, origin: Ints, size: Ints) -> Tensor:
        """The values on other windows of the same map; zero where there were none."""
        shift = self.origin - origin
        height, width = (int(s) for s in size)
        if (shift == shift[0]).all():
            (top, left), (h, w) = (int(s) for s in shift[0]), self.values.shape[-2:]
            if (top, left, h, w) == (0, 0, height, width):
                return self.values
            return F.pad(self.values, (left, width - left - w, top, height - top - h))
        out = map_like(self.values, len(self.values), height, width, zeros=True)
        for i in range(len(out)):
            inside, mine = overlap(origin[i], (height, width), self.origin[i], self.values.shape[-2:])
            out[i][:, *inside] = self.values[i][:, *mine]
        return out

    def beside(self, whole: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """Parts of ``values``, each with a map (1, C, H, W) there: a large window's as it is, small ones' together."""
        at_once = SMALL // self.values[0].numel()
        if at_once > 1:
            places, flat = self.places(whole.shape[-2:]).to(whole.device), flattened(whole)
            for first in range(0, len(self.values), at_once):
                some = slice(first, first + at_once)
                yield (some,), gathered(flat, places[some])
        else:
            start = np.zeros(2, np.int64)
            for i, origin in enumerate(self.origin):
                mine, (rows, cols) = overlap(origin, self.size, start, whole.shape[-2:])
                yield (slice(i, i + 1), slice(None), *mine), whole[:, :, rows, cols]

    def cut(self, whole: Tensor) -> Tensor:
        """A map (1, C, H, W) where these windows are, (n, C, h, w); anything where they hang over its border."""
        return gathered(flattened(whole), self.places(whole.shape[-2:]).to(whole.device))

    def places(self, size: Sequence[int]) -> Tensor:
        """(n, h, w) of each place its number on a map of that height and width; some number beyond its border."""
        rows, cols = (
            np.minimum(np.maximum(self.origin[:, axis, None] + np.arange(self.size[axis]), 0), most - 1)
            for axis, most in enumerate(size)
        )
        return torch.as_tensor(rows[:, :, None] * size[1] + cols[:, None])

    def hangs(self, size: Sequence[int]) -> NDArray[np.bool_]:
        """(n,) which windows reach beyond a map of that height and width."""
        return np.asarray(((self.origin < 0) | (self.origin + self.size > np.asarray(size))).any(axis=1))

    def wipe(self, size: Sequence[int]) -> None:
        """Zeros where a window hangs over the border of a map of that ``size``."""
        if self.clean:
            return
        hanging = np.flatnonzero(self.hangs(size))
        if len(hanging) and not self.own:
            self.values, self.own = self.values.clone(), True
        for i in hanging:
            (rows, cols), _ = overlap(self.origin[i], self.size, np.zeros(2, np.int64), size)
            own = self.values[i]
            own[:, : rows.start] = own[:, rows.stop :] = 0
            own[..., : cols.start] = own[..., cols.stop :] = 0
        self.clean = True


def flattened(whole: Tensor) -> Tensor:
    """A map (1, C, H, W) as (H * W, C)."""
    return whole[0].permute(1, 2, 0).flatten(0, 1)


def gathered(flat: Tensor, places: Tensor) -> Tensor:
    """What a flattened map holds at some places (n, h, w), as (n, C, h, w)."""
    return flat.index_select(0, places.flatten()).view(*places.shape, -1).permute(0, 3, 1, 2)


def margins(origin: Ints, size: Ints, keep: Boxes) -> tuple[Ints, Ints]:
    """How many first and last rows and columns, (2,) each, no instance needs; at least one of each is left.

    Boxes that are empty must be :meth:`Boxes.cleaned`.
    """
    first = np.maximum((keep.lo - origin).min(axis=0), 0)  # what is empty lies FAR away
    last = np.maximum((origin + size - keep.hi).min(axis=0), 0)
    if (first + last < size).all():
        return first, last
    return np.zeros(2, np.int64), size - 1


def overlap(origin: Ints, size: Any, other: Ints, extent: Any) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where two windows of one map meet, as rows and columns of the one and of the other."""
    lo = np.maximum(origin, other)
    hi = np.maximum(np.minimum(origin + np.asarray(size), other + np.asarray(extent)), lo)
    own, theirs = (
        (slice(int(a[0]), int(b[0])), slice(int(a[1]), int(b[1])))
        for a, b in ((lo - origin, hi - origin), (lo - other, hi - other))
    )
    return own, theirs


def map_like(values: Tensor, count: int, height: int, width: int, *, zeros: bool) -> Tensor:
    """Room for (count, C, height, width) in the device and dtype of ``values``, channels last."""
    shape = (count, values.shape[1], height, width)
    room = torch.empty(shape, dtype=values.dtype, device=values.device, memory_format=torch.channels_last)
    return room.zero_() if zeros else room


def around(places: NDArray[np.bool_], origin: Ints) -> Boxes:
    """The smallest rectangle around the true places of each (n, h, w) mask."""
    lo, hi = Boxes.none(len(places)).lo, Boxes.none(len(places)).hi
    for i, mask in enumerate(places):
        y, x = mask.nonzero()
        if len(y):
            lo[i], hi[i] = origin[i] + [y.min(), x.min()], origin[i] + [y.max() + 1, x.max() + 1]
    return Boxes(lo, hi)


def merged(parts: list[Windows], keep: Boxes) -> Windows:
    """Their sum, on one window for each instance."""
    parts = sorted((p.trimmed(keep) for p in parts), key=lambda p: (not p.own, -p.size.prod()))
    if len(parts) == 1:
        return parts[0]
    origin = np.min([p.origin for p in parts], axis=0)
    size = (np.max([p.origin + p.size for p in parts], axis=0) - origin).max(axis=0)
    total = parts[0].placed(origin, size)
    if total is parts[0].values and not parts[0].own:
        total = total.clone()
    for part in parts[1:]:
        shift = part.origin - origin
        height, width = part.size
        alike = bool((shift == shift[0]).all())
        for i, (top, left) in enumerate(shift[:1] if alike else shift):
            some = slice(None) if alike else slice(i, i + 1)
            total[some, :, top : top + height, left : left + width] += part.values[some]
    return Windows(total, origin, all(p.clean for p in parts), own=True).trimmed(keep)
