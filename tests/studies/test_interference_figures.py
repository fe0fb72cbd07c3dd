"""Figures and tables of the synthetic study, from rows made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from lipcore.attacks.presets import PRESETS
from lipcore.report.page import NotMeasured
from lipcore.report.style import method_name, style
from lipcore.results import poster
from lipcore.studies.interference.figures import (
    distance_figure,
    epsilon_figure,
    faces_figure,
    grid_figure,
    ipi_figure,
    ipi_table,
)
from lipcore.studies.interference.table import POSTER_CELLS

SIDES = {"hr-mini": 160.0, "pnet": 40.0}


def row(detector: str, name: str, epsilon: float, cell: tuple[int, int], metric: str, value: float) -> dict[str, Any]:
    start = {"detector": detector, "perturbation": name, "epsilon": epsilon, "faces": cell[0], "distance": cell[1]}
    interval = {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "n": 6, "clean_rate": 0.9}
    return start | {"metric": metric} | interval


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Two detectors; the second has no epsilon 2."""
    made = [
        row(detector, name, epsilon, cell, metric, 0.01 * cell[0] + 0.001 * cell[1])
        for detector in SIDES
        for epsilon in ((4.0, 2.0) if detector == "hr-mini" else (4.0,))
        for cell in POSTER_CELLS
        for name in PRESETS
        for metric in ("asr", "logit_drop", "interference")
        if metric != "interference" or (cell[0] > 1 and name != "random")
    ]
    return pd.DataFrame(made)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with plt.rc_context():
        style()
        yield
    plt.close("all")


def titles(figure: plt.Figure) -> list[str]:
    return [axis.get_title("left") for axis in figure.axes if axis.get_title("left")]


def test_the_grid_has_a_panel_for_each_epsilon_and_perturbation(rows: pd.DataFrame) -> None:
    names = [method_name(name) for name in PRESETS if name != "random"]
    figure = grid_figure(rows, "hr-mini", (4.0, 2.0, 1.0))
    assert titles(figure) == [f"{name}, epsilon {e}" for e in (4, 2) for name in names]
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["13", "25", "33", "5", "68"]
    assert titles(grid_figure(rows, "pnet", (4.0, 2.0), "interference")) == [f"{name}, epsilon 4" for name in names]


def test_distances_are_in_sides_of_the_field(rows: pd.DataFrame) -> None:
    figure = distance_figure(rows, SIDES, (4.0, 2.0))
    assert titles(figure) == [f"{name}, epsilon {e}" for e in (4, 2) for name in ("IMP", "IMP-I")]
    drawn = [[c for c in axis.collections if isinstance(c, PathCollection)] for axis in figure.axes]
    points = [{round(float(x), 3) for c in collections for x, _ in c.get_offsets()} for collections in drawn]
    hr_mini, pnet = ({d / side for _, d in POSTER_CELLS} for side in SIDES.values())
    assert points[0] == points[1] == hr_mini | pnet
    assert points[2] == points[3] == hr_mini
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["HR-mini (160 px)", "P-Net (40 px)"]


def test_what_was_not_measured_says_so(rows: pd.DataFrame) -> None:
    for draw in (
        lambda: grid_figure(rows, "hr-mini", (16.0,)),
        lambda: distance_figure(rows, {}, (4.0,)),
        lambda: distance_figure(rows, SIDES, (16.0,)),
        lambda: faces_figure(rows, "none", 40),
        lambda: epsilon_figure(rows, "pnet", POSTER_CELLS),
    ):
        with pytest.raises(NotMeasured, match="Not measured"):
            draw()


def test_detectors_stand_below_and_epsilons_beside_one_another(rows: pd.DataFrame) -> None:
    figure = ipi_figure(rows, poster("ipi"))
    assert titles(figure) == [
        "HR-mini, epsilon 4", "HR-mini, epsilon 2", "P-Net, epsilon 4", "P-Net, epsilon 2: not measured",
    ]  # fmt: skip
    figure.canvas.draw()
    assert titles(ipi_figure(rows[rows["epsilon"] == 4], poster("ipi"), "interference")) == [
        "HR-mini, epsilon 4",
        "P-Net, epsilon 4",
    ]


def test_the_table_has_a_line_for_each_cell_and_epsilon(rows: pd.DataFrame) -> None:
    table = ipi_table(rows, poster("ipi"), "hr-mini", (4.0, 2.0))
    cells = [("1", "4"), ("1", "2"), ("9 at 40 px", "4"), ("9 at 40 px", "2")]
    assert list(zip(table["faces"], table["ε"], strict=True))[:4] == cells
    assert list(table["poster (HR)"])[:3] == ["100", "100", "51.5"]
    assert len(table) == 2 * len(POSTER_CELLS)
    assert len(ipi_table(rows, poster("ipi"), "pnet", (4.0, 2.0))) == len(POSTER_CELLS)
