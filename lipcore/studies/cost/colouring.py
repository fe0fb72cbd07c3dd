"""Which instances could share a backward pass of the whole image without disturbing one another: a graph colouring.

Instances i and j may share one when e_i meets the TRF of no target of j and e_j that of no target of i. The windows of
:mod:`lipcore.attacks.windowed` do not need it; what it would save is measured beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx
import torch

from lipcore.attacks.crop import Support, whole_image
from lipcore.attacks.windowed import Graph
from lipcore.studies.cost.timing import Case


@dataclass(frozen=True)
class Colouring:
    """Instances of one colour share a backward pass.

    Attributes:
        colours: of each instance, 0, 1, ...
        cones: for each instance x0, y0, x1, y1 in pixels, the rectangle around the TRFs of its targets.
        conflicts: pairs of instances that may not share a pass.
    """

    colours: list[int]
    cones: list[tuple[int, int, int, int]]
    conflicts: int

    @property
    def passes(self) -> int:
        """Backward passes of one step."""
        return len(set(self.colours))


@torch.enable_grad()
def colour(case: Case) -> Colouring:
    """Colours the instances by DSATUR (Brélaz, 1979): few colours, not always the fewest.

    Raises:
        UnsupportedOperation: the detector's TRFs cannot be followed.
    """
    image = case.image.detach().requires_grad_()
    graph = Graph(case.detector(image).logits[0], image)
    height, width = image.shape[2:]
    whole = [whole_image(height, width)] * len(case.targets)
    boxes = graph.windows(graph.seeds(case.targets), whole)[graph.leaf]
    cones = [(x0, y0, x1, y1) for (y0, x0), (y1, x1) in zip(boxes.lo.tolist(), boxes.hi.tolist(), strict=True)]
    conflicts = networkx.Graph()
    conflicts.add_nodes_from(range(len(cones)))
    conflicts.add_edges_from(_conflicts(case.supports, cones))
    chosen = networkx.greedy_color(conflicts, strategy="DSATUR")
    return Colouring([chosen[i] for i in range(len(cones))], cones, conflicts.number_of_edges())


def _conflicts(supports: Sequence[Support], cones: Sequence[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
    pairs = ((i, j) for j in range(len(cones)) for i in range(j))
    return [(i, j) for i, j in pairs if _meets(supports[i], cones[j]) or _meets(supports[j], cones[i])]


def _meets(support: Support, cone: tuple[int, int, int, int]) -> bool:
    """Whether a pixel of e_i lies inside the rectangle."""
    x0, y0, x1, y1 = cone
    rows = slice(max(0, y0 - support.top), max(0, y1 - support.top))
    cols = slice(max(0, x0 - support.left), max(0, x1 - support.left))
    return bool(support.mask[rows, cols].any())
