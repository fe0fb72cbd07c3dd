"""The rules of the verdicts, on made-up data: what they find where there is something, and where there is nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcore.metrics.intervals import Estimate
from lipcore.metrics.paired import Outcomes, Paired, from_draws, gain, gain_of_gains, gain_over_gain, paired, ratio
from lipcore.studies.base.verdict_rules import (
    CEILING,
    FLOOR,
    LEAST_IMAGES,
    SMALLEST,
    Contrast,
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

PEOPLE = 90


def faces_of(
    rate: float, faces: int, images: int, random: np.random.Generator, ease: tuple[Any, Any], photographs: bool
) -> Outcomes:
    """Faces, each hidden with about ``rate``: some images and, on grids, some people are easier than others."""
    by_image, by_person = ease
    names, people, hits = [], [], []
    for image in range(images):
        for person in np.random.default_rng(image).permutation(PEOPLE)[:faces]:
            easy = math.log(rate / (1 - rate)) + by_image[image] + by_person[person]
            names.append(image)
            people.append(int(person))
            hits.append(float(random.random() < 1 / (1 + math.exp(-easy))))
    if photographs:
        return Outcomes.of(names, hits, [1.0] * len(hits))
    return Outcomes.of(names, hits, [1.0] * len(hits), people, n_identities=PEOPLE)


def made(
    rates: list[tuple[float, int]], images: int, seed: int, statistic: Any = gain, photographs: bool = False
) -> Paired:
    """A paired statistic of images of the given (rate, faces), the same images and people in each condition."""
    random = np.random.default_rng(seed)
    ease = random.normal(0, 0.4, images), random.normal(0, 0.6, PEOPLE)
    return paired([faces_of(rate, faces, images, random, ease, photographs) for rate, faces in rates], statistic)


def contrast(measured: Paired | Estimate, **more: Any) -> Contrast:
    """A primary contrast with plain entries; from an estimate alone with draws of a normal around it."""
    if isinstance(measured, Estimate):
        spread = (measured.high - measured.low) / 3.92
        draws = np.random.default_rng(0).normal(measured.value, spread, 2000)
        measured = Paired(measured, (0.5 + measured.value, 0.5), draws, False, ())
    entries = {"claim": "C5", "step": "a - b", "reading": "instance", "detector": "hr-mini", "outcome": "asr"}
    entries |= {"dataset": "made up", "epsilon": 2.0, "primary": True}
    return Contrast(measured=measured, **(entries | more))


def found(measured: Paired | Estimate, **more: Any) -> str:
    return word_of(contrast(measured, **more))


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


class TestTies:
    def test_a_tie_inside_a_difference_of_gains_keeps_its_bounds(self) -> None:
        """Near, 6 of 90 faces are lost alone and not among all; far, none differ, which says little of 30 images."""
        images = [i for i in range(30) for _ in range(3)]
        near = [Outcomes.of(images, [float(k < lost) for k in range(90)], [1.0] * 90) for lost in (40, 34)]
        far = Outcomes.of(images, [float(k % 3 > 0) for k in range(90)], [1.0] * 90)
        plain, wide = paired([*near, far, far], gain_of_gains).estimate, gain_over_gain((near[0], near[1]), (far, far))
        tie = paired([far, far]).estimate
        assert wide.estimate.value == plain.value == pytest.approx(6 / 90)
        assert wide.estimate.high - wide.estimate.low == pytest.approx(
            math.hypot(plain.high - plain.low, tie.high - tie.low), rel=0.1
        )
        assert wide.estimate.low < 0 < plain.low + 1e-9
        assert found(wide, poster=0.215) == "inconclusive"

    def test_two_ties_have_a_width_too(self) -> None:
        one, other = (Outcomes.of(range(30), [k] * 30, [9.0] * 30) for k in (3.0, 6.0))
        both = gain_over_gain((one, one), (other, other))
        assert both.estimate.value == 0
        assert both.estimate.low < -0.1
        assert both.estimate.high > 0.1
        assert both.p_value() > 0.5
        assert gain_over_gain((one, one), (one, one)).identical

    def test_without_a_tie_nothing_changes(self) -> None:
        random, ease = np.random.default_rng(1), (np.zeros(40), np.zeros(PEOPLE))
        rates = (0.8, 0.5, 0.8, 0.7)
        four = [faces_of(rate, 9, 40, random, ease, photographs=False) for rate in rates]
        spread = gain_over_gain((four[0], four[1]), (four[2], four[3]))
        assert spread.estimate == paired(four, gain_of_gains).estimate

    def test_identical_outcomes_print_counts_and_are_no_reversal(self) -> None:
        one = Outcomes.of(range(40), [3.0] * 40, [9.0] * 40)
        c = contrast(paired([one, one]))
        assert c.measured.estimate.value == 0
        assert c.measured.estimate.low < 0 < c.measured.estimate.high
        assert word_of(c) == "inconclusive"
        assert judge([c])[0].p == 1
        assert "identical outcomes: 120 of 360 and 120 of 360" in flags_of(c)

    def test_many_identical_images_do_contradict_an_effect(self) -> None:
        one = Outcomes.of(range(200), [3.0] * 200, [9.0] * 200)
        assert found(paired([one, one]), poster=0.2) == "contradicted"

    def test_of_a_ratio_they_are_around_one(self) -> None:
        one = Outcomes.of(range(40), [3.0] * 40, [9.0] * 40)
        e = paired([one, one], ratio).estimate
        assert e.low < e.value == 1 < e.high

    def test_a_tie_in_rates_with_different_faces_is_inconclusive(self) -> None:
        a = Outcomes.of(range(40), [i % 2 for i in range(40)], [1.0] * 40)
        b = Outcomes.of(range(40), [1 - i % 2 for i in range(40)], [1.0] * 40)
        p = paired([a, b])
        assert p.estimate.value == 0
        assert p.estimate.low < 0 < p.estimate.high
        assert found(p) == "inconclusive"

    def test_one_face_of_many_does_not_exclude_zero(self) -> None:
        names = [i for i in range(30) for _ in range(9)]
        who = [(5 * i + k) % PEOPLE for i in range(30) for k in range(9)]
        hits = [float(k % 2) for k in range(270)]
        fewer = [0.0 if k == 101 else h for k, h in enumerate(hits)]
        p = paired([Outcomes.of(names, h, [1.0] * 270, who, n_identities=PEOPLE) for h in (fewer, hits)])
        assert p.estimate.low < 0 == p.estimate.high
        assert p.p_value() > 0.5

    def test_draws_at_zero_count_on_both_sides(self) -> None:
        p = from_draws(np.array([0.0] * 50 + [1.0] * 50), 0.5, (0.5, 0.5), 40)
        assert p.p_value() == 1.0
        assert from_draws(np.ones(999), 1.0, (0.5, 0.5), 40).p_value() == pytest.approx(0.002)


class TestPairs:
    def test_one_image_has_no_interval_and_no_word(self) -> None:
        p = paired([Outcomes.of([0], [3.0], [9.0]), Outcomes.of([0], [6.0], [9.0])])
        assert math.isnan(p.estimate.low)
        assert math.isnan(p.p_value())
        assert found(p) == "exploratory"

    def test_under_thirty_images_is_exploratory(self) -> None:
        assert found(made([(0.9, 9), (0.1, 9)], LEAST_IMAGES - 1, 0)) == "exploratory"
        assert found(made([(0.9, 9), (0.2, 9)], LEAST_IMAGES, 0)) == "supported"

    def test_what_is_not_paired_is_not_compared(self) -> None:
        a, b = Outcomes.of([0, 1], [1, 1], [2, 2]), Outcomes.of([2, 3], [1, 1], [2, 2])
        with pytest.raises(ValueError, match="no image in common"):
            paired([a, b])

    def test_only_shared_images_with_faces_count(self) -> None:
        a = Outcomes.of([0, 1, 2], [1, 2, 9], [2, 2, 9])
        b = Outcomes.of([2, 1, 0, 5], [0, 1, 0, 7], [0, 2, 2, 9])
        p = paired([a, b])
        assert p.estimate.n == 2
        assert p.rates == (0.75, 0.25)

    def test_pairing_narrows_the_interval(self) -> None:
        random = np.random.default_rng(3)
        hits = random.binomial(20, random.uniform(0.1, 0.9, 60)).astype(float)
        a, b = (Outcomes.of(range(60), list(h), [21.0] * 60) for h in (hits + 1, hits))
        shuffled = Outcomes.of(range(60), list(random.permutation(hits)), [21.0] * 60)
        narrow, wide = (paired([a, other]).estimate for other in (b, shuffled))
        assert narrow.high - narrow.low < (wide.high - wide.low) / 5

    def test_people_are_resampled_with_the_images(self) -> None:
        """Where it is the people who make the difference, ignoring them gives too narrow an interval."""
        names = [i for i in range(40) for _ in range(9)]
        people = [(7 * i + 3 * k) % 10 for i in range(40) for k in range(9)]
        hits = [float(p < 3) for p in people]
        none = [0.0] * len(names)
        ones = [1.0] * len(names)
        wide, narrow = (
            paired([Outcomes.of(names, h, ones, who, n_identities=10) for h in (hits, none)]).estimate
            for who in (people, [0] * len(names))
        )
        assert wide.high - wide.low > 3 * (narrow.high - narrow.low)

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            (([0], [1], [1, 2]), "1 images"),
            (([0], [1], [-1]), "negative"),
            (([0], [1], [1], [3]), "valid is 0..0"),
        ],
    )
    def test_bad_outcomes(self, entries: tuple[Any, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Outcomes.of(*entries)

    def test_the_same_seed_gives_the_same_interval(self) -> None:
        assert made([(0.5, 9), (0.3, 9)], 30, 5).estimate == made([(0.5, 9), (0.3, 9)], 30, 5).estimate


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
