"""How long work will take, from the seconds of records that cost alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

Work = TypeVar("Work")
Entries = Mapping[str, Any]


class Known:
    """Seconds for a unit of work, by groups of records that cost alike.

    Args:
        alike: of a record's entries its groups, the narrowest first, each with this record's share of work.
    """

    def __init__(self, alike: Callable[[Any], Sequence[tuple[Hashable, float]]]) -> None:
        self._alike = alike
        self._taken: dict[Hashable, list[float]] = defaultdict(list)

    def learn(self, record: Entries) -> None:
        """From what it took."""
        for group, work in self._alike(record):
            self._taken[group].append(record["seconds"] / work)

    def seconds(self, entries: Entries) -> float:
        """What a record of these entries will take, from the narrowest group of which something is known."""
        taken, work = next((self._taken[group], work) for group, work in self._alike(entries) if group in self._taken)
        return sum(taken) / len(taken) * work

    def cheapest_unknown(self, each: Iterable[tuple[Entries, Work]]) -> list[tuple[Entries, Work]]:
        """Of each widest group of which nothing is known the record of the least work: measured, all are known."""
        least: dict[Hashable, float] = {}
        found: dict[Hashable, tuple[Entries, Work]] = {}
        for entries, what in each:
            groups = self._alike(entries)
            widest, work = groups[-1]
            if not any(group in self._taken for group, _ in groups) and work < least.get(widest, float("inf")):
                least[widest], found[widest] = work, (entries, what)
        return list(found.values())
