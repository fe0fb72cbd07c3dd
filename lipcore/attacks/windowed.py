"""The gradient of each instance, inside its own e_i, by backward passes over windows: exact, and cheap.

A response reads a patch of the image, and e_i is a patch of the image too. So at every layer the gradient of instance i
is needed at few places: those that its targets read (the *cone* of T_i, seen from above) and that themselves read a
pixel of e_i (seen from below). Their intersection is the layer's *window*. A place outside it adds nothing to
C_ei * grad L_mi: either no target reads it, so its gradient is zero, or it reads no pixel of e_i. One backward pass
over the windows alone, many instances in one batch, therefore gives the naive loop's result.

The operations and the activations are those that torch recorded in an ordinary forward pass (the graph behind
``logits.grad_fn``), so a detector need not be written in any special way. :data:`RULES` lists what is supported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcore.attacks.crop import Support, union, whole_image
from lipcore.graph.recorded import Entry, Made, Recorded, parents
from lipcore.graph.rules import Node, shape_of
from lipcore.graph.spatial import Convolution
from lipcore.graph.windows import Boxes, Ints, Windows, around, map_like, merged, overlap

#: The e_i of a batch of windows have at most so many pixels, unless it is one instance's. This bounds the memory; and a
#: gradient of few MB gets memory that was used before, where a larger one gets pages that the system fills with zeros
#: first. With a margin windows are smaller, and so many times as many make a batch.
BATCH, MORE_NEAR = 1 << 18, 4
#: Where an image is swept as a whole, it is in bands of at most so many pixels.
MOST = 1 << 22


@dataclass(frozen=True)
class Work:
    """What the windows of one convolution amount to.

    Attributes:
        area: summed over the instances, in places of the map.
        whole: places of the map.
        macs: multiplications and additions at each place.
    """

    area: int
    whole: int
    macs: int


class Graph(Recorded):
    """The recorded forward pass between an image and its logits, to be walked backward in windows.

    Args:
        logits, image: see :class:`lipcore.graph.recorded.Recorded`.
    """

    def __init__(self, logits: Tensor, image: Tensor) -> None:
        super().__init__(logits, image)
        #: Of each node the coarsest stride between it and the image, itself included.
        self.coarsest: dict[Node, float] = {}
        for node in reversed(self.order):
            below = [self.coarsest[parent] for parent in parents(node)]
            self.coarsest[node] = max(image.shape[2] / self.sizes[node][0], *below, 0.0)

    def cropped_sum(
        self,
        targets: Sequence[Tensor],
        supports: Sequence[Support],
        stride: float = 0,
        margin: float = math.inf,
        batch: int = BATCH,
    ) -> Tensor:
        """R = sum_i C_ei * grad L_mi, with the loss toward "no face".

        Args:
            targets: for each instance its response indices (T_i,).
            supports: for each instance e_i.
            stride: 0 keeps the instances apart down to the image: exact. Otherwise each instance is cropped to e_i on
                the maps of that stride already, and the maps below are swept once for all instances together. A pixel
                near the border of e_i then misses a little of its gradient, and gets a little of its neighbours'.
            margin: what leads from the targets to e_i by places further than this from e_i, in pixels, is left out;
                infinity leaves out nothing: exact.
            batch: pixels of e_i in a batch of windows; a matter of time and memory only.

        Returns:
            (1, 3, H, W); zero outside all e_i.
        """
        below = {node for node, coarsest in self.coarsest.items() if coarsest <= 1.05 * stride} | {self.leaf}
        leaf = (self.leaf, 0)
        shared: dict[Made, Tensor] = {leaf: torch.zeros_like(self.image)}
        self.work: list[Work] = []
        if not targets:
            return shared[leaf]
        seeds = self.seeds(targets)
        needed = self.windows(seeds, supports, margin)
        for chunk in self._chunks(supports, batch if margin == math.inf else batch * MORE_NEAR):
            started = {made: seed[chunk] for made, seed in seeds.items()}
            wanted = {node: boxes[chunk] for node, boxes in needed.items()}
            for made, windows in self._sweep(started, wanted, stop=below):
                self._share(made, windows, [supports[i] for i in chunk], shared)
        if len(shared) > 1:
            direction = shared.pop(leaf)
            origin = np.zeros((1, 2), np.int64)
            seeds = {made: Windows(values, origin, clean=True) for made, values in shared.items()}
            for band in self._bands():
                into, corner = direction[..., band.rows, band.cols], np.array([band.top, band.left])
                for _, windows in self._sweep(seeds, self.windows(seeds, [band]), stop={self.leaf}):
                    mine, there = overlap(windows.origin[0], windows.size, corner, into.shape[2:])
                    into[..., *there] += windows.values[..., *mine]
            return direction * union(supports, direction)
        return shared[leaf]

    @property
    def strides(self) -> list[float]:
        """What may be given as ``stride``, ascending: one for each resolution but the coarsest."""
        found = sorted({round(c, 2) for c in self.coarsest.values() if c > 1})
        return [s for s, after in pairwise(found) if after > 1.2 * s]

    def _chunks(self, supports: Sequence[Support], limit: int) -> Iterator[list[int]]:
        """Instances of similar size together, since the windows of a batch are as large as its largest."""
        areas = [s.mask.numel() for s in supports]
        chunk: list[int] = []
        for i in sorted(range(len(areas)), key=lambda i: -areas[i]):
            if chunk and areas[chunk[0]] * (len(chunk) + 1) > limit:
                yield chunk
                chunk = []
            chunk.append(i)
        if chunk:
            yield chunk

    def _bands(self) -> Iterator[Support]:
        """The image in bands of rows of at most :data:`MOST` pixels: one, but for a large image."""
        height, width = self.image.shape[2:]
        rows = -(-height // -(-height * width // MOST))
        for top in range(0, height, rows):
            yield replace(whole_image(min(rows, height - top), width, self.image.device), top=top)

    def _sweep(
        self, seeds: dict[Made, Windows], needed: dict[Node, Boxes], stop: set[Node]
    ) -> Iterator[tuple[Made, Windows]]:
        """Carries gradients down from the seeds; what arrives at the nodes in ``stop``, each several times."""
        waiting: dict[Made, list[Windows]] = defaultdict(list)
        for node in self.order:
            for output in range(len(node._input_metadata)):
                parts = waiting.pop((node, output), [])
                if seed := seeds.get((node, output)):
                    if node in stop and len(seed.values) > 1:
                        yield (node, output), seed
                        continue
                    parts.append(seed)
                if not parts or not needed[node].filled.any():
                    continue
                out = merged(parts, needed[node])
                rule = self.rules[node]
                if isinstance(rule, Convolution):
                    places = len(out.values) * int(out.size.prod())
                    self.work.append(Work(places, self.sizes[node][0] * self.sizes[node][1], rule.weight.numel()))
                for source, windows in rule.backward(out, [needed.get(p) for p, _ in node.next_functions], output):
                    if source[0] in stop:
                        yield source, windows
                    else:
                        waiting[source].append(windows)

    def _share(self, made: Made, windows: Windows, supports: Sequence[Support], shared: dict[Made, Tensor]) -> None:
        """Crops each instance's window to its e_i, as seen at the map's resolution, and adds it to the one map."""
        node = made[0]
        height, width = self.sizes[node]
        if made not in shared:
            shared[made] = map_like(windows.values, 1, height, width, zeros=True)
        into = shared[made][0]
        y, x = self.pixels[node]
        places = self.near(node, _pixels(supports))
        for values, origin, support, lo, hi in zip(
            windows.values, windows.origin, supports, places.lo, places.hi, strict=True
        ):
            mine, _ = overlap(origin, windows.size, lo, hi - lo)
            there = tuple(slice(m.start + int(o), m.stop + int(o)) for m, o in zip(mine, origin, strict=True))
            rows = torch.as_tensor(y[there[0]] - support.top, device=into.device)
            cols = torch.as_tensor(x[there[1]] - support.left, device=into.device)
            inside = support.mask.index_select(0, rows).index_select(1, cols)
            into[:, *there] += values[:, *mine] * inside

    @cached_property
    def pixels(self) -> dict[Node, tuple[Ints, Ints]]:
        """For each map the row of the image amid what each of its rows reads, and the same for its columns."""
        exact: dict[Node, list[NDArray[np.float64]]] = {
            self.leaf: [np.arange(n, dtype=float) for n in self.sizes[self.leaf]]
        }
        for node in reversed(self.order):
            if node is not self.leaf:
                parent = parents(node)[0]
                index = np.arange(max(self.sizes[node]))[:, None].repeat(2, axis=1)
                read = self.rules[node].reads(Boxes(index, index + 1))
                middle = (read.lo + read.hi - 1) / 2
                exact[node] = [
                    np.interp(middle[:size, axis], np.arange(len(below)), below)
                    for axis, (size, below) in enumerate(zip(self.sizes[node], exact[parent], strict=True))
                ]
        return {node: tuple(np.rint(a).astype(np.int64) for a in axes) for node, axes in exact.items()}  # type: ignore[misc]

    def near(self, node: Node, pixels: Boxes, margin: float = 0) -> Boxes:
        """The places of a map that stand for these pixels and those at most ``margin`` from them."""
        edges = np.stack([pixels.lo - margin, pixels.hi + margin])
        found = (np.searchsorted(at, edges[..., axis]) for axis, at in enumerate(self.pixels[node]))
        return Boxes(*np.stack(list(found), axis=-1))

    def seeds(self, targets: Sequence[Tensor]) -> dict[Made, Windows]:
        """The loss's gradient where the targets are read, for each map that any is read from: where a sweep starts."""
        found = ((entry.made, self._seed(targets, entry)) for entry in self.entries)
        return {made: seed for made, seed in found if seed is not None}

    def _seed(self, targets: Sequence[Tensor], entry: Entry) -> Windows | None:
        """The loss's gradient at the places of one map that the instances' targets are read from."""
        wanted = torch.cat(list(targets)).cpu().numpy()
        owner = np.repeat(np.arange(len(targets)), [len(t) for t in targets])
        first, last = (np.searchsorted(entry.responses, wanted, side) for side in ("left", "right"))
        count = last - first
        if not count.any():
            return None
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        found = np.repeat(first, count) + within
        owner = np.repeat(owner, count)
        spot = entry.places[torch.as_tensor(found)].cpu().numpy()
        boxes = Boxes.none(len(targets))
        np.minimum.at(boxes.lo, owner, spot[:, 1:])
        np.maximum.at(boxes.hi, owner, spot[:, 1:] + 1)
        origin = np.where(boxes.filled[:, None], boxes.lo, 0)
        height, width = np.where(boxes.filled[:, None], boxes.hi - boxes.lo, 1).max(axis=0).tolist()
        values = self.image.new_zeros(len(targets), math.prod(shape_of(*entry.made)[:-2]), height, width)
        slope = self.logits[torch.as_tensor(entry.responses[found])].sigmoid() * entry.factors[torch.as_tensor(found)]
        y, x = (spot[:, 1:] - origin[owner]).T
        index = tuple(torch.as_tensor(i) for i in (owner, spot[:, 0], y, x))
        values.index_put_(index, slope.to(values), accumulate=True)
        return Windows(values, origin, clean=True)

    def windows(
        self, seeds: dict[Made, Windows], supports: Sequence[Support], margin: float = math.inf
    ) -> dict[Node, Boxes]:
        """For each map the places that the targets read and that read a pixel of e_i (and are not too far from it)."""
        pixels = _pixels(supports)
        started: dict[Node, Boxes] = {}
        for (node, _), seed in seeds.items():
            places = around(seed.values.detach().ne(0).any(dim=1).cpu().numpy(), seed.origin)
            started[node] = started[node] | places if node in started else places
        below = self.reached_by(pixels)
        above = self.read_by(started) if started else {node: Boxes.none(len(supports)) for node in self.order}
        boxes = {node: above[node] & below[node] for node in self.order}
        if margin < math.inf:
            boxes = {node: box & self.near(node, pixels, margin) for node, box in boxes.items()}
        return {node: box.cleaned() for node, box in boxes.items()}


def _pixels(supports: Sequence[Support]) -> Boxes:
    """Each e_i's rectangle of the image."""
    first = np.array([[s.top, s.left] for s in supports])
    return Boxes(first, first + [s.mask.shape for s in supports])
