"""How a verdict on a claim is made, by rules that were dated and committed before the runs they judge.

The book's page *How verdicts are made* (``book/verdict_rules.md``) has them in words. In short: a contrast is a
statistic of conditions that were measured on the same images (:func:`lipcore.metrics.paired.paired`), at a strength
matched for each detector (:func:`matched`). It is judged against the smallest effect of interest, half the poster's
effect, or 5 points where it prints none:

* supported: lower bound above 0, and the estimate at least the smallest effect of interest;
* weaker than claimed: lower bound above 0, the estimate below it;
* contradicted: upper bound below it, and the lower one not above 0;
* inconclusive: otherwise.

Each claim has one primary contrast for each reading of A1 and each arm. All others are secondary: they get a
Holm-adjusted p-value and no word. Three reasons leave a primary contrast without one of the four words: *not
measured*, *not testable* (no room to differ), *exploratory* (fewer than 30 images).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import chi2

from lipcore.errors import DataError
from lipcore.metrics.intervals import Estimate
from lipcore.metrics.paired import Paired

RULES_DATE = "2026-11-30"
#: A primary contrast needs so many images; below, its estimate is exploratory.
LEAST_IMAGES = 30
#: Of the range that a rate has: both under the first, or both over the second, and there is no room to differ.
FLOOR, CEILING = 0.10, 0.90
#: Where the poster prints no effect.
SMALLEST = 0.05
#: A share of faces found on the clean images below this is flagged; it gates nothing.
LEAST_CLEAN = 0.8
#: Success of IMP at which methods are compared, the primary strength first.
TARGETS = (0.50, 0.25, 0.75)
#: Success further than this from its target is flagged: no epsilon that was measured matches it.
FAR = 0.25
#: C8: "often by a factor of 2 to 10"; the lower end is the poster's effect.
FACTOR = 2.0
#: Detectors in which faces cannot meet: they show what the mechanism predicts, and count for or against no claim.
CONTROLS = ("pnet",)

Reading = Literal["whole map", "instance", "both"]
Word = Literal[
    "supported",
    "weaker than claimed",
    "contradicted",
    "inconclusive",
    "not testable",
    "exploratory",
    "not measured",
    "as predicted",
    "not as predicted",
]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One comparison that bears on a claim.

    Attributes:
        claim: "C1" ... "C8".
        step: what is compared, as readers name it: "LIP-A - IMP-I, equal faces".
        reading: of A1.
        detector: under attack.
        outcome: "asr", "ap", "ar100", "logit drop", ...
        dataset: what the images are.
        measured: the statistic, positive where the claim says so.
        epsilon: in grey levels.
        target: the success of IMP that ``epsilon`` is matched to; None where it is matched otherwise.
        reached: IMP's success at ``epsilon``, where it is matched to that.
        poster: the poster's effect in the same unit; None where it prints none.
        primary: the one of its claim, reading and arm.
        scale: the largest that the rates can be: 1 for a success, the clean value for AP and AR, None where there is no
            such thing, as of logits.
        null: the statistic where nothing differs: 0, or 1 of a ratio.
        room: False where something else than floor and ceiling left no room; see :func:`has_room`.
        clean_rate: the lowest share of faces found on the clean images.
        note: what a reader must know of this row.
    """

    claim: str
    step: str
    reading: Reading
    detector: str
    outcome: str
    dataset: str
    measured: Paired
    epsilon: float
    target: float | None = TARGETS[0]
    reached: float | None = None
    poster: float | None = None
    primary: bool = False
    scale: float | None = 1.0
    null: float = 0.0
    room: bool = True
    clean_rate: float = 1.0
    note: str = ""

    @property
    def control(self) -> bool:
        """Whether its detector stands apart."""
        return self.detector in CONTROLS

    @property
    def smallest(self) -> float:
        """The smallest effect of interest, as a value of the statistic."""
        return smallest_effect(self.poster, self.null)


@dataclass(frozen=True)
class Verdict:
    """What a contrast says.

    Attributes:
        contrast: it.
        word: one of the four words or the reason that there is none; None for a secondary contrast.
        p: two-sided p-value of "no difference"; of a secondary contrast Holm-adjusted. NaN where there is none.
        flags: what a reader must know besides.
    """

    contrast: Contrast
    word: Word | None
    p: float
    flags: tuple[str, ...]


def smallest_effect(poster: float | None, null: float = 0.0) -> float:
    """Half the poster's effect (of a ratio: half its excess over 1), or 5 points where it prints none."""
    return null + SMALLEST if poster is None else null + (poster - null) / 2


def has_room(contrast: Contrast) -> bool:
    """Whether the conditions could differ: not both under 10 % of their range, nor both over 90 %.

    Of four conditions both pairs need room: a ceiling hides interference. A ratio also needs a second rate that leaves
    room for the factor claimed.
    """
    if not contrast.room or contrast.scale is None:
        return contrast.room
    rates = [r / contrast.scale for r in contrast.measured.rates]
    pairs = [rates[i : i + 2] for i in range(0, len(rates), 2)]
    free = all(not (max(p) < FLOOR or min(p) > CEILING) for p in pairs)
    return free and (contrast.null == 0 or rates[1] * FACTOR <= 1)


def word_of(contrast: Contrast) -> Word:
    """The word for a primary contrast."""
    e, smallest = contrast.measured.estimate, contrast.smallest
    if not has_room(contrast):
        return "not testable"
    if e.n < LEAST_IMAGES or np.isnan(e.low):
        return "exploratory"
    if contrast.control:  # that faces cannot meet predicts no difference
        if -(smallest - contrast.null) < e.low - contrast.null and e.high < smallest:
            return "as predicted"
        return "not as predicted" if not e.low <= contrast.null <= e.high else "inconclusive"
    if e.low > contrast.null:
        return "supported" if e.value >= smallest else "weaker than claimed"
    return "contradicted" if e.high < smallest else "inconclusive"


def judge(contrasts: Sequence[Contrast]) -> list[Verdict]:
    """The verdict of each contrast, in their order.

    The secondary contrasts of one claim and one detector are one family of Holm's. A p-value is missing where a
    contrast has no interval; such a one does not widen its family.
    """
    p = [c.measured.p_value(c.null) for c in contrasts]
    families: dict[tuple[str, str], list[int]] = {}
    for i, c in enumerate(contrasts):
        if not c.primary and not np.isnan(p[i]):
            families.setdefault((c.claim, c.detector), []).append(i)
    for members in families.values():
        for i, adjusted in zip(members, holm([p[i] for i in members]), strict=True):
            p[i] = adjusted
    return [
        Verdict(c, word_of(c) if c.primary else None, p_value, flags_of(c))
        for c, p_value in zip(contrasts, p, strict=True)
    ]


def flags_of(contrast: Contrast) -> tuple[str, ...]:
    """What is to be said beside the numbers."""
    found = []
    if contrast.measured.identical:
        found.append("identical outcomes: " + " and ".join(f"{t:g} of {b:g}" for t, b in contrast.measured.counts))
    if not has_room(contrast):
        found.append("no room to differ")
    if contrast.measured.estimate.n < LEAST_IMAGES:
        found.append(f"{contrast.measured.estimate.n} images: exploratory")
    target, reached = contrast.target, contrast.reached
    if target is not None and reached is not None and abs(reached - target) > FAR:
        found.append(f"IMP hides {100 * reached:.0f} %, far from {100 * target:.0f} %")
    if contrast.clean_rate < LEAST_CLEAN:
        found.append(f"{100 * contrast.clean_rate:.0f} % of the faces found on the clean images")
    return (*found, *([contrast.note] if contrast.note else []))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given.

    Raises:
        ValueError: a p-value outside 0..1.
    """
    if any(not 0 <= x <= 1 for x in p):
        raise ValueError(f"p-values {list(p)}; valid are numbers in 0..1")
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def matched(success: Mapping[float, float], target: float = TARGETS[0]) -> float:
    """The epsilon at which IMP's success is nearest ``target``; of two equally near the smaller.

    Args:
        success: epsilon -> IMP's success in [0, 1], for every epsilon measured.
        target: in [0, 1].

    Raises:
        DataError: nothing was measured.
    """
    known = {e: s for e, s in success.items() if not np.isnan(s)}
    if not known:
        raise DataError("no epsilon was measured, so none can be matched")
    return min(known, key=lambda e: (round(abs(known[e] - target), 9), e))


@dataclass(frozen=True)
class Mean:
    """A random-effects mean over detectors.

    Attributes:
        estimate: with its 95 % interval; n is the fewest images of a detector.
        tau: the standard deviation between detectors.
        p_same: of "all detectors have one effect" (Cochran's Q).
        detectors: that went in.
    """

    estimate: Estimate
    tau: float
    p_same: float
    detectors: tuple[str, ...]


def random_effects(contrasts: Sequence[Contrast]) -> Mean | None:
    """The mean effect over detectors (DerSimonian and Laird 1986), each weighted by 1 / (its variance + tau^2).

    A detector's variance is that of its bootstrap; of identical outcomes that of their exact interval. Controls, rows
    without room or interval, and a second row of a detector are not taken in. A ratio is averaged as its logarithm.

    Returns:
        None from fewer than two detectors.
    """
    usable: dict[str, Contrast] = {}
    for c in contrasts:
        if not c.control and has_room(c) and np.isfinite([c.measured.estimate.low, c.measured.estimate.high]).all():
            usable.setdefault(c.detector, c)
    if len(usable) < 2:
        return None
    logs = any(c.null == 1 for c in usable.values())
    value, variance = (np.array(x) for x in zip(*(_moments(c, logs) for c in usable.values()), strict=True))
    w = 1 / variance
    fixed = (w * value).sum() / w.sum()
    q, freedom = float((w * (value - fixed) ** 2).sum()), len(value) - 1
    tau2 = max(0.0, (q - freedom) / (w.sum() - (w**2).sum() / w.sum()))
    w = 1 / (variance + tau2)
    mean, half = float((w * value).sum() / w.sum()), 1.959964 / float(np.sqrt(w.sum()))
    n = min(c.measured.estimate.n for c in usable.values())
    bounds = (mean, mean - half, mean + half)
    mean, low, high = (float(np.exp(x)) for x in bounds) if logs else bounds
    return Mean(Estimate(mean, low, high, n), float(np.sqrt(tau2)), float(chi2.sf(q, freedom)), tuple(usable))


def _moments(contrast: Contrast, logs: bool) -> tuple[float, float]:
    """A detector's effect and its variance, of the logarithm if asked for."""
    e, draws = contrast.measured.estimate, contrast.measured.draws
    if contrast.measured.identical:
        spread = (np.log(e.high) - np.log(max(e.low, 1e-9)) if logs else e.high - e.low) / (2 * 1.959964)
        return (float(np.log(e.value)) if logs else e.value), float(spread**2)
    draws = draws[np.isfinite(draws)]
    if logs:
        return float(np.log(e.value)), float(np.log(draws[draws > 0]).var(ddof=1))
    return e.value, float(draws.var(ddof=1))


def judge_mean(contrasts: Sequence[Contrast]) -> tuple[Mean, Word] | None:
    """The mean over detectors and its word, by the same rule; exploratory where one of the detectors is."""
    mean = random_effects(contrasts)
    if mean is None:
        return None
    first = next(c for c in contrasts if c.detector == mean.detectors[0])
    pooled = replace(first.measured, estimate=mean.estimate, identical=False)
    return mean, word_of(replace(first, measured=pooled))
