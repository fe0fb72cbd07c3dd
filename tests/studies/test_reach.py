"""The experiment on the reach: where a curve ends, and what two detectors differ by, on made-up records."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import pytest

from lipcore.detectors import load_detector
from lipcore.detectors.hr_mini import HRMini
from lipcore.paths import DATA, ROOT
from lipcore.results import DetectorInfo
from lipcore.studies.reach.figures import reach_figure
from lipcore.studies.reach.study import DETECTORS, DISTANCES, Reach, ends_at, full
from lipcore.studies.within_image.table import ALONE

AT = np.array([40.0, 80.0, 120.0])


@pytest.mark.parametrize(
    ("curve", "end"),
    [
        ([0.15, 0.05, 0.0], 80),
        ([0.15, 0.10, 0.0], 100),
        ([0.25, 0.00, 0.0], 72),
        ([0.01, 0.00, 0.0], 40),
        ([0.10, 0.00, 0.1], float("inf")),
        ([0.10, 0.00, 0.02], 60),
        ([0.00, 0.10, 0.0], 100),
    ],
)
def test_where_a_curve_ends(curve: list[float], end: float) -> None:
    assert ends_at(AT, np.array(curve)) == pytest.approx(end)


def test_many_curves_at_once() -> None:
    curves = np.array([[[0.15, 0.05, 0.0], [0.01, 0.0, 0.0]], [[0.1, 0.1, 0.1], [0.15, 0.1, 0.0]]])
    assert ends_at(AT, curves).tolist() == [[80, 40], [np.inf, pytest.approx(100)]]


def records(slope: dict[str, float]) -> list[dict[str, Any]]:
    """Grids in which every face alone falls by 2, and among all by less: a coefficient of .2 at 40 px, less by
    ``slope`` of the detector for each further 40."""
    made = []
    for name in DETECTORS:
        for distance in DISTANCES:
            lost = max(0.0, 0.2 - slope[name] * (distance / 40 - 1))
            for image in range(12):
                shared = {"detector": name, "faces": 9, "distance": distance, "side": 40, "epsilon": 2.0}
                shared |= {"image": image, "people": list(range(9))}
                jitter = 1 + 0.01 * (image % 3)
                chosen = {"chosen": [0, 4, 8], "e_sides": [100.0, 110.0, 120.0], "before": "111", "after": "000"}
                made.append(shared | chosen | {"perturbation": ALONE, "drops": [2 * jitter] * 3})
                joint = {"drops": [2 * jitter * (1 - lost)] * 9, "before": "1" * 9, "after": "0" * 9}
                made.append(shared | joint | {"perturbation": "imp-i", "psnr": 40.0})
    return made


def tabulated(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    infos = {name: DetectorInfo(name, "", "") for name in DETECTORS}
    rows, _ = Reach().tabulated(full(), made, infos)
    return rows


def test_the_long_one_ends_later_and_by_how_much() -> None:
    rows = tabulated(records({"hr-mini-short": 0.15, "hr-mini-even": 0.1, "hr-mini-long": 0.05}))
    ends = {r["detector"]: r["value"] for r in rows if r["metric"] == "reach"}
    assert ends == pytest.approx({"hr-mini-short": 80, "hr-mini-even": 100, "hr-mini-long": 160})
    [ratio] = [r for r in rows if r["metric"] == "reach_ratio"]
    assert (ratio["value"], ratio["n"]) == (pytest.approx(2), 12)
    more = {r["distance"]: r["value"] for r in rows if r["metric"] == "longer"}
    assert more == pytest.approx({40: 0, 80: 0.1, 120: 0.1, 160: 0.05, 200: 0, 240: 0}, abs=1e-9)
    sides = {r["detector"]: r["value"] for r in rows if r["metric"] == "e_side"}
    assert sides == dict.fromkeys(DETECTORS, 110.0)


def test_without_all_distances_nothing_is_said_of_the_end() -> None:
    made = [r for r in records(dict.fromkeys(DETECTORS, 0.1)) if r["distance"] == 120]
    rows = tabulated(made)
    assert not [r for r in rows if r["metric"] in ("reach", "reach_ratio")]
    assert [r["distance"] for r in rows if r["metric"] == "longer"] == [120]


def test_the_primary_distance_comes_first() -> None:
    first, second = full().parts[:2]
    assert [first.detector, second.detector] == ["hr-mini-short", "hr-mini-long"]
    assert first.cells == second.cells == ((9, 120, 40),)


@pytest.mark.parametrize("narrow", [False, True])
def test_the_figure_has_a_line_for_each_detector_in_pixels_and_in_fields(narrow: bool) -> None:
    rows = tabulated(records({"hr-mini-short": 0.15, "hr-mini-even": 0.1, "hr-mini-long": 0.05}))
    pixels, fields = reach_figure({"rows": rows}, narrow=narrow).axes
    for axis, more, unit in ((pixels, 0, 1), (fields, 40, 110)):
        lines = [container.lines[0] for container in axis.containers]
        assert [line.get_xdata().tolist() for line in lines] == [[(d + more) / unit for d in sorted(DISTANCES)]] * 3
        assert [line.get_ydata()[1] for line in lines] == pytest.approx([0.05, 0.1, 0.15])


@pytest.mark.parametrize(("place", "name"), [(1, "short"), (2, "even"), (3, "long")])
def test_the_card_says_what_the_weights_and_their_curves_say(place: int, name: str) -> None:
    detector = load_detector(f"hr-mini-{name}")
    assert isinstance(detector, HRMini)
    card = (DATA / "weights" / "hr_mini_reach.md").read_text(encoding="utf8")
    told = {line.split("|")[1].strip(): line.split("|")[place + 1].strip() for line in card.splitlines() if "|" in line}
    *_, last = csv.DictReader((ROOT / "results" / "full" / f"hr_mini_{name}_training.csv").open(newline=""))
    assert last["step"] == "1000"
    assert told["held-out AP, one scale"] == last["held_out_ap"]
    assert told["held-out recall at probability 0.5"] == last["held_out_recall"]
    assert told["sha256, its beginning"] == f"`{detector.weights_sha256[:16]}`"
    assert told["theoretical receptive field"] == f"{detector.net.receptive_field()} px"
    assert ", ".join(map(str, detector.net.dilations)) in told["dilations at stride 16, taken in turn"]
