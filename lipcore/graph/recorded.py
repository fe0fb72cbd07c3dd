"""The recorded forward pass between an image and its logits, as maps and the operations between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcore.graph.operations import NEIGHBOURHOODS, RULES
from lipcore.graph.rules import Node, Rule, UnsupportedOperation, as_map, shape_of
from lipcore.graph.windows import Boxes, Ints

#: A map: the node that made it, and the number of its output.
Made = tuple[Node, int]
#: Responses are numbered by two digits to this base, so that single precision tells them apart.
BASE = 1024
#: A slope below it sends nothing on that could be told from nothing.
LEAST = 1e-30


@dataclass(frozen=True)
class Entry:
    """Where responses are read from one map.

    Attributes:
        made: the map.
        places: (P, 3) long: channel, row and column.
        responses: (P,) of each place the response that is read there, ascending.
        factors: (P,) the slope of its logit there.
    """

    made: Made
    places: Tensor
    responses: Ints
    factors: Tensor


class Recorded:
    """The recorded forward pass.

    Args:
        logits: (A,) of one image.
        image: (1, 3, H, W), the leaf that requires a gradient.

    Attributes:
        order: the nodes of the network's body, each after all that use it; the image is the last.
        leaf: the image's.
        sizes: height and width of what each node made.
        rules: of each node but the image's.
        entries: where the body's maps are read; between the logits and them lie only functions of single places.

    Raises:
        UnsupportedOperation: what it is, and which operations are supported.
    """

    def __init__(self, logits: Tensor, image: Tensor) -> None:
        self.logits, self.image = logits.detach(), image
        order = _consumers_first(logits.grad_fn)
        consumers: dict[Node, list[Node]] = defaultdict(list)
        for node in order:
            for parent in parents(node):
                consumers[parent].append(node)
        reading: set[Node] = set()
        for node in order:
            if node.name() not in NEIGHBOURHOODS and reading.issuperset(consumers[node]) and not is_leaf(node):
                reading.add(node)
        self.order = [node for node in order if node not in reading]
        self.sizes = {node: _size(node) for node in self.order}
        self.rules = {node: self._rule(node) for node in self.order if not is_leaf(node)}
        self.leaf = next((n for n in self.order if is_leaf(n) and n.variable is image), None)
        if self.leaf is None or sum(map(is_leaf, self.order)) != 1:
            raise UnsupportedOperation("the logits depend on something else than the image")
        self.entries = list(self._read(order, reading))

    def _rule(self, node: Node) -> Rule:
        maker = RULES.get(node.name())
        if maker is None:
            raise UnsupportedOperation(f"{node.name()} has no rule; supported are {', '.join(sorted(RULES))}")
        sizes = [self.sizes[parent] for parent in parents(node)]
        rule = maker(node, sizes[0])
        if not rule.joins and len(sizes) != 1:
            raise UnsupportedOperation(f"{node.name()} with {len(sizes)} inputs that depend on the image")
        if rule.joins and set(sizes) != {self.sizes[node]}:
            raise UnsupportedOperation(f"{node.name()} of maps of different size, {sizes} to {self.sizes[node]}")
        return rule

    def _read(self, order: list[Node], reading: set[Node]) -> Iterator[Entry]:
        """Found by sending 1 and the responses' own numbers backward: what arrives is slope and slope * number.

        Where a place is read by several responses their numbers mix. A third number that has nothing to do with the
        order of the responses shows it, even where the mean of two numbers is the number of another.
        """
        count = len(self.logits)
        numbers = torch.arange(count, device=self.logits.device)
        if count > BASE**2 * 8:
            raise UnsupportedOperation(f"{count} responses, more than can be told apart")
        marks = [numbers // BASE, numbers % BASE, numbers * 2654435761 % (1 << 32) // (1 << 22)]
        probes = [torch.ones_like(self.logits), *(mark.to(self.logits) for mark in marks)]
        sent: dict[Made, list[Tensor]] = {(order[0], 0): probes}
        for node in order:
            outputs = range(len(node._input_metadata))
            got = {number: sent.pop((node, number)) for number in outputs if (node, number) in sent}
            if node not in reading:
                for number, arrived in got.items():
                    yield self._entry((node, number), arrived, marks[2])
            elif got:
                for probe in range(len(probes)):
                    arguments = [got[number][probe] if number in got else None for number in outputs]
                    for source, value in zip(node.next_functions, _called(node, arguments), strict=True):
                        if source[0] is not None and value is not None:
                            mine = sent.setdefault(source, [torch.zeros(())] * len(probes))
                            sent[source] = [*mine[:probe], mine[probe] + value, *mine[probe + 1 :]]

    def _entry(self, made: Made, arrived: list[Tensor], mark: Tensor) -> Entry:
        if arrived[0].ndim < 3 or tuple(arrived[0].shape[-2:]) != self.sizes[made[0]]:
            raise UnsupportedOperation(f"logits are read from a tensor of shape {tuple(arrived[0].shape)}")
        factor, *tagged = (as_map(a, self.sizes[made[0]])[0] for a in arrived)
        places = (factor.abs() > LEAST).nonzero()
        c, y, x = places.unbind(1)
        slopes = factor[c, y, x]
        found = [tag[c, y, x] / slopes for tag in tagged]
        high, low, check = (number.round().long() for number in found)
        response = high * BASE + low
        exact = all(bool(((number - number.round()).abs() < 0.25).all()) for number in found)
        inside = bool(((response >= 0) & (response < len(mark))).all())
        if not (exact and inside and torch.equal(mark[response], check)):
            raise UnsupportedOperation("a place of the map is read by several responses")
        ranked = torch.argsort(response, stable=True)
        return Entry(made, places[ranked], response[ranked].cpu().numpy(), slopes[ranked])

    def places_of(self, responses: Sequence[int]) -> dict[Node, Boxes]:
        """For each node the rectangles of its map that these responses are read from."""
        found: dict[Node, Boxes] = {}
        for entry in self.entries:
            boxes = Boxes.none(len(responses))
            for i, response in enumerate(responses):
                first, last = np.searchsorted(entry.responses, [response, response + 1])
                spot = entry.places[first:last, 1:].cpu().numpy()
                if len(spot):
                    boxes.lo[i], boxes.hi[i] = spot.min(axis=0), spot.max(axis=0) + 1
            node = entry.made[0]
            found[node] = found[node] | boxes if node in found else boxes
        return found

    def read_by(self, places: Mapping[Node, Boxes], *, beyond: bool = False) -> dict[Node, Boxes]:
        """For each node the rectangles that these places of maps depend on, the image's included.

        Args:
            places: on the maps of some nodes.
            beyond: also what lies beyond a map's border, in the padding, as if the image went on there.
        """
        count = len(next(iter(places.values())).lo)
        found = {node: Boxes.none(count) for node in self.order}
        for node in self.order:
            if node in places:
                found[node] |= places[node]
            if node is not self.leaf:
                for parent in parents(node):
                    read = self.rules[node].reads(found[node])
                    found[parent] |= (read if beyond else read.clip(self.sizes[parent])).cleaned()
        return found

    def reached_by(self, pixels: Boxes) -> dict[Node, Boxes]:
        """For each node the rectangles that depend on these pixels of the image."""
        found = {self.leaf: pixels}
        for node in reversed(self.order):
            if node is not self.leaf:
                reached = Boxes.none(len(pixels.lo))
                for parent in parents(node):
                    reached |= self.rules[node].reaches(found[parent])
                found[node] = reached.clip(self.sizes[node]).cleaned()
        return found


def _called(node: Node, arguments: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    """What the node sends to each of its inputs."""
    if not callable(node):  # torch.compile makes such nodes, and so does an autograd function of one's own
        raise UnsupportedOperation(f"{node.name()} is not an operation of torch's own")
    sent = node(*arguments)
    return sent if isinstance(sent, tuple) else (sent,)


def is_leaf(node: Node) -> bool:
    """Whether it stands for a tensor that nothing made: the image."""
    return bool(node.name() == "torch::autograd::AccumulateGrad")


def parents(node: Node) -> list[Node]:
    """The nodes that made a node's inputs, as far as the image has a part in them."""
    return [parent for parent, _ in node.next_functions if parent is not None]


def _size(node: Node) -> tuple[int, int]:
    """Height and width of the map, or of each of the maps, that a node made."""
    for output in range(len(node._input_metadata)):
        if len(shape_of(node, output)) < 2:
            raise UnsupportedOperation(f"{node.name()} makes a tensor of shape {shape_of(node, output)}, not a map")
    height, width = shape_of(node)[-2:]
    return height, width


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
            stack.extend((parent, False) for parent in parents(node))
    return order[::-1]
