"""Verdicts by the rules written before anything was run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcore.metrics.intervals import Estimate
from lipcore.report.claims import CLAIMS, claim_table
from lipcore.report.style import DETECTORS, detector_name
from lipcore.report.verdict_table import chip, effect, verdict_table
from lipcore.results import read_results
from lipcore.studies.base.verdicts import LEAST_CLEAN, LEAST_IMAGES, Comparison, judge
from lipcore.studies.interference import table as interference_table

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

    def test_without_room_it_does_not_count_and_the_reason_says_so(self) -> None:
        full = Comparison("both at 100 %", OPEN, room=False)
        assert judge([full]).verdict == "undecided"
        assert judge([*compare(UP), full, full]).verdict == "reproduced"
        assert judge([*compare(UP, DOWN, FEW), full]).reason == (
            "1 of 2 comparisons as claimed, 0 open, 1 reversed; 1 without room to differ; "
            "1 on too few images or faces found"
        )

    @given(st.lists(st.sampled_from([UP, DOWN, OPEN, FEW])))
    def test_does_not_depend_on_the_order(self, estimates: list[Estimate]) -> None:
        assert judge(compare(*estimates)) == judge(compare(*reversed(estimates)))

    @given(st.lists(st.sampled_from([UP, DOWN, OPEN]), min_size=1))
    def test_another_confirmation_never_makes_it_worse(self, estimates: list[Estimate]) -> None:
        rank = ("not", "partly", "reproduced")
        before, after = judge(compare(*estimates)).verdict, judge(compare(*estimates, UP)).verdict
        assert rank.index(after) >= rank.index(before)


class TestSyntheticStudy:
    """The comparisons behind C1, C2 and C4, from records made by hand."""

    def groups(
        self, lost: dict[tuple[str, tuple[int, int]], int], images: int = 30, epsilon: float = 4.0
    ) -> dict[Any, Any]:
        """(perturbation, cell) -> how many of the first images lose all their faces."""
        made = {}
        for (perturbation, (faces, distance)), count in lost.items():
            made["toy", perturbation, epsilon, faces, distance] = {
                i: {"before": "1" * faces, "after": ("0" if i < count else "1") * faces} for i in range(images)
            }
        return made

    def test_fewer_and_farther(self) -> None:
        cells = {(1, 40): 30, (9, 40): 15, (9, 160): 20, (9, 240): 25, (64, 40): 3}
        made = interference_table.comparisons(self.groups({("imp", c): n for c, n in cells.items()}))
        assert [round(c.estimate.value, 3) for c in made["c1", "toy", 4.0]] == [0.5, 0.4, 0.9]
        assert [round(c.estimate.value, 3) for c in made["c2", "toy", 4.0]] == [0.167, 0.167, 0.333]
        assert all(c.counts for c in made["c1", "toy", 4.0])

    def test_cropping_is_paired_and_changes_one_factor(self) -> None:
        cell = (9, 40)
        lost = {"imp": 10, "lp-w": 12, "imp-i": 20, "lp": 15, "lip-a": 30}
        made = interference_table.comparisons(self.groups({(p, cell): n for p, n in lost.items()}))["c4", "toy", 4.0]
        assert [c.label.split(":")[0] for c in made] == ["lp-w above imp", "lp above imp-i", "lip-a above lp"]
        assert [round(c.estimate.value, 3) for c in made] == [0.067, -0.167, 0.5]

    def test_only_images_that_both_have_are_paired(self) -> None:
        cell = (9, 40)
        groups = self.groups({("lp", cell): 6}, images=10) | self.groups({("lip-a", cell): 8}, images=8)
        (comparison,) = interference_table.comparisons(groups)["c4", "toy", 4.0]
        assert comparison.estimate.n == 8
        assert comparison.estimate.value == pytest.approx(1 - 6 / 8)

    def test_missing_cells_are_missing(self) -> None:
        assert interference_table.comparisons(self.groups({("imp", (1, 40)): 3})) == {}

    def test_the_clean_rate_is_that_of_the_worse_cell(self) -> None:
        groups = self.groups({("imp", (1, 40)): 30, ("imp", (9, 40)): 0})
        for record in groups["toy", "imp", 4.0, 9, 40].values():
            record["before"] = "111111000"
        (comparison,) = interference_table.comparisons(groups)["c1", "toy", 4.0]
        assert comparison.clean_rate == pytest.approx(6 / 9)
        assert not comparison.counts

    def test_each_epsilon_is_compared_by_itself(self) -> None:
        cells = {("imp", (1, 40)): 20, ("imp", (9, 40)): 10}
        groups = {k: v for e in (16.0, 1.0, 2.0, 4.0) for k, v in self.groups(cells, epsilon=e).items()}
        made = interference_table.comparisons(groups)
        assert list(made) == [("c1", "toy", e) for e in (4.0, 2.0, 1.0)]
        labels = [c.label for found in made.values() for c in found]
        assert labels == [f"imp: 1 face at 40 px above 9 faces at 40 px, epsilon {e}" for e in (4, 2, 1)]
        assert list(interference_table.comparisons(groups, epsilons=(4.0,))) == [("c1", "toy", 4.0)]

    @pytest.mark.parametrize(("lost", "room"), [((30, 30), False), ((30, 29), False), ((30, 28), True), ((9, 9), True)])
    def test_two_that_both_succeed_everywhere_have_no_room(self, lost: tuple[int, int], room: bool) -> None:
        groups = self.groups(dict(zip((("lp", (9, 40)), ("imp-i", (9, 40))), lost, strict=True)))
        (comparison,) = interference_table.comparisons(groups)["c4", "toy", 4.0]
        assert (comparison.room, comparison.counts) == (room, room)
        (as_first_written,) = interference_table.comparisons(groups, epsilons=(4.0,), most=1.0)["c4", "toy", 4.0]
        assert as_first_written.counts


def verdict_row(**more: Any) -> dict[str, Any]:
    row = {"claim": "C1", "step": "IMP: 1 face - 9 faces at 40 px", "reading": "whole map", "dataset": "grids",
           "detector": "hr-mini", "metric": "asr", "unit": "share", "word": "supported", "primary": True, "value": 0.31,
           "ci_low": 0.1, "ci_high": 0.5, "n": 40, "p": 0.01, "epsilon": 2.0, "poster": 0.485, "flags": [],
           "seen": True}  # fmt: skip
    return row | more


class TestClaimTable:
    def test_a_chip_for_each_reading_and_detector(self) -> None:
        rows = [
            verdict_row(),
            verdict_row(reading="instance", word="contradicted"),
            verdict_row(detector="pnet", word="as predicted"),
            verdict_row(detector="all detectors", word="supported"),
            verdict_row(primary=False, word=None, step="secondary"),
        ]
        table = claim_table(rows)
        assert len(table) == len(CLAIMS) == 8
        whole, instance = table["found"][0].split("</div>")[:2]
        assert whole.index("verdict-supported") < whole.index("HR-mini") < whole.index("as predicted")
        assert whole.index("as predicted") < whole.index("P-Net")
        assert "+31.0 [+10.0, +50.0] points, n 40" in whole
        assert "verdict-contradicted" in instance
        assert "P-Net" not in instance
        assert set(table["found"][1:]) == {""}

    def test_detectors_of_one_word_share_a_chip(self) -> None:
        (found,) = claim_table([verdict_row(), verdict_row(detector="centerface")])["found"][:1]
        assert found.count("verdict verdict-") == 1
        assert found.index("HR-mini") < found.index("CenterFace")

    def test_what_is_not_measured_is_said_once(self) -> None:
        rows = [verdict_row(), verdict_row(detector="pnet")]
        rows.append(verdict_row(detector="all detectors", word="not measured", value=None, reading="instance"))
        assert claim_table(rows)["found"][0].count("not measured") == 1

    def test_steps_of_a_claim_have_lines_of_their_own(self) -> None:
        steps = ("IMP to LP", "IMP-I to LP", "LP to LIP-A")
        table = claim_table([verdict_row(claim="C5", step=s, metric=m) for s in steps for m in ("asr", "ap")])
        assert list(table["step"][4:6]) == ["IMP → LP", "LP → LIP-A"]
        assert table["found"][4].count("HR-mini") == 4

    def test_without_verdicts_every_claim_is_still_named(self) -> None:
        table = claim_table([])
        assert [claim.id in text for claim, text in zip(CLAIMS, table["claim"], strict=True)] == [True] * 8

    def test_the_front_page_shows_every_committed_verdict(self, root: Path) -> None:
        cells = json.loads((root / "book" / "paper.ipynb").read_text())["cells"]
        (source,) = ("".join(c["source"]) for c in cells if "claim_table" in "".join(c["source"]))
        *before, last = source.splitlines()
        scope: dict[str, Any] = {}
        exec("from IPython.display import HTML\n" + "\n".join(before), scope)
        page = eval(last, scope).data
        rows = read_results(root / "results" / "full" / "verdicts.json")["rows"]
        found = page.partition("<details")[0]
        for row in rows:
            if row["primary"] and row["detector"] in DETECTORS:
                assert f'title="{effect(row)}, n {row["n"]}">{detector_name(row["detector"])}<' in found
        for row in rows:
            if row["primary"]:
                assert effect(row) in page


class TestVerdictTable:
    def test_a_row_has_all_that_stands_beside_a_word(self) -> None:
        (row,) = verdict_table([verdict_row()], ["C1"]).to_dict("records")
        assert row["effect"] == "+31.0 [+10.0, +50.0] points"
        assert (row["poster"], row["n"], row["ε"]) == ("+48.5", "40", "2")
        assert "seen before" in row["to note"]

    @pytest.mark.parametrize(
        ("unit", "value", "text"),
        [("ratio", 1.5, "1.50 times"), ("ssim", 0.0412, "+0.041"), ("dB", 3.14, "+3.1 dB"), ("share", None, "–")],
    )
    def test_units(self, unit: str, value: float | None, text: str) -> None:
        assert effect(verdict_row(unit=unit, value=value, ci_low=None, ci_high=None)) == text

    def test_secondary_contrasts_have_no_chip(self) -> None:
        rows = [verdict_row(primary=False, word=None), verdict_row()]
        table = verdict_table(rows, ["C1"], primary=False)
        assert len(table) == 1
        assert "verdict" not in table
        assert table["p (Holm)"][0] == "0.010"

    def test_by_claim_and_dataset(self) -> None:
        rows = [verdict_row(), verdict_row(claim="C2"), verdict_row(dataset="FDDB, all")]
        assert len(verdict_table(rows, ["C1"], dataset="grids")) == 1

    def test_a_label_is_a_class_name(self) -> None:
        assert "verdict-not-measured" in chip("not measured")
