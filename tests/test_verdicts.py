"""Verdicts by the rules written before anything was run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcore.claims import CLAIMS, claim_table, verdict_cell
from lipcore.metrics.intervals import Estimate
from lipcore.verdicts import LEAST_CLEAN, LEAST_IMAGES, Comparison, judge

UP, DOWN, OPEN = Estimate(0.2, 0.1, 0.3, 30), Estimate(-0.2, -0.3, -0.1, 30), Estimate(0.1, -0.1, 0.3, 30)
FEW = Estimate(0.2, 0.1, 0.3, LEAST_IMAGES - 1)
UNKNOWN = Estimate(math.nan, -1.0, 1.0, 0)


def compare(*estimates: Estimate) -> list[Comparison]:
    return [Comparison(f"comparison {i}", e) for i, e in enumerate(estimates)]


class TestJudge:
    @pytest.mark.parametrize(
        ("estimates", "verdict"),
        [
            ([UP], "reproduced"),
            ([UP, UP, UP], "reproduced"),
            ([UP, OPEN], "partly"),
            ([UP, OPEN, OPEN], "partly"),
            ([UP, DOWN], "not"),
            ([UP, UP, DOWN], "not"),
            ([OPEN], "not"),
            ([OPEN, DOWN], "not"),
            ([DOWN], "not"),
            ([], "undecided"),
            ([FEW], "undecided"),
            ([UNKNOWN], "undecided"),
            ([UP, FEW], "reproduced"),  # what does not count neither helps nor harms
            ([FEW, OPEN], "not"),
        ],
    )
    def test_table(self, estimates: list[Estimate], verdict: str) -> None:
        assert judge(compare(*estimates)).verdict == verdict

    def test_says_how_many(self) -> None:
        assert judge(compare(UP, OPEN, DOWN, UP)).reason == "2 of 4 comparisons as claimed, 1 open, 1 reversed"
        assert judge(compare(FEW, UNKNOWN)).reason.startswith("none of 2 comparisons")

    @pytest.mark.parametrize(("rate", "counts"), [(LEAST_CLEAN, True), (0.79, False), (1.0, True), (math.nan, False)])
    def test_a_cell_found_badly_on_clean_images_gives_no_verdict(self, rate: float, counts: bool) -> None:
        comparison = Comparison("grey", UP, rate)
        assert comparison.counts == counts
        assert judge([comparison]).verdict == ("reproduced" if counts else "undecided")

    @given(st.lists(st.sampled_from([UP, DOWN, OPEN, FEW])))
    def test_does_not_depend_on_the_order(self, estimates: list[Estimate]) -> None:
        assert judge(compare(*estimates)) == judge(compare(*reversed(estimates)))

    @given(st.lists(st.sampled_from([UP, DOWN, OPEN]), min_size=1))
    def test_another_confirmation_never_makes_it_worse(self, estimates: list[Estimate]) -> None:
        rank = ("not", "partly", "reproduced")
        before, after = judge(compare(*estimates)).verdict, judge(compare(*estimates, UP)).verdict
        assert rank.index(after) >= rank.index(before)


class TestClaimTable:
    def test_every_claim_is_there_with_its_verdicts(self) -> None:
        summary = {
            "detector": "centerface", "control": "pnet", "c1": "partly", "c1_reason": "1 of 3", "control_c1": "not",
        }  # fmt: skip
        table = claim_table({"ipi_synthetic": summary})
        assert len(table) == len(CLAIMS) == 7
        assert list(table.columns) == ["claim", "poster (HR)", "centerface", "pnet", "chapter"]
        assert "verdict-partly" in table["centerface"][0]
        assert "1 of 3" in table["centerface"][0]
        assert "verdict-not" in table["pnet"][0]
        assert all("not measured" in cell for cell in table["centerface"][2:])

    def test_a_label_is_a_class_name(self) -> None:
        assert "verdict-not-measured" in verdict_cell("not measured", "")
