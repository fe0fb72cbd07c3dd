"""Bins of the distance to the nearest neighbour, in sides of the effective receptive field."""

from __future__ import annotations

from itertools import pairwise

#: On photographs half of all faces have a neighbour nearer than a tenth of a side.
EDGES = (0.0, 0.05, 0.15, 0.4, float("inf"))
BINS: tuple[tuple[float | None, float | None], ...] = tuple(pairwise(EDGES))


def within(gap: float | None, bounds: tuple[float | None, float | None], side: float) -> bool:
    """Whether a gap in pixels (None: no neighbour) lies in [low, high) sides; bounds of None hold every face."""
    low, high = bounds
    if low is None or high is None:
        return True
    sides = float("inf") if gap is None else gap / side
    return low <= sides and (sides < high or high == float("inf"))


def name_of(low: float | None, high: float | None) -> str:
    """A bin as readers name it."""
    if low is None or high is None:
        return "all"
    return f"from {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
