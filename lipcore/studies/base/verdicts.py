"""Verdicts on the paper's claims, by rules written before the studies were run (C3 has its own, see there).

A verdict rests on comparisons: differences that the claim says are positive. A comparison counts when it rests on at
least 6 images, the detector finds at least 80 % of the faces on the clean images, and the two had room to differ: where
both leave hardly a face, each study's own rule says that they had none (of success: both above 95 %).

* reproduced: every comparison is positive and its interval excludes 0;
* partly: some are, and none is negative with an interval that excludes 0;
* not: otherwise;
* undecided: no comparison counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipcore.metrics.intervals import Estimate

LEAST_IMAGES = 6
LEAST_CLEAN = 0.8
#: Two attacks that both succeed on more than this share of the faces have no room to differ.
MOST_ASR = 0.95


@dataclass(frozen=True)
class Comparison:
    """One difference that a claim says is positive.

    Attributes:
        label: what is compared with what.
        estimate: the difference.
        clean_rate: the lowest share of faces found on the clean images, in [0, 1].
        room: False where both are at the same end of what can be measured, such as two attacks that leave no face.
    """

    label: str
    estimate: Estimate
    clean_rate: float = 1.0
    room: bool = True

    @property
    def counts(self) -> bool:
        """Whether it rests on enough images and enough faces found, and the two could differ."""
        return self.room and self.estimate.n >= LEAST_IMAGES and self.clean_rate >= LEAST_CLEAN


@dataclass(frozen=True)
class Verdict:
    """A verdict and its reason.

    Attributes:
        verdict: "reproduced", "partly", "not" or "undecided".
        reason: how many comparisons went which way, and how many do not count.
    """

    verdict: str
    reason: str


def judge(comparisons: Sequence[Comparison]) -> Verdict:
    """The verdict on a claim from its comparisons, by the rules above."""
    counted = [c for c in comparisons if c.counts]
    if not counted:
        return Verdict(
            "undecided",
            f"none of {len(comparisons)} comparisons rests on enough images and faces found, with room to differ",
        )
    signs = [c.estimate.excludes_zero() for c in counted]
    up, down = signs.count(1), signs.count(-1)
    reason = f"{up} of {len(counted)} comparisons as claimed, {signs.count(0)} open, {down} reversed"
    if crowded := sum(not c.room for c in comparisons):
        reason += f"; {crowded} without room to differ"
    if few := len(comparisons) - len(counted) - crowded:
        reason += f"; {few} on too few images or faces found"
    if up == len(counted):
        return Verdict("reproduced", reason)
    return Verdict("partly" if up and not down else "not", reason)
