"""95 % intervals for shares of faces, which come in clusters: the faces of one image succeed or fail together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
