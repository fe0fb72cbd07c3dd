"""What tables print: shares with intervals, counts where all or none."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lipcore.paths import ROOT
from lipcore.report.plotting import folded, html_table, method_intervals, percent
from lipcore.report.style import (
    DETECTOR_COLOURS,
    DETECTORS,
    INK,
    METHOD_COLOURS,
    METHODS,
    detector_name,
    in_order,
    method_name,
)


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
    text = html_table(
        pd.DataFrame({"a": ["x"], "b": ["51 [40, 63]"], "c": ["LIP-A - LP"], "d": ["two long words of it"]})
    )
    assert "<td>51 <small>[40, 63]</small></td>" in text
    assert "<td class=whole>LIP-A - LP</td>" in text
    assert "<td>two long words of it</td>" in text
    assert folded("More", text).startswith('<details class="lip-fold"><summary>More</summary>')


def test_names_and_order_are_the_same_everywhere() -> None:
    assert (detector_name("hr-mini"), detector_name("mine")) == ("HR-mini", "mine")
    assert (method_name("lip-a"), method_name("none")) == ("LIP-A", "clean")
    assert in_order(["mine", "pnet", "centerface", "pnet", "hr-mini"]) == ["hr-mini", "centerface", "pnet", "mine"]
    assert in_order(reversed(METHODS)) == list(METHODS)
    assert len(set(DETECTORS.values())) == len(DETECTORS)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it, of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", [METHOD_COLOURS, DETECTOR_COLOURS])
def test_colours_are_seen_on_the_ground_of_both_themes(colours: dict[str, str]) -> None:
    dark = re.search(r'html\[data-theme="dark"\] \{(.*?)\n\}', (ROOT / "book/_static/lip.css").read_text(), re.DOTALL)
    assert dark is not None
    lighter = dict(re.findall(r"--lip-([0-9a-f]{6}): (#[0-9a-f]{6});", dark[1]))
    in_the_dark = {}
    for name, colour in colours.items():
        if colour == INK:
            continue
        in_the_dark[name] = lighter.get(colour[1:], colour)
        assert 1.05 / (luminance(colour) + 0.05) >= 2.2, f"{name} on white"
        assert (luminance(in_the_dark[name]) + 0.05) / (luminance("#14181e") + 0.05) >= 4.5, (
            f"{name} on the dark ground"
        )
    assert len(set(in_the_dark.values())) == len({c for c in colours.values() if c != INK})


def test_points_with_intervals_stand_where_their_rows_say() -> None:
    rows = pd.DataFrame({"value": [0.5, 0.25], "ci_low": [0.4, np.nan], "ci_high": [0.7, np.nan]})
    figure, axis = plt.subplots()
    method_intervals(axis, [1, 3], rows, "lip-a")
    (drawn,) = axis.containers
    line, _, (bars,) = drawn.lines
    assert line.get_xdata().tolist() == [1, 3]
    assert line.get_ydata().tolist() == [50, 25]
    assert line.get_color() == METHOD_COLOURS["lip-a"]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx([40, 70]), pytest.approx([25, 25])]  # without bounds, a point alone
    assert drawn.get_label() == "LIP-A"
    plt.close(figure)
