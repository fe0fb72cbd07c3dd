"""95 % intervals for shares of faces, which come in clusters: the faces of one image succeed or fail together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

#: From so many images on, shares get a bootstrap interval; below, Wilson's.
ENOUGH_IMAGES = 20
DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: the estimate; NaN where there is nothing to estimate from.
        low, high: the bounds of its 95 % interval.
        n: images it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def columns(self) -> dict[str, float]:
        """As a results file has it."""
        return {"value": self.value, "ci_low": self.low, "ci_high": self.high, "n": self.n}


def share(hits: Sequence[int], totals: Sequence[int], *, seed: int = 0, level: float = 0.95) -> Estimate:
    """A share pooled over images, sum(hits) / sum(totals).

    From 20 images on a bootstrap over images; below, and where the bootstrap has no width, Wilson's interval with n
    divided by the design effect. Never of zero width.

    Args:
        hits: for each image, faces counted; images without faces are left out.
        totals: for each image, faces.
        seed: of the bootstrap.
        level: of confidence, in (0, 1).

    Raises:
        ValueError: different lengths, or hits outside 0..totals.
    """
    k, m = np.asarray(hits, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    if k.shape != m.shape or (k < 0).any() or (k > m).any():
        raise ValueError("hits and totals must have one length, and 0 <= hits <= totals in every image")
    k, m = k[m > 0], m[m > 0]
    if len(m) == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    value = float(k.sum() / m.sum())
    if len(m) >= ENOUGH_IMAGES:
        draws = _ratios(k, m, _resamples(len(m), seed))
        low, high = _quantiles(draws, level)
        if high > low:
            return Estimate(value, low, high, len(m))
    low, high = wilson(value, float(m.sum()) / design_effect(k, m), level)
    return Estimate(value, low, high, len(m))


def difference(
    a: tuple[Sequence[int], Sequence[int]],
    b: tuple[Sequence[int], Sequence[int]],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The difference of two shares on the same images, a - b, each given as (hits, totals) by image, in one order.

    From 20 images on a bootstrap over images, the same draws for both; below, and where that has no width, Newcombe's
    hybrid of the two Wilson intervals, which does not use the pairing and is wider.

    Raises:
        ValueError: different numbers of images, or bad counts.
    """
    ka, ma, kb, mb = (np.asarray(x, dtype=np.float64) for x in (*a, *b))
    if len(ma) != len(mb):
        raise ValueError(f"paired images, but {len(ma)} and {len(mb)} of them")
    pa, pb = share(a[0], a[1], seed=seed, level=level), share(b[0], b[1], seed=seed, level=level)
    value, n = pa.value - pb.value, min(pa.n, pb.n)
    if n >= ENOUGH_IMAGES:
        draws = _resamples(len(ma), seed)
        low, high = _quantiles(_ratios(ka, ma, draws) - _ratios(kb, mb, draws), level)
        if high > low:
            return Estimate(value, low, high, n)
    if n == 0:
        return Estimate(float("nan"), -1.0, 1.0, 0)
    low_a, high_a = wilson(pa.value, float(ma.sum()) / design_effect(ka, ma), level)
    low_b, high_b = wilson(pb.value, float(mb.sum()) / design_effect(kb, mb), level)
    down = float(np.hypot(pa.value - low_a, high_b - pb.value))
    up = float(np.hypot(high_a - pa.value, pb.value - low_b))
    return Estimate(value, value - down, value + up, n)


def ratio_of_means(
    top: Sequence[Sequence[float]], bottom: Sequence[Sequence[float]], *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """sum(top) / sum(bottom) over all images, each a list of values, with a bootstrap over images.

    One image gives no interval: its bounds are NaN.
    """
    a, b = np.array([sum(x) for x in top], dtype=np.float64), np.array([sum(x) for x in bottom], dtype=np.float64)
    if len(a) == 0 or b.sum() == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    value = float(a.sum() / b.sum())
    if len(a) < 2:
        return Estimate(value, float("nan"), float("nan"), len(a))
    low, high = _quantiles(_ratios(a, b, _resamples(len(a), seed)), level)
    return Estimate(value, low, high, len(a))


def wilson(p: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share ``p`` of ``n`` (which need not be whole), within 0..1."""
    z = float(norm.ppf(0.5 + level / 2))
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def design_effect(hits: NDArray[np.float64], totals: NDArray[np.float64]) -> float:
    """By how much clustering in images inflates the variance of a pooled share (Kish 1965), at least 1.

    1 + (m - 1) rho with m the mean faces an image and rho their intraclass correlation by analysis of variance. Where
    the data hold no estimate of rho (one image, or all faces alike), rho is taken as 1: an image counts once.
    """
    k, m = hits[totals > 0], totals[totals > 0]
    clusters, total = len(m), float(m.sum())
    p = float(k.sum() / total)
    within = float((k * (1 - k / m)).sum())
    mean = total / clusters
    if mean <= 1:
        return 1.0
    if clusters < 2 or p in (0.0, 1.0):
        return mean
    between = float((m * (k / m - p) ** 2).sum()) / (clusters - 1)
    inside = within / (total - clusters)
    size = (total - float((m**2).sum()) / total) / (clusters - 1)
    spread = between + (size - 1) * inside
    rho = (between - inside) / spread if spread > 0 else 1.0
    return 1 + (mean - 1) * min(1.0, max(0.0, rho))


def bootstrap_weights(n: int, *, draws: int = DRAWS, seed: int | np.random.Generator = 0) -> NDArray[np.int64]:
    """How often each of ``n`` images is drawn, (draws, n): every draw takes n of them with replacement."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)


def _resamples(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, n, (DRAWS, n))


def _ratios(top: NDArray[np.float64], bottom: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    below = bottom[draws].sum(1)
    ratios: NDArray[np.float64] = top[draws].sum(1) / np.where(below > 0, below, np.nan)
    return ratios


def _quantiles(draws: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


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
