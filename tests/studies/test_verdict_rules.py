"""The rules of the verdicts, on made-up data: what they find where there is something, and where there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import contrast, found, made

from lipcore.metrics.intervals import Estimate
from lipcore.metrics.paired import Outcomes, Paired, gain_of_gains, paired, ratio
from lipcore.studies.base.verdict_rules import (
    CEILING,
    FLOOR,
    SMALLEST,
    flags_of,
    has_room,
    holm,
    judge,
    judge_mean,
    matched,
    random_effects,
    smallest_effect,
    word_of,
)


class TestPower:
    """At the poster's own effects and the planned numbers of images, the rules find what is there."""

    @pytest.mark.parametrize(
        ("name", "more", "less", "images", "poster"),
        [
            ("C1, grids: 1 against 9 faces", (0.97, 1), (0.515, 9), 30, 0.485),
            ("C1, grids: 1 against 64 faces", (0.97, 1), (0.183, 64), 30, 0.817),
            ("C2, grids: 9 at 240 px against 40 px", (0.639, 9), (0.515, 9), 60, 0.124),
            ("C5, photographs: IMP to LP, hard", (0.621, 10), (0.406, 10), 41, 0.215),
            ("C5, photographs: LP to LIP-A, hard", (0.695, 10), (0.621, 10), 122, 0.074),
        ],
    )
    def test_the_poster_s_effect_is_found_in_four_of_five_studies(
        self, name: str, more: tuple[float, int], less: tuple[float, int], images: int, poster: float
    ) -> None:
        photographs = name.startswith("C5")
        words = [found(made([more, less], images, s, photographs=photographs), poster=poster) for s in range(10)]
        assert words.count("supported") >= 8, words

    def test_without_an_effect_a_claim_is_hardly_ever_supported(self) -> None:
        words = [found(made([(0.5, 9), (0.5, 9)], 30, seed), poster=0.485) for seed in range(10)]
        assert "supported" not in words
        assert words.count("contradicted") >= 9

    def test_an_effect_the_other_way_is_never_supported(self) -> None:
        words = [found(made([(0.4, 9), (0.6, 9)], 30, seed)) for seed in range(5)]
        assert words == ["contradicted"] * 5

    def test_intervals_hold_what_they_should(self) -> None:
        """At least nine in ten of the nominal 95 % intervals cover the truth, faces and images being clustered."""
        estimates = [made([(0.5, 9), (0.5, 9)], 30, 100 + seed).estimate for seed in range(40)]
        assert sum(e.low <= 0 <= e.high for e in estimates) >= 36

    def test_gain_of_gains(self) -> None:
        """C2 within the image: interference near less interference far."""
        measured = made([(0.8, 9), (0.5, 9), (0.8, 9), (0.78, 9)], 40, 1, gain_of_gains)
        assert measured.estimate.value == pytest.approx(
            (measured.rates[0] - measured.rates[1]) - (measured.rates[2] - measured.rates[3])
        )
        assert found(measured, poster=0.2) == "supported"


class TestWords:
    @pytest.mark.parametrize(
        ("value", "low", "high", "poster", "word"),
        [
            (0.10, 0.02, 0.18, None, "supported"),
            (0.05, 0.01, 0.09, None, "supported"),
            (0.04, 0.01, 0.07, None, "weaker than claimed"),
            (0.03, 0.01, 0.045, None, "weaker than claimed"),  # also below 5 points, but an effect is there
            (0.01, -0.02, 0.04, None, "contradicted"),
            (-0.10, -0.20, -0.01, None, "contradicted"),
            (0.01, -0.05, 0.07, None, "inconclusive"),
            (0.20, -0.01, 0.41, None, "inconclusive"),
            (0.10, 0.02, 0.18, 0.4, "weaker than claimed"),
            (0.10, -0.02, 0.18, 0.4, "contradicted"),
        ],
    )
    def test_by_interval_and_smallest_effect(
        self, value: float, low: float, high: float, poster: float | None, word: str
    ) -> None:
        assert found(Estimate(value, low, high, 40), poster=poster) == word

    def test_half_the_poster_s_effect_or_five_points(self) -> None:
        assert smallest_effect(0.2) == 0.1
        assert smallest_effect(None) == SMALLEST
        assert smallest_effect(2.0, null=1.0) == 1.5

    @pytest.mark.parametrize(
        ("rates", "room"),
        [
            ((0.99, 0.91), False),
            ((0.99, 0.90), True),
            ((0.09, 0.01), False),
            ((0.09, 0.11), True),
            ((0.5, 0.4, 0.95, 0.92), False),
            ((0.5, 0.4, 0.95, 0.5), True),
        ],
    )
    def test_floor_and_ceiling_are_not_testable(self, rates: tuple[float, ...], room: bool) -> None:
        c = contrast(Paired(Estimate(0.1, 0.05, 0.15, 40), rates, np.ones(10), False, ()))
        assert has_room(c) is room
        assert (word_of(c) == "not testable") is not room

    def test_of_average_precision_they_are_shares_of_the_clean_value(self) -> None:
        measured = Paired(Estimate(0.02, 0.01, 0.03, 40), (0.05, 0.03), np.ones(10), False, ())
        assert not has_room(contrast(measured, scale=0.6))
        assert has_room(contrast(measured, scale=0.2))
        assert has_room(contrast(measured, scale=None))
        assert (FLOOR, CEILING) == (0.10, 0.90)

    def test_a_factor_of_two_needs_room_above(self) -> None:
        c = contrast(made([(0.9, 9), (0.7, 9)], 30, 0, ratio), null=1.0, poster=2.0)
        assert word_of(c) == "not testable"
        assert found(made([(0.8, 9), (0.2, 9)], 40, 0, ratio), null=1.0, poster=2.0) == "supported"

    def test_a_ratio_over_nothing_is_infinite(self) -> None:
        some, none = Outcomes.of(range(40), [5.0] * 40, [9.0] * 40), Outcomes.of(range(40), [0.0] * 40, [9.0] * 40)
        assert paired([some, none], ratio).estimate.value == math.inf

    def test_a_low_clean_rate_is_a_flag_and_no_gate(self) -> None:
        c = contrast(Estimate(0.2, 0.1, 0.3, 40), clean_rate=0.5)
        assert word_of(c) == "supported"
        assert flags_of(c) == ("50 % of the faces found on the clean images",)

    def test_an_unmatched_strength_is_a_flag(self) -> None:
        assert "far from" in flags_of(contrast(Estimate(0.2, 0.1, 0.3, 40), reached=0.8))[0]


class TestControls:
    """P-Net: faces cannot meet in its receptive field, so that no difference is what the mechanism predicts."""

    @pytest.mark.parametrize(
        ("value", "low", "high", "word"),
        [
            (0.0, -0.03, 0.03, "as predicted"),
            (0.1, 0.06, 0.14, "not as predicted"),
            (0.0, -0.2, 0.2, "inconclusive"),
            (-0.1, -0.14, -0.06, "not as predicted"),
        ],
    )
    def test_words(self, value: float, low: float, high: float, word: str) -> None:
        assert found(Estimate(value, low, high, 40), detector="pnet") == word

    def test_stand_apart_from_the_mean(self) -> None:
        rows = [contrast(Estimate(0.2, 0.1, 0.3, 40), detector=d) for d in ("hr-mini", "centerface")]
        strange = contrast(Estimate(-0.9, -0.95, -0.85, 40), detector="pnet")
        assert random_effects([*rows, strange]) == random_effects(rows)


class TestHolm:
    def test_by_hand(self) -> None:
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert holm([0.5]) == [0.5]
        assert holm([]) == []

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_never_smaller_than_the_raw_one_and_in_their_order(self, p: list[float]) -> None:
        adjusted = holm(p)
        assert all(a >= raw for a, raw in zip(adjusted, p, strict=True))
        order = np.argsort(p, kind="stable")
        assert (np.diff(np.array(adjusted)[order]) >= 0).all()

    def test_outside_of_0_to_1(self) -> None:
        with pytest.raises(ValueError, match="numbers in"):
            holm([1.2])

    def test_families_are_a_claim_s_secondary_contrasts_on_a_detector(self) -> None:
        weak = Estimate(0.1, -0.005, 0.205, 40)
        alone = judge([contrast(weak, primary=False)])[0].p
        many = judge([contrast(weak, primary=False, step=str(i)) for i in range(5)])
        assert many[0].p == pytest.approx(min(1, 5 * alone))
        assert all(v.word is None for v in many)
        others = judge([contrast(weak, primary=False), contrast(weak), contrast(weak, primary=False, claim="C1")])
        assert [v.p for v in others] == pytest.approx([alone] * 3)


class TestMean:
    def test_alike_detectors(self) -> None:
        rows = [contrast(Estimate(0.2, 0.1, 0.3, n), detector=d) for d, n in (("a", 40), ("b", 31))]
        mean = random_effects(rows)
        assert mean is not None
        assert mean.estimate.value == pytest.approx(0.2, abs=0.01)
        assert mean.tau == 0
        assert mean.estimate.n == 31
        assert mean.estimate.high - mean.estimate.low == pytest.approx(0.2 / math.sqrt(2), rel=0.1)

    def test_detectors_that_disagree_widen_it(self) -> None:
        rows = [contrast(Estimate(v, v - 0.02, v + 0.02, 40), detector=d) for d, v in (("a", 0.4), ("b", 0.0))]
        judged = judge_mean(rows)
        assert judged is not None
        mean, word = judged
        assert mean.tau > 0.2
        assert mean.p_same < 0.001
        assert word == "inconclusive"

    def test_what_it_leaves_out(self) -> None:
        good = contrast(Estimate(0.2, 0.1, 0.3, 40))
        full = contrast(Paired(Estimate(0.01, 0.0, 0.02, 40), (0.99, 0.98), np.ones(9), False, ()), detector="x")
        single = contrast(
            Paired(Estimate(0.1, math.nan, math.nan, 1), (0.5, 0.4), np.empty(0), False, ()), detector="y"
        )
        assert random_effects([good, full, single]) is None

    def test_few_images_of_one_detector_make_it_exploratory(self) -> None:
        rows = [contrast(Estimate(0.2, 0.1, 0.3, n), detector=d) for d, n in (("a", 40), ("b", 12))]
        judged = judge_mean(rows)
        assert judged is not None
        assert judged[1] == "exploratory"

    def test_ratios_are_averaged_as_logarithms(self) -> None:
        rows = [
            contrast(made([(0.8, 9), (0.2, 9)], 40, s, ratio), null=1.0, poster=2.0, detector=d)
            for s, d in enumerate("ab")
        ]
        mean = random_effects(rows)
        assert mean is not None
        values = sorted(c.measured.estimate.value for c in rows)
        assert values[0] <= mean.estimate.value <= values[1]
        assert mean.estimate.low > 1


class TestMatched:
    def test_nearest_and_the_smaller_of_two(self) -> None:
        success = {1.0: 0.2, 2.0: 0.45, 4.0: 0.55, 8.0: 0.97, 16.0: math.nan}
        assert matched(success) == 2.0
        assert matched(success, 0.25) == 1.0
        assert matched(success, 0.75) == 4.0

    def test_nothing_measured(self) -> None:
        with pytest.raises(ValueError, match="no epsilon"):
            matched({2.0: math.nan})
