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

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcore.attacks.rules import (
    Convolution,
    Elementwise,
    MaxPool,
    Node,
    Pixelwise,
    Relu,
    Resize,
    Rule,
    Scaled,
    Unshuffle,
    UnsupportedOperation,
    convolution,
    cutting,
    padding,
)
from lipcore.attacks.targets import Support
from lipcore.attacks.windows import Boxes, Ints, Windows, overlap

#: Operations that belong to the network's body; between the logits and the first of them lies only rearrangement.
BODY: dict[str, Callable[[Node, tuple[int, int]], Rule]] = {
    "ConvolutionBackward0": convolution,
    "ReluBackward0": Relu,
    "NativeBatchNormBackward0": Scaled,
    "MaxPool2DWithIndicesBackward0": MaxPool,
    "UpsampleBilinear2DBackward0": Resize,
    "UpsampleBilinear2DAaBackward0": Resize,
    "UpsampleNearest2DBackward0": Resize,
    "PixelUnshuffleBackward0": Unshuffle,
    "ConstantPadNdBackward0": padding,
    **{
        f"{name}Backward{version}": Elementwise
        for name in ("LeakyRelu", "PreluKernel", "Hardtanh", "Hardswish", "Elu", "Silu", "Gelu", "Tanh", "Sigmoid")
        for version in (0, 1)
    },
}
RULES: dict[str, Callable[[Node, tuple[int, int]], Rule]] = BODY | {
    "SliceBackward0": cutting,
    **{
        f"{name}Backward0": Pixelwise
        for name in ("Add", "Sub", "Mul", "Div", "Neg", "Flip", "Cat", "Alias", "Clone", "ToCopy")
    },
}
#: A batch of windows covers at most this share of the image, unless it holds one instance: it bounds the memory.
SHARE = 1.0


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


class Graph:
    """The recorded forward pass between an image and its logits.

    Args:
        logits: (A,) of one image.
        image: (1, 3, H, W), the leaf that requires a gradient.

    Raises:
        UnsupportedOperation: what it is, and which operations are supported.
    """

    def __init__(self, logits: Tensor, image: Tensor) -> None:
        self.logits, self.image = logits.detach(), image
        order = _consumers_first(logits.grad_fn)
        consumers: dict[Node, list[Node]] = defaultdict(list)
        for node in order:
            for parent in _parents(node):
                consumers[parent].append(node)
        reading: set[Node] = set()
        for node in order:
            if node.name() not in BODY and reading.issuperset(consumers[node]) and not _is_leaf(node):
                reading.add(node)
        self.order = [node for node in order if node not in reading]
        self.sizes = {node: _size(node) for node in self.order}
        self.rules = {node: self._rule(node) for node in self.order if not _is_leaf(node)}
        self.leaf = next((n for n in self.order if _is_leaf(n) and n.variable is image), None)
        if self.leaf is None or sum(map(_is_leaf, self.order)) != 1:
            raise UnsupportedOperation("the logits depend on something else than the image")
        self.entries = list(self._read(order, reading))

    def _rule(self, node: Node) -> Rule:
        parents = _parents(node)
        kind = RULES.get(node.name())
        if kind is None:
            raise UnsupportedOperation(f"{node.name()} has no rule; supported are {', '.join(sorted(RULES))}")
        if kind is not Pixelwise and len(parents) != 1:
            raise UnsupportedOperation(f"{node.name()} with {len(parents)} inputs that depend on the image")
        return kind(node, self.sizes[parents[0]])

    def _read(self, order: list[Node], reading: set[Node]) -> Iterator[tuple[Node, Tensor, Ints, Tensor]]:
        """Where each response is read from: for each map the places, their responses (sorted), and the factors.

        Found by sending 1 and the responses' own numbers backward: what arrives is factor and factor * number.
        """
        numbers = torch.arange(1, len(self.logits) + 1, dtype=self.logits.dtype, device=self.logits.device)
        if len(numbers) > 1 / torch.finfo(numbers.dtype).eps:
            raise UnsupportedOperation(f"{len(numbers)} responses, more than {numbers.dtype} can number")
        sent: dict[Node, list[Tensor]] = {order[0]: [torch.ones_like(numbers), numbers]}
        for node in order:
            if node not in sent:
                continue
            if node in reading:
                for parent, *probes in zip(node.next_functions, *(_called(node, p) for p in sent[node]), strict=True):
                    if parent[0] is not None:
                        old = sent.get(parent[0], [0.0, 0.0])
                        sent[parent[0]] = [a + b for a, b in zip(old, probes, strict=True)]
                continue
            factor, tagged = sent[node]
            if factor.ndim != 4 or len(factor) != 1:
                raise UnsupportedOperation(f"logits are read from a tensor of shape {tuple(factor.shape)}")
            places = factor[0].nonzero()
            c, y, x = places.unbind(1)
            number = tagged[0, c, y, x] / factor[0, c, y, x]
            response = number.round().long() - 1
            exact = ((number - number.round()).abs() < 0.25).all()
            if not exact or not ((response >= 0) & (response < len(numbers))).all():
                raise UnsupportedOperation("a place of the map is read by several responses")
            ranked = torch.argsort(response, stable=True)
            yield node, places[ranked], response[ranked].cpu().numpy(), factor[0, c, y, x][ranked]

    def cropped_sum(self, targets: Sequence[Tensor], supports: Sequence[Support]) -> Tensor:
        """R = sum_i C_ei * grad L_mi, (1, 3, H, W), with the loss toward "no face"; see :mod:`lipcore.attacks`."""
        direction = torch.zeros_like(self.image)
        self.work: list[Work] = []
        for chunk in self._chunks(supports):
            self._add([targets[i] for i in chunk], [supports[i] for i in chunk], direction)
        return direction

    def _chunks(self, supports: Sequence[Support]) -> Iterator[list[int]]:
        """Instances of similar size together, since the windows of a batch are as large as its largest."""
        areas = [s.mask.numel() for s in supports]
        limit = SHARE * self.image.shape[2] * self.image.shape[3]
        chunk: list[int] = []
        for i in sorted(range(len(areas)), key=lambda i: -areas[i]):
            if chunk and areas[chunk[0]] * (len(chunk) + 1) > limit:
                yield chunk
                chunk = []
            chunk.append(i)
        if chunk:
            yield chunk

    def _add(self, targets: Sequence[Tensor], supports: Sequence[Support], direction: Tensor) -> None:
        """Adds the crops of a few instances to ``direction``."""
        found = ((entry[0], self._seed(targets, *entry)) for entry in self.entries)
        seeds = {node: seed for node, seed in found if seed is not None}
        needed = self._needed(seeds, supports)
        waiting: dict[Node, list[Windows]] = defaultdict(list)
        for node in self.order:
            parts = waiting.pop(node, [])
            if node in seeds:
                parts.append(seeds[node])
            keep = needed[node]
            if not parts or not keep.filled.any():
                continue
            out = _merged(parts, keep)
            if node is self.leaf:
                _crop(out, supports, direction)
                continue
            rule = self.rules[node]
            if isinstance(rule, Convolution):
                places = len(targets) * int(out.size.prod())
                self.work.append(Work(places, self.sizes[node][0] * self.sizes[node][1], rule.weight.numel()))
            for parent, windows in rule.backward(out, [needed.get(p) for p, _ in node.next_functions]):
                waiting[parent].append(windows)

    def _seed(
        self, targets: Sequence[Tensor], node: Node, places: Tensor, responses: Ints, factors: Tensor
    ) -> Windows | None:
        """The loss's gradient at the places of one map that the instances' targets are read from."""
        wanted = torch.cat(list(targets)).cpu().numpy()
        owner = np.repeat(np.arange(len(targets)), [len(t) for t in targets])
        first, last = np.searchsorted(responses, wanted, "left"), np.searchsorted(responses, wanted, "right")
        count = last - first
        if not count.any():
            return None
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        found = np.repeat(first, count) + within
        owner = np.repeat(owner, count)
        spot = places[torch.as_tensor(found)].cpu().numpy()
        boxes = Boxes.none(len(targets))
        np.minimum.at(boxes.lo, owner, spot[:, 1:])
        np.maximum.at(boxes.hi, owner, spot[:, 1:] + 1)
        origin = np.where(boxes.filled[:, None], boxes.lo, 0)
        height, width = np.where(boxes.filled[:, None], boxes.hi - boxes.lo, 1).max(axis=0).tolist()
        channels = node._input_metadata[0].shape[1]
        values = self.image.new_zeros(len(targets), channels, height, width)
        slope = self.logits[torch.as_tensor(responses[found])].sigmoid() * factors[torch.as_tensor(found)]
        y, x = (spot[:, 1:] - origin[owner]).T
        index = tuple(torch.as_tensor(i) for i in (owner, spot[:, 0], y, x))
        values.index_put_(index, slope.to(values), accumulate=True)
        return Windows(values, origin, clean=True)

    def _needed(self, seeds: dict[Node, Windows], supports: Sequence[Support]) -> dict[Node, Boxes]:
        """For each map the places that the targets read and that read a pixel of e_i."""
        count = len(supports)
        lo = np.array([[s.top, s.left] for s in supports])
        below = {self.leaf: Boxes(lo, lo + [s.mask.shape for s in supports])}
        for node in reversed(self.order):
            if node is not self.leaf:
                reached = Boxes.none(count)
                for parent in _parents(node):
                    reached |= self.rules[node].reaches(below[parent])
                below[node] = reached.clip(self.sizes[node]).cleaned()
        above = {node: Boxes.none(count) for node in self.order}
        for node in self.order:
            if node in seeds:
                places = seeds[node].values.detach().ne(0).any(dim=1).cpu().numpy()
                above[node] |= _extent(places, seeds[node].origin)
            if node is not self.leaf:
                for parent in _parents(node):
                    read = self.rules[node].reads(above[node]).clip(self.sizes[parent]).cleaned()
                    above[parent] |= read
        return {node: (above[node] & below[node]).cleaned() for node in self.order}


def _extent(places: np.ndarray, origin: Ints) -> Boxes:
    """The smallest rectangle around the true places of each (n, h, w) mask."""
    lo, hi = Boxes.none(len(places)).lo, Boxes.none(len(places)).hi
    for i, mask in enumerate(places):
        y, x = mask.nonzero()
        if len(y):
            lo[i], hi[i] = origin[i] + [y.min(), x.min()], origin[i] + [y.max() + 1, x.max() + 1]
    return Boxes(lo, hi)


def _merged(parts: list[Windows], keep: Boxes) -> Windows:
    """Their sum, on one window for each instance."""
    parts = [p.trimmed(keep) for p in parts]
    if len(parts) == 1:
        return parts[0]
    origin = np.min([p.origin for p in parts], axis=0)
    size = (np.max([p.origin + p.size for p in parts], axis=0) - origin).max(axis=0)
    total = parts[0].placed(origin, size)
    for part in parts[1:]:
        total = total + part.placed(origin, size)
    return Windows(total, origin, all(p.clean for p in parts)).trimmed(keep)


def _crop(windows: Windows, supports: Sequence[Support], direction: Tensor) -> None:
    """Adds what lies in each e_i to the direction."""
    for values, origin, support in zip(windows.values, windows.origin, supports, strict=True):
        start = np.array([support.top, support.left])
        mine, theirs = overlap(origin, windows.size, start, support.mask.shape)
        crop = values[:, *mine] * support.mask[theirs]
        top, left = support.top + theirs[0].start, support.left + theirs[1].start
        direction[0, :, top : top + crop.shape[1], left : left + crop.shape[2]] += crop


def _called(node: Node, probe: Tensor) -> tuple[Tensor | None, ...]:
    """What the node sends to each of its inputs."""
    sent = node(probe)
    return sent if isinstance(sent, tuple) else (sent,)


def _is_leaf(node: Node) -> bool:
    return bool(node.name() == "torch::autograd::AccumulateGrad")


def _parents(node: Node) -> list[Node]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _size(node: Node) -> tuple[int, int]:
    """Height and width of the map that a node made."""
    shape = node._input_metadata[0].shape
    if len(shape) != 4 or shape[0] != 1:
        raise UnsupportedOperation(f"{node.name()} makes a tensor of shape {tuple(shape)}; a map is (1, C, H, W)")
    return int(shape[2]), int(shape[3])


def _consumers_first(root: Node) -> list[Node]:
    """The nodes below ``root``, each after all that use it."""
    done: set[Node] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in _parents(node))
    return order[::-1]
