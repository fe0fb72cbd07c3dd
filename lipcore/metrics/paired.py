"""Statistics of several conditions on the same images, with a bootstrap that keeps the pairs: what verdicts rest on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from lipcore.metrics.intervals import Estimate, bootstrap_weights

#: Of the paired bootstraps that verdicts rest on: enough for p-values of a few thousandths.
PAIRED_DRAWS = 4000
#: Of a statistic without any difference between images, the level of the exact bound.
LEVEL = 0.95


@dataclass(frozen=True)
class Outcomes:
    """What one condition did, face by face: ``top / bottom`` pooled over faces is its rate or its mean.

    Attributes:
        images: (I,) the images' names, the same face set and the same seed wherever the name is the same.
        top: (I, F) summed outcomes by image and identity: faces lost, or logits dropped.
        bottom: (I, F) faces that count, >= 0.

    F is the number of identities; 1 where every image shows people of its own, as photographs do.
    """

    images: tuple[Any, ...]
    top: NDArray[np.float64]
    bottom: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        images: Sequence[Any],
        top: Sequence[float],
        bottom: Sequence[float],
        identities: Sequence[int] | None = None,
        *,
        n_identities: int = 1,
    ) -> Outcomes:
        """From one entry a face (or one an image, with counts).

        Args:
            images: of each entry, the image's name.
            top, bottom: of each entry.
            identities: of each entry, in 0..n_identities-1; None where images share nobody.
            n_identities: F.

        Raises:
            ValueError: entries of different length, a negative ``bottom``, or an identity out of range.
        """
        people = [0] * len(images) if identities is None else list(identities)
        if not len(images) == len(top) == len(bottom) == len(people):
            raise ValueError(f"{len(images)} images, {len(top)} tops, {len(bottom)} bottoms, {len(people)} identities")
        if people and not 0 <= min(people) <= max(people) < n_identities:
            raise ValueError(f"identities reach from {min(people)} to {max(people)}; valid is 0..{n_identities - 1}")
        if any(b < 0 for b in bottom):
            raise ValueError("a negative count of faces")
        names = list(dict.fromkeys(images))
        rows = {name: i for i, name in enumerate(names)}
        made = np.zeros((2, len(names), n_identities))
        for name, person, t, b in zip(images, people, top, bottom, strict=True):
            made[:, rows[name], person] += t, b
        return cls(tuple(names), made[0], made[1])

    def only(self, images: Sequence[Any]) -> Outcomes:
        """Those of ``images``, in that order."""
        rows = [self.images.index(name) for name in images]
        return Outcomes(tuple(images), self.top[rows], self.bottom[rows])

    @property
    def rate(self) -> float:
        """Pooled over all faces; NaN without any."""
        return float(self.top.sum() / self.bottom.sum()) if self.bottom.sum() > 0 else float("nan")


@dataclass(frozen=True)
class Paired:
    """A statistic of several conditions on the same images, with its bootstrap.

    Attributes:
        estimate: with the 95 % percentile interval; NaN bounds from one image.
        rates: of each condition on the images they share.
        draws: (PAIRED_DRAWS,) the statistic in each resampling; empty from fewer than two images.
        identical: whether the conditions agree on every image and face.
        counts: of each condition, summed top and bottom.
    """

    estimate: Estimate
    rates: tuple[float, ...]
    draws: NDArray[np.float64]
    identical: bool
    counts: tuple[tuple[float, float], ...]

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided, of "the statistic is ``null``": twice the smaller share of draws on either side of it, ties on
        both, never 0. 1 where all conditions agree; NaN without draws.
        """
        if self.identical:
            return 1.0
        draws = self.draws[~np.isnan(self.draws)]
        if not len(draws):
            return float("nan")
        tail = min(int((draws <= null).sum()), int((draws >= null).sum()))
        return min(1.0, 2 * (1 + tail) / (1 + len(draws)))


#: From the rates of each condition, (..., K) -> (...): what is estimated.
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def gain(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the first of two conditions is above the second."""
    difference: NDArray[np.float64] = rates[..., 0] - rates[..., 1]
    return difference


def ratio(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first of two conditions over the second; infinite over 0, NaN for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: NDArray[np.float64] = rates[..., 0] / rates[..., 1]
    return quotient


def coefficient(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much the first of two conditions falls short of the second: 1 - first / second; of drops, interference."""
    short: NDArray[np.float64] = 1 - ratio(rates)
    return short


def gain_of_gains(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of four conditions, how far the first gain (0 over 1) is above the second (2 over 3)."""
    return gain(rates[..., :2]) - gain(rates[..., 2:])


def gain_of_coefficients(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of four conditions, how far the coefficient of the first two is above that of the last two."""
    more: NDArray[np.float64] = coefficient(rates[..., :2]) - coefficient(rates[..., 2:])
    return more


def paired(conditions: Sequence[Outcomes], statistic: Statistic = gain, *, seed: int = 0) -> Paired:
    """A statistic of conditions that were measured on the same images, with a bootstrap that keeps the pairs.

    Images are resampled and, where they share people, the people as well, each with replacement and independently; a
    face weighs the product of its image's and its person's counts (the pigeonhole bootstrap, Owen 2007). That counts
    the chance of each face three times, so its draws are drawn in to the variance of two-way clustering, V_image +
    V_person - V_face, but to no less than V_image or V_person (Cameron, Gelbach and Miller 2011; each V from a
    bootstrap of its own); draws in which the conditions tie stay where they are. All conditions get the same weights.
    Images that not all conditions have are left out, and so are those of which no face counts in some condition.

    Where all conditions agree on every face a bootstrap has no width; the bounds are then exact ones: with no
    difference in n images, at most 1 - .025^(1/n) of all images differ (Clopper and Pearson 1934).

    Args:
        conditions: at least two, with the same F.
        statistic: of their rates.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two conditions, different F, or no image in common: what is not paired is not compared.
    """
    if len(conditions) < 2 or len({c.top.shape[1] for c in conditions}) > 1:
        raise ValueError("a paired statistic needs two or more conditions with the same identities")
    shared = [name for name in conditions[0].images if all(name in c.images for c in conditions)]
    kept = [c.only(shared) for c in conditions]
    counted = np.all([c.bottom.sum(1) > 0 for c in kept], axis=0) if shared else np.zeros(0, dtype=np.bool_)
    if not counted.any():
        raise ValueError("the conditions have no image in common on which a face counts, so nothing is paired")
    top = np.stack([c.top[counted] for c in kept])
    bottom = np.stack([c.bottom[counted] for c in kept])
    n = top.shape[1]
    rates = top.sum((1, 2)) / bottom.sum((1, 2))
    counts = tuple((float(t), float(b)) for t, b in zip(top.sum((1, 2)), bottom.sum((1, 2)), strict=True))
    if (top == top[0]).all() and (bottom == bottom[0]).all():
        width = 1 - ((1 - LEVEL) / 2) ** (1 / n)
        away = width * np.resize([-1.0, 0.0, 1.0, 0.0], len(rates))
        value, low, high = (float(statistic((rates + shift).clip(0))) for shift in (0 * away, away, -away))
        return Paired(Estimate(value, low, high, n), tuple(rates.tolist()), np.empty(0), True, counts)
    if n < 2:
        alone = Estimate(float(statistic(rates)), float("nan"), float("nan"), n)
        return Paired(alone, tuple(rates.tolist()), np.empty(0), False, counts)
    draws = _crossed(top, bottom, statistic, np.random.default_rng(seed))
    return from_draws(draws, float(statistic(rates)), tuple(rates.tolist()), n, counts)


def gain_over_gain(first: tuple[Outcomes, Outcomes], second: tuple[Outcomes, Outcomes], *, seed: int = 0) -> Paired:
    """How far one gain is above another, all four conditions on the same images; see :func:`paired`.

    Where the two conditions of a gain agree on every face the bootstrap gives that gain no width. Its exact bounds
    count all the same: the draws are spread by a normal that has them as its 95 % interval.
    """
    together = paired([*first, *second], gain_of_gains, seed=seed)
    if together.identical or not len(together.draws):
        return together
    random = np.random.default_rng([seed, 1])
    draws = together.draws
    for one in (paired(pair, gain, seed=seed) for pair in (first, second)):
        if one.identical:
            draws = draws + random.normal(0, one.estimate.high / norm.ppf((1 + LEVEL) / 2), len(draws))
    return from_draws(draws, together.estimate.value, together.rates, together.estimate.n, together.counts)


def _crossed(
    top: NDArray[np.float64], bottom: NDArray[np.float64], statistic: Statistic, random: np.random.Generator
) -> NDArray[np.float64]:
    """The statistic in each resampling of images and people, both (K, I, F)."""
    _, n, people = top.shape

    def of(w: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = [((w @ t) * v).sum(1) / ((w @ b) * v).sum(1) for t, b in zip(top, bottom, strict=True)]
        return np.stack(rates, 1)

    w = bootstrap_weights(n, draws=PAIRED_DRAWS, seed=random).astype(np.float64)
    v = bootstrap_weights(people, draws=PAIRED_DRAWS, seed=random).astype(np.float64) if people > 1 else np.ones((1, 1))
    rates = of(w, v)
    draws = statistic(rates)
    if people == 1:
        return draws
    seen = bottom.sum(0) > 0  # the faces there are, each to be resampled by itself
    by_face = random.poisson(1.0, (PAIRED_DRAWS // 4, int(seen.sum()))).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        single = (by_face @ top[:, seen].T) / (by_face @ bottom[:, seen].T)
    by_image, by_person = of(w, np.ones((1, people))), of(np.ones((1, n)), v)
    used = [x[~np.isnan(x)] for x in (draws, *(statistic(r) for r in (by_image, by_person, single)))]
    if not all(np.isfinite(x).all() for x in used):
        return draws
    both, image, person, face = (float(x.var()) for x in used)
    narrower = min(1.0, (max(image + person - face, image, person) / both) ** 0.5) if both > 0 else 1.0
    middle = used[0].mean()
    tied = (rates == rates[:, :1]).all(1)  # a tie stays a tie
    return np.where(tied, draws, middle + (draws - middle) * narrower)


def from_draws(
    draws: NDArray[np.float64],
    value: float,
    rates: tuple[float, ...],
    n: int,
    counts: tuple[tuple[float, float], ...] = (),
) -> Paired:
    """:class:`Paired` of a statistic that is no ratio of sums, such as average precision, from its own resampling.

    Args:
        draws: the statistic in each resampling of the images; NaN where there was nothing to compute it from.
        value: on the images as they are.
        rates: of each condition.
        n: images.
        counts: of each condition, where there are any.
    """
    usable = draws[~np.isnan(draws)]
    if not len(usable):
        return Paired(Estimate(value, float("nan"), float("nan"), n), rates, usable, False, counts)
    # "lower" and "higher", so that an infinite ratio is a bound and not NaN between two draws.
    low = float(np.quantile(usable, (1 - LEVEL) / 2, method="lower"))
    high = float(np.quantile(usable, (1 + LEVEL) / 2, method="higher"))
    return Paired(Estimate(value, low, high, n), rates, usable, False, counts)
