"""How verdicts are shown: chips, tables, the claims of page 1."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lipcore.chapters.paper import claims
from lipcore.metrics.success import visibility
from lipcore.report import verdict_table as shown
from lipcore.report.claims import CLAIMS, claim_table
from lipcore.report.style import DETECTORS, detector_name
from lipcore.report.verdict_table import chip, effect, size, verdict_table
from lipcore.results import read_results
from lipcore.studies.base.derived import Derived
from lipcore.studies.base.study import Run
from lipcore.studies.verdicts import receptive, scenes
from lipcore.studies.verdicts.grids import strengths
from lipcore.studies.verdicts.photographs import least_psnr


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
        first, *every = [table.html() for table in claims(None)]
        every = [re.sub("<[^>]*>", "", table) for table in every]
        rows = read_results(root / "results" / "full" / "verdicts.json")["rows"]
        for row in rows:
            if row["primary"] and row["detector"] in DETECTORS:
                assert f'title="{effect(row)}, n {row["n"]}">{detector_name(row["detector"])} {size(row)}<' in first
        for row in rows:
            if row["primary"]:
                assert any(effect(row) in table for table in every)


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

    def test_nought_has_no_sign(self) -> None:
        row = verdict_row(value=-0.0002, ci_low=-0.0004, ci_high=0.0001)
        assert (effect(row), size(row)) == ("0.0 [0.0, 0.0] points", "0.0")

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

    def test_a_dataset_without_primary_contrasts_has_no_empty_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        judged = {"rows": [verdict_row(primary=False, dataset="FDDB, all")]}
        monkeypatch.setattr(shown, "committed", lambda _: judged)
        (table,) = shown.verdict_tables(["C1"], dataset="FDDB")(None)
        assert (table.fold, len(table.rows), table.sources) == ("Secondary contrasts", 1, (judged,))


class TestStrengths:
    def test_one_of_several_targets_each(self) -> None:
        assert [e for _, e, _ in strengths({1.0: 0.3, 2.0: 0.5, 4.0: 0.8}, "C1", True)] == [2.0, 1.0, 4.0]

    @pytest.mark.parametrize("success", [{}, {2.0: math.nan}])
    def test_a_detector_without_any_does_not_keep_the_others_from_theirs(self, success: dict[float, float]) -> None:
        assert list(strengths(success, "C1", True)) == []
        record = {"detector": "pnet", "config": "x", "perturbation": "imp-i", "epsilon": 2.0, "image": 0}
        grid = record | {"faces": 9, "distance": 40, "side": 40, "before": "1", "after": "0"}
        assert list(scenes.within_image([grid], {"pnet": success})) == []
        few = record | {"small": 40, "large": 120, "pitch": 10, "before": "1", "after": "0"}
        assert list(scenes.unequal_faces([few])) == []


class TestReceptiveFields:
    """C3, whose word is of the templates that pass both halves, as the rule was written."""

    @pytest.mark.parametrize(
        ("detector", "passed", "word"),
        [
            ("hr-mini", [True, True], "supported"),
            ("hr-mini", [True, False], "weaker than claimed"),
            ("hr-mini", [False, False], "contradicted"),
            ("pnet", [False], "as predicted"),
            ("pnet", [True], "not as predicted"),
        ],
    )
    def test_word(self, detector: str, passed: list[bool], word: str) -> None:
        assert receptive.word(detector, passed) == word

    def test_both_halves_of_every_trained_detector(self) -> None:
        values = {"hr-mini": [(0.95, 0.2), (0.85, 0.2)], receptive.RANDOM: [(0.95, 0.2)], "pnet": [(0.9, 0.75)]}
        rows = [
            {"detector": name, "template": str(i), "metric": metric, "value": value, "n": 8}
            for name, templates in values.items()
            for i, pair in enumerate(templates)
            for metric, value in zip(("r2", "ratio"), pair, strict=True)
        ]
        made = [(r["detector"], r["value"], r["word"]) for r in receptive.rows({"rows": rows})]
        assert made == [
            ("hr-mini", 0.5, "weaker than claimed"),  # one template passes both: the word is of the whole claim
            ("hr-mini", 0.5, None),
            ("hr-mini", 1, None),
            ("pnet", 1, "not as predicted"),  # the bounds themselves pass
            ("pnet", 1, None),
            ("pnet", 1, None),
        ]

    def test_a_claim_whose_halves_no_template_passes_together_is_contradicted(self) -> None:
        rows = [
            {"detector": "hr-mini", "template": str(i), "metric": metric, "value": value, "n": 8}
            for i, pair in enumerate([(0.95, 0.9), (0.5, 0.2)])
            for metric, value in zip(("r2", "ratio"), pair, strict=True)
        ]
        words = [(r["value"], r["word"]) for r in receptive.rows({"rows": rows})]
        assert words == [(0, "contradicted"), (0.5, None), (0.5, None)]


@pytest.mark.parametrize(("epsilon", "decibels"), [(1.0, 48.13), (2.0, 42.11), (8.0, 30.07), (255.0, 0.0)])
def test_no_noise_has_less_psnr_than_signs_everywhere(epsilon: float, decibels: float) -> None:
    clean = torch.full((1, 3, 16, 16), 128.0)
    assert least_psnr(epsilon) == pytest.approx(decibels, abs=0.01)
    if epsilon < 127:
        assert visibility(clean, clean + epsilon).psnr == pytest.approx(least_psnr(epsilon), abs=1e-4)


def test_a_limit_that_cannot_be_missed_is_not_testable(root: Path) -> None:
    rows = [r for r in read_results(root / "results" / "full" / "verdicts.json")["rows"] if r["claim"] == "C7"]
    psnr = [r for r in rows if r["metric"] == "psnr" and r["primary"]]
    assert psnr
    assert all((r["word"] == "not testable") == (least_psnr(r["epsilon"]) >= 35) for r in psnr)
    assert any(r["word"] == "supported" for r in rows if r["metric"] == "ssim")


def test_images_of_other_studies_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what tells them apart in their own study, whatever else a record calls so."""
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path))
    seen = [{"image": i, "perturbation": p, "faces": i + len(p), "seconds": 1.0} for i in (1, 2) for p in ("imp", "lp")]

    class Two(Derived):
        name, title, images = "two", "", "theirs"
        sources = {"one": ("image", "perturbation")}  # noqa: RUF012

        def rows(self, given: Any, run: Any) -> list[dict[str, Any]]:
            return [
                {
                    "detector": "",
                    "metric": "n",
                    "value": float(len(given["one"])),
                    "ci_low": None,
                    "ci_high": None,
                    "n": 4,
                }
            ]

        def given(self, profile: str) -> Any:
            return {"one": tuple(seen)}

    provenance = read_results(Two().run(Run()))["provenance"]
    assert provenance["dataset"]["n_images"] == 2
    assert provenance["seconds"] == 4


def test_no_committed_table_holds_verdicts_of_its_own(root: Path) -> None:
    """There is one path of verdicts: other results files hold what was measured, and no word of the first rules."""
    old = {"reproduced", "partly", "not", "undecided"}
    for path in sorted((root / "results" / "full").glob("*.json")):
        document = read_results(path)
        assert not old & {str(v) for v in document["summary"].values()}, path.name
        assert path.name == "verdicts.json" or not any("claim" in r for r in document["rows"]), path.name
