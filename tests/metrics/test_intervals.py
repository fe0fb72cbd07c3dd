"""Intervals of shares that come in clusters: by hand, their coverage, and that they always have a width."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcore.metrics.intervals import ENOUGH_IMAGES, Estimate, design_effect, difference, ratio_of_means, share, wilson

Counts = tuple[list[int], list[int]]


@st.composite
def counts(draw: st.DrawFn, least: int = 1, most: int = 40) -> Counts:
    """(hits, totals) by image; at least one image has a face."""
    totals = draw(st.lists(st.integers(0, 30), min_size=least, max_size=most).filter(any))
    return [draw(st.integers(0, total)) for total in totals], totals


class TestWilson:
    @pytest.mark.parametrize(
        ("p", "n", "low", "high"),
        [
            # z = 1.959964; worked from (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
            (0.5, 10, 0.236593, 0.763407),
            (0.0, 10, 0.0, 0.277533),
            (1.0, 10, 0.722467, 1.0),
            (0.9, 100, 0.825634, 0.944771),
        ],
    )
    def test_by_hand(self, p: float, n: float, low: float, high: float) -> None:
        assert wilson(p, n) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))

    def test_level(self) -> None:
        narrow, wide = wilson(0.3, 20, 0.5), wilson(0.3, 20, 0.99)
        assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]

    @given(st.floats(0, 1), st.floats(0.5, 1e5))
    def test_holds_the_share_and_has_a_width(self, p: float, n: float) -> None:
        low, high = wilson(p, n)
        assert 0 <= low <= p + 1e-12
        assert p - 1e-12 <= high <= 1
        assert high > low


class TestDesignEffect:
    @pytest.mark.parametrize(
        ("hits", "totals", "expected"),
        [
            ([1, 0, 1], [1, 1, 1], 1.0),  # one face an image: nothing to cluster
            ([4, 0, 4, 0], [4, 4, 4, 4], 4.0),  # all or none: an image counts once
            ([2, 2, 2, 2], [4, 4, 4, 4], 1.0),  # alike in every image: no clustering
            ([3], [9], 9.0),  # one image
            ([5, 5], [5, 5], 5.0),  # every face: no estimate
            ([0, 0, 0], [2, 4, 6], 4.0),
        ],
    )
    def test_by_hand(self, hits: list[int], totals: list[int], expected: float) -> None:
        assert design_effect(np.array(hits, float), np.array(totals, float)) == pytest.approx(expected)

    def test_of_an_analysis_of_variance(self) -> None:
        """4 images of 5 faces, 5, 4, 1, 0 hits: p = 0.5, between mean square 1.4, within 0.1, rho = 1.3 / 1.8."""
        effect = design_effect(np.array([5.0, 4, 1, 0]), np.array([5.0] * 4))
        between = 5 * (0.5**2 + 0.3**2 + 0.3**2 + 0.5**2) / 3
        within = (4 * 0.2 + 1 * 0.8) / 16
        assert effect == pytest.approx(1 + 4 * (between - within) / (between + 4 * within))

    @given(counts())
    def test_is_between_one_and_the_faces_an_image(self, pair: Counts) -> None:
        hits, totals = (np.array(x, float) for x in pair)
        mean = totals.sum() / (totals > 0).sum()
        assert 1 <= design_effect(hits, totals) <= max(1, mean) + 1e-12


class TestShare:
    def test_few_images_take_wilson_with_the_design_effect(self) -> None:
        hits, totals = [5, 4, 1, 0], [5, 5, 5, 5]
        effect = design_effect(np.array(hits, float), np.array(totals, float))
        assert share(hits, totals) == Estimate(0.5, *wilson(0.5, 20 / effect), 4)

    def test_one_image_counts_once(self) -> None:
        found = share([9], [9])
        assert found == Estimate(1.0, *wilson(1.0, 1.0), 1)
        assert found.low < 0.25

    def test_many_images_take_a_bootstrap(self) -> None:
        hits, totals = [1, 0] * 15, [1] * 30
        found = share(hits, totals, seed=3)
        draws = np.random.default_rng(3).integers(0, 30, (1000, 30))
        expected = np.quantile(np.array(hits)[draws].mean(1), [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx(tuple(expected))
        assert found.n == 30

    def test_a_bootstrap_without_width_falls_back(self) -> None:
        found = share([2] * 40, [2] * 40)
        assert found.value == 1
        assert found.high == 1
        assert 0.85 < found.low < 0.95  # Wilson of 40 images, not of 80 faces
        assert found.low == pytest.approx(wilson(1.0, 40)[0])

    def test_images_without_faces_are_left_out(self) -> None:
        assert share([1, 0, 2], [2, 0, 3]) == share([1, 2], [2, 3])

    def test_nothing_to_estimate(self) -> None:
        found = share([], [])
        assert math.isnan(found.value)
        assert (found.low, found.high, found.n) == (0.0, 1.0, 0)
        assert share([0], [0]).n == 0

    def test_a_seed_is_a_result(self) -> None:
        pair = [1, 0, 1, 1] * 10, [2] * 40
        assert share(*pair, seed=1) == share(*pair, seed=1)
        assert share(*pair, seed=1) != share(*pair, seed=2)

    @given(counts())
    def test_always_has_a_width_and_holds_the_value(self, pair: Counts) -> None:
        found = share(*pair)
        assert found.high > found.low
        assert 0 <= found.low <= found.value + 1e-12
        assert found.value - 1e-12 <= found.high <= 1
        assert found.n == sum(total > 0 for total in pair[1])

    @pytest.mark.parametrize(("hits", "totals"), [([1], [1, 2]), ([3], [2]), ([-1], [2])])
    def test_refuses_bad_counts(self, hits: list[int], totals: list[int]) -> None:
        with pytest.raises(ValueError, match="0 <= hits <= totals"):
            share(hits, totals)

    @pytest.mark.parametrize(
        ("images", "faces", "rho"), [(6, 9, 0.0), (6, 9, 0.3), (12, 4, 0.5), (30, 9, 0.3), (30, 1, 0.0), (10, 64, 0.1)]
    )
    @pytest.mark.parametrize("p", [0.2, 0.5])
    def test_covers_the_truth(self, images: int, faces: int, rho: float, p: float) -> None:
        """Of 400 experiments with clustered faces, about 95 % of the intervals hold the true share.

        Beta-binomial images: each has its own share, with intraclass correlation rho. Six images are too
        few to estimate rho well, and cover a little less; without the design effect 9 faces at rho 0.3 cover 72 %.
        """
        rng = np.random.default_rng(images * 1000 + faces)
        covered = 0
        for _ in range(400):
            own = rng.beta(p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho, images) if rho else np.full(images, p)
            found = share(rng.binomial(faces, own).tolist(), [faces] * images)
            covered += found.low <= p <= found.high
        assert covered / 400 >= (0.9 if images >= 10 else 0.86)


class TestDifference:
    def test_newcombe_by_hand(self) -> None:
        """Newcombe (1998), method 10: 56 of 70 against 48 of 80, one face an image in 15 images each."""
        a, b = ([1] * 12 + [0] * 3, [1] * 15), ([1] * 9 + [0] * 6, [1] * 15)
        found = difference(a, b)
        (la, ua), (lb, ub) = wilson(0.8, 15), wilson(0.6, 15)
        assert found.value == pytest.approx(0.2)
        assert found.low == pytest.approx(0.2 - math.hypot(0.8 - la, ub - 0.6))
        assert found.high == pytest.approx(0.2 + math.hypot(ua - 0.8, 0.6 - lb))
        assert found.n == 15

    def test_pairing_narrows(self) -> None:
        """Images that are easy or hard for both differ by little; that is seen only when they are paired."""
        rng = np.random.default_rng(0)
        easy = rng.random(40)
        a = [round(10 * x) for x in easy]
        b = [max(0, k - 1) for k in a]
        totals = [10] * 40
        found = difference((a, totals), (b, totals))
        more, less = share(a, totals), share(b, totals)
        assert found.low > 0
        assert less.high > more.low, "each by itself is too uncertain to tell them apart"
        assert found.high - found.low < math.hypot(more.high - more.low, less.high - less.low) / 3

    @given(st.data())
    def test_is_antisymmetric_and_has_a_width(self, data: st.DataObject) -> None:
        a = data.draw(counts(most=25))
        b = [data.draw(st.integers(0, total)) for total in a[1]], a[1]
        one, other = difference(a, b), difference(b, a)
        assert one.value == pytest.approx(-other.value)
        assert one.high > one.low
        assert one.low - 1e-12 <= one.value <= one.high + 1e-12
        assert one.n == other.n == min(sum(t > 0 for t in x[1]) for x in (a, b))
        if one.n < ENOUGH_IMAGES:
            assert one.low == pytest.approx(-other.high)
        assert one.low >= -2
        assert one.high <= 2

    @given(counts())
    def test_of_equal_shares_holds_zero(self, pair: Counts) -> None:
        found = difference(pair, pair)
        assert found.value == 0
        assert found.low < 0 < found.high
        assert found.high > found.low

    def test_nothing_to_estimate(self) -> None:
        found = difference(([0], [0]), ([1], [2]))
        assert math.isnan(found.value)
        assert (found.low, found.high, found.n) == (-1, 1, 0)

    def test_refuses_pairs_that_are_none(self) -> None:
        with pytest.raises(ValueError, match="paired images, but 2 and 1 of them"):
            difference(([1, 1], [1, 1]), ([1], [1]))


class TestRatioOfMeans:
    def test_by_hand(self) -> None:
        found = ratio_of_means([[1.0, 2.0], [3.0]], [[2.0, 2.0], [4.0]])
        assert found.value == pytest.approx(6 / 8)
        assert (found.low, found.high) == pytest.approx((0.75, 0.75))
        assert found.n == 2

    def test_bootstraps_images(self) -> None:
        rng = np.random.default_rng(1)
        top = rng.normal(5, 1, 30).tolist()
        found = ratio_of_means([[t] for t in top], [[1.0]] * 30)
        assert found.value == pytest.approx(np.mean(top))
        assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(top) / math.sqrt(30), rel=0.15)

    def test_one_image_has_no_interval(self) -> None:
        found = ratio_of_means([[3.0]], [[2.0]])
        assert found.value == 1.5
        assert math.isnan(found.low)
        assert found.n == 1

    @pytest.mark.parametrize(("top", "bottom"), [([], []), ([[1.0]], [[0.0]])])
    def test_nothing_to_estimate(self, top: list[list[float]], bottom: list[list[float]]) -> None:
        found = ratio_of_means(top, bottom)
        assert math.isnan(found.value)
        assert found.n == 0
