"""What tables print: shares with intervals, counts where all or none."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from lipcore.report.plotting import folded, html_table, percent
from lipcore.report.style import DETECTORS, METHODS, detector_name, in_order, method_name


@pytest.mark.parametrize(
    ("row", "printed"),
    [
        ({"metric": "asr", "value": 0.5, "ci_low": 0.4, "ci_high": 0.61, "n_faces": 90}, "50 [40, 61]"),
        ({"metric": "asr", "value": 1.0, "ci_low": 0.99, "ci_high": 1.0, "n_faces": 384}, "100 (384/384)"),
        ({"metric": "asr", "value": 0.0, "ci_low": 0.0, "ci_high": 0.1, "n_faces": 30}, "0 (0/30)"),
        ({"metric": "ap", "value": 1.0, "ci_low": 0.9, "ci_high": 1.0, "n_faces": 384}, "100 [90, 100]"),
        ({"metric": "asr", "value": None, "ci_low": None, "ci_high": None}, "–"),
    ],
)
def test_percent(row: dict[str, object], printed: str) -> None:
    assert percent(row) == printed


def test_a_table_has_a_caption_and_scoped_heads() -> None:
    text = html_table(pd.DataFrame({"method": ["LP"], "ASR": [7], "_dim": [True]}), "What it shows.")
    assert "<caption>What it shows.</caption>" in text
    assert re.findall(r'<th scope="(\w+)">(\w+)', text) == [("col", "method"), ("col", "ASR"), ("row", "LP")]
    assert "class=dim" in text
    assert folded("More", text).startswith('<details class="lip-fold"><summary>More</summary>')


def test_names_and_order_are_the_same_everywhere() -> None:
    assert (detector_name("hr-mini"), detector_name("mine")) == ("HR-mini", "mine")
    assert (method_name("lip-a"), method_name("none")) == ("LIP-A", "clean")
    assert in_order(["mine", "pnet", "centerface", "pnet", "hr-mini"]) == ["hr-mini", "centerface", "pnet", "mine"]
    assert in_order(reversed(METHODS)) == list(METHODS)
    assert len(set(DETECTORS.values())) == len(DETECTORS)
