"""Pairs and ties under the rules of the verdicts, on made-up data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from outcomes import PEOPLE, contrast, faces_of, found, made

from lipcore.metrics.paired import Outcomes, from_draws, gain_of_gains, gain_over_gain, paired, ratio
from lipcore.studies.base.verdict_rules import LEAST_IMAGES, flags_of, judge, word_of


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
