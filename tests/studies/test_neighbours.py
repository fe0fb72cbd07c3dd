"""Interference by distance: alone against all, photographs by their neighbours, success at equal visibility."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from lipcore.boxes import nearest_gaps
from lipcore.errors import UnknownName
from lipcore.known_fields import shipped_side
from lipcore.metrics.paired import coefficient
from lipcore.results import read_results
from lipcore.studies.base.stored_detections import pack
from lipcore.studies.benchmarks.attack_tables import Shot
from lipcore.studies.better_lip import figures as better_lip
from lipcore.studies.neighbours import figures as neighbours_figures
from lipcore.studies.neighbours import study as neighbours
from lipcore.studies.neighbours.bins import BINS, name_of, within
from lipcore.studies.visibility import study as visibility
from lipcore.studies.visibility.figures import visibility_figure
from lipcore.studies.within_image import figures as within_figures
from lipcore.studies.within_image import study as within_image
from lipcore.studies.within_image.table import chosen_alone, coefficients
from lipcore.studies.within_photo import study as within_photo


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


class TestGaps:
    def test_by_hand(self) -> None:
        boxes = torch.tensor([[0.0, 0, 10, 10], [13.0, 0, 20, 10], [0.0, 50, 10, 60], [14.0, 55, 20, 70]])
        assert nearest_gaps(boxes).tolist() == [3, 3, 4, 4]  # the third and fourth are 4 px apart along x, 0 along y

    def test_touching_overlapping_and_alone(self) -> None:
        boxes = torch.tensor([[0.0, 0, 10, 10], [5.0, 5, 15, 15], [15.0, 0, 20, 5]])
        assert nearest_gaps(boxes).tolist() == [0, 0, 0]
        assert nearest_gaps(boxes[:1]).tolist() == [math.inf]
        assert nearest_gaps(boxes[:0]).tolist() == []

    def test_on_a_grid_it_is_the_distance_between_patches(self) -> None:
        boxes = torch.tensor([[x, y, x + 40, y + 40] for x in (0.0, 80, 160) for y in (0.0, 80, 160)])
        assert nearest_gaps(boxes).tolist() == [40] * 9


class TestBins:
    @pytest.mark.parametrize("gap", [0.0, 0.4, 5.0, 15.0, 39.9, 40.0, 1e9, None])
    def test_every_face_is_in_exactly_one(self, gap: float | None) -> None:
        assert sum(within(gap, bounds, 100.0) for bounds in BINS) == 1

    def test_a_face_without_neighbour_is_in_the_last(self) -> None:
        assert [within(None, bounds, 100.0) for bounds in BINS] == [False] * (len(BINS) - 1) + [True]
        assert within(None, (None, None), 100.0)
        assert name_of(*BINS[-1]).startswith("from")

    def test_the_side_is_the_shipped_one(self) -> None:
        assert shipped_side("hr-mini") == 138
        with pytest.raises(UnknownName, match="centerface"):
            shipped_side("centreface")


def alone(chosen: list[int], drops: list[float], after: str, **more: Any) -> dict[str, Any]:
    return {"chosen": chosen, "drops": drops, "before": "1" * len(chosen), "after": after, **more}


def joint(drops: list[float | None], after: str) -> dict[str, Any]:
    before = "".join("0" if d is None else "1" for d in drops)
    return {"drops": drops, "before": before, "after": after}


class TestCoefficients:
    """1 - mean drop among all / mean drop alone, on the faces attacked both ways."""

    def cell(self, images: int = 5) -> dict[str, dict[int, dict[str, Any]]]:
        return {
            "alone": {i: alone([0, 2], [4.0, 6.0], "00") for i in range(images)},
            "imp-i": {i: joint([3.0, 99.0, 6.0], "101") for i in range(images + 1)},
        }

    def test_by_hand(self) -> None:
        rows = {r["metric"]: r for r in coefficients(self.cell())}
        assert rows["interference"]["value"] == pytest.approx(1 - 4.5 / 5)
        assert rows["asr_lost"]["value"] == pytest.approx(1.0)
        assert (rows["interference"]["n"], rows["interference"]["n_faces"]) == (5, 10)

    def test_of_some_faces(self) -> None:
        rows = {r["metric"]: r for r in coefficients(self.cell(), lambda record, k: record["chosen"][k] == 2)}
        assert rows["interference"]["value"] == 0
        assert rows["interference"]["n_faces"] == 5

    def test_nothing_to_lose_is_undefined(self) -> None:
        cell = self.cell()
        for record in cell["alone"].values():
            record["drops"] = [0.05, 0.05]
        rows = {r["metric"]: r for r in coefficients(cell)}
        assert rows["interference"]["value"] is None
        assert rows["asr_lost"]["value"] == pytest.approx(1.0)

    def test_one_image_has_no_interval(self) -> None:
        (first, _) = coefficients(self.cell(1))
        assert (first["value"], first["n"]) == (None, 1)

    def test_people_are_told_apart(self) -> None:
        cell = {
            "alone": {i: alone([0], [4.0], "0", people=[7]) for i in range(3)},
            "imp-i": {i: joint([2.0], "0") for i in range(3)},
        }
        a, b = chosen_alone(cell["alone"], cell["imp-i"], True)
        assert (a.top[:, 7].tolist(), b.top.sum()) == ([4.0] * 3, 6.0)

    def test_the_statistic(self) -> None:
        assert float(coefficient(torch.tensor([3.0, 4.0]).double().numpy())) == pytest.approx(0.25)


class TestWithinPhotograph:
    def test_bins_part_the_faces(self) -> None:
        by = {
            "alone": {i: alone([0, 1], [4.0, 4.0], "00", gaps=[0.0, None]) for i in range(4)},
            **{name: {i: joint([2.0, 4.0], "10") for i in range(4)} for name in ("imp-i", "lip-a")},
        }
        rows = list(within_photo.by_distance(by, 100.0))
        imp_i = {r["bin"]: r for r in rows if (r["perturbation"], r["metric"]) == ("imp-i", "interference")}
        assert imp_i["all"]["value"] == pytest.approx(0.25)
        assert imp_i[name_of(*BINS[0])]["value"] == pytest.approx(0.5)
        assert imp_i[name_of(*BINS[-1])]["value"] == 0
        assert imp_i[name_of(*BINS[1])]["value"] is None
        shared = {"detector": "centerface", "epsilon": 1.0}
        figure = neighbours_figures.coefficient_figure(pd.DataFrame([shared | r for r in rows]))
        assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == neighbours_figures.NAMES

    def test_each_detector_at_one_strength(self) -> None:
        assert {p.detector for p in within_photo.full().parts} == {"centerface", "hr-mini", "retinaface"}


def shot(image: str, after: list[float | None], gap: float) -> Shot:
    """Three faces, the first two ``gap`` px apart, the third with no neighbour near; a false alarm below 0.5."""
    boxes = [[0, 0, 10, 10], [10 + gap, 0, 20 + gap, 10], [500, 500, 510, 510]]
    table = [[*b, 2.0 - i, i] for i, b in enumerate(boxes)] + [[515, 500, 520, 510, -1.0, -1]]
    clean = {"image": image, "detections": pack(table), "faces": [2.0, 1.0, 0.0],
             "truth": {"heights": [10.0] * 3, "kept": {"hard": "111"}}}  # fmt: skip
    return Shot({"image": image, "faces": after}, clean)


class TestNeighbours:
    def test_gaps_of_the_faces_found(self) -> None:
        assert neighbours.face_gaps(shot("a", [None] * 3, 5)).tolist() == [5, 5, 490]

    def test_success_by_distance(self) -> None:
        images = [shot("a", [None, 2.0, None], 4), shot("b", [None, None, 2.0], 20)]
        near = neighbours.lost(images, (0.0, 0.1), 100.0, "hard")
        assert (near.top.sum(), near.bottom.sum()) == (1, 2)
        middle = neighbours.lost(images, (0.1, 0.5), 100.0, "hard")
        assert (middle.top.sum(), middle.bottom.sum()) == (2, 2)
        assert neighbours.lost(images, (None, None), 100.0, "hard").bottom.sum() == 6

    def test_shown(self) -> None:
        rows = [
            {"dataset": "crowds", "detector": "hr-mini", "epsilon": 2.0, "bin": b, "perturbation": p, "metric": "asr",
             "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 9, "n_faces": 20}
            for b in neighbours_figures.NAMES for p in neighbours.METHODS
        ]  # fmt: skip
        rows += [
            rows[0]
            | {"metric": "gain", "perturbation": "lip-a", "against": "imp-i", "value": -0.02, "identical": False}
        ]
        rows += [rows[-1] | {"bin": neighbours_figures.NAMES[1], "value": 0.0, "identical": True}]
        frame = pd.DataFrame(rows)
        assert len(neighbours_figures.success_figure(frame).axes[0].get_legend_handles_labels()[1]) == 4
        everywhere = frame.assign(dataset="WIDER FACE")
        ceiling = frame.assign(detector="tiny-yolo", value=1.0)
        several = pd.concat([frame, everywhere, frame.assign(detector="centerface"), ceiling])
        assert neighbours_figures.hidden_by_all(several) == ["tiny-yolo"]
        wide = neighbours_figures.success_figure(several).axes
        assert [a.get_title(loc="left") for a in wide] == [
            "HR-mini, crowds, epsilon 2", "HR-mini, WIDER FACE, epsilon 2", "CenterFace, crowds, epsilon 2", ""
        ]  # fmt: skip
        assert [bool(a.get_legend()) for a in wide] == [False, False, False, True]
        assert all(a.has_data() for a in neighbours_figures.success_figure(several, narrow=True).axes)
        (line,) = neighbours_figures.gain_table(frame).to_dict("records")
        assert (line["step"], line["detector"]) == ("LIP-A - IMP-I", "HR-mini")
        assert line[neighbours_figures.NAMES[0]].startswith("-2.0 <small>20 faces</small> <small>[+40.0, +60.0]")
        assert "the same <small>20 faces</small>" in line[neighbours_figures.NAMES[1]]


class TestVisibility:
    def curves(self) -> visibility.Curves:
        def seen(psnr: float | None) -> dict[str, float | None]:
            return {"psnr": psnr, "ssim": 0.9, "touched": 0.5}

        return {
            (2.0, "imp-i"): [("a", 1, 2, seen(40.0)), ("b", 0, 2, seen(42.0)), ("c", 2, 2, seen(44.0))],
            (4.0, "imp-i"): [("a", 2, 2, seen(36.0)), ("b", 2, 2, seen(38.0))],
            (2.0, "lip-a"): [("a", 1, 2, seen(46.0)), ("b", 1, 2, seen(48.0)), ("c", 2, 2, seen(None))],
            (4.0, "lip-a"): [("a", 1, 2, seen(43.0)), ("b", 2, 2, seen(45.0)), ("c", 2, 2, seen(45.0))],
        }

    def test_all_points_are_of_the_same_images(self) -> None:
        rows = list(visibility.points(self.curves(), {"dataset": "crowds, all", "detector": "hr-mini"}))
        assert [(r["perturbation"], r["epsilon"], r["value"], r["psnr"], r["n"]) for r in rows] == [
            ("imp-i", 2.0, 0.25, 41.0, 2),
            ("imp-i", 4.0, 1.0, 37.0, 2),
            ("lip-a", 2.0, 0.5, 47.0, 2),
            ("lip-a", 4.0, 0.75, 44.0, 2),
        ]
        many = pd.DataFrame(rows).assign(n=10)
        grids = many.assign(dataset="grids", psnr=many["psnr"] - 10)
        two = visibility_figure(pd.concat([many.assign(detector="centerface"), many, grids])).axes
        assert [a.get_title(loc="left").split(",")[0] for a in two] == ["HR-mini", "CenterFace", "HR-mini", ""]
        assert len({a.get_xlim() for a in two[:3]}) == 1
        assert visibility_figure(many).axes[0].xaxis_inverted()
        assert not visibility_figure(many, "touched").axes[0].xaxis_inverted()
        for nothing in (pd.DataFrame(rows), many.assign(value=0.95)):  # two images; all hidden
            assert not visibility_figure(nothing).axes[0].lines

    def test_scenes_count_faces(self) -> None:
        seen = {"psnr": 40.0, "ssim": 0.9, "touched": 0.5, "epsilon": 2.0}
        record = {"image": 3, "perturbation": "lip-a", "before": "1101", "after": "0111", **seen}
        made = visibility.of_scenes([record, record | {"perturbation": "lip-w"}])
        assert list(made) == [(2.0, "lip-a")]
        assert made[2.0, "lip-a"][0][:3] == (3, 1, 3)


class TestWhereItEnds:
    @pytest.fixture
    def rows(self) -> pd.DataFrame:
        def row(detector: str, distance: int, value: float, epsilon: float = 2.0, **more: Any) -> dict[str, Any]:
            bounds = {"value": value, "ci_low": value - 0.015, "ci_high": value + 0.015, "n": 30, "n_faces": 90}
            cell = {"detector": detector, "faces": 9, "distance": distance, "epsilon": epsilon}
            return cell | {"metric": "interference", "perturbation": "imp-i"} | bounds | more

        new = {"rows": [row("hr-mini", 40, 0.12, side=40), row("hr-mini", 160, 0.002, side=40)]}
        old = {"rows": [row("hr-mini", 80, 0.06), row("hr-mini", 80, 0.5, epsilon=4.0), row("pnet", 40, 0.0)]}
        return within_figures.coefficient_rows(new, {"hr-mini": 138.0, "pnet": 38.0}, old)

    def test_earlier_grids_stand_beside_at_the_same_strength_only(self, rows: pd.DataFrame) -> None:
        assert list(zip(rows["distance"], rows["new"], strict=True)) == [(40, True), (80, False), (160, True)]
        assert rows["sides"].tolist() == pytest.approx([40 / 138, 80 / 138, 160 / 138])

    def test_the_figure_has_a_mark_for_each_cell(self, rows: pd.DataFrame) -> None:
        figure = within_figures.where_it_ends(rows)
        marks = figure.axes[0].containers
        assert len(marks) == 3
        assert {mark.lines[0].get_marker() for mark in marks} == {"o"}
        weaker = within_figures.where_it_ends(rows.assign(epsilon=1.0))
        assert {mark.lines[0].get_marker() for mark in weaker.axes[0].containers} == {"^"}
        assert "epsilon 1" in [text.get_text() for text in weaker.legends[0].texts]
        assert "HR-mini" in figure.axes[0].get_title(loc="left")

    def test_what_is_not_measured_is_listed(self) -> None:
        config = within_image.full()
        none = within_figures.unmeasured(config, [])
        assert "64 faces of 40 px at 40 px" in none
        cells = [
            {"detector": p.detector, "faces": f, "distance": d, "side": s, "epsilon": e, "n": p.images, "metric": "asr",
             "perturbation": "imp-i"}
            for p in config.parts for e in p.epsilons for f, d, s in p.cells
        ]  # fmt: skip
        assert "Every cell" in within_figures.unmeasured(config, cells)
        cells[0]["n"] = 3
        assert "(3 of 30)" in within_figures.unmeasured(config, cells)


@pytest.mark.parametrize("name", ["neighbours", "visibility", "within_photo"])
def test_the_committed_tables(root: Any, name: str) -> None:
    """They are there, of real detectors, and no share is outside 0..1."""
    path = root / "results" / "full" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    rows = read_results(path)["rows"]
    assert rows
    for row in rows:
        if row["metric"] == "asr" and row["value"] is not None:
            bounds = [0.0, row["ci_low"], row["value"], row["ci_high"], 1.0]
            assert bounds == pytest.approx(sorted(bounds))


class TestDecision:
    """LIP-W and LIP-V become presets by a rule that was written before they were run."""

    def rows(self, **scenes: tuple[float, float]) -> list[dict[str, Any]]:
        names = {"equal": "equal faces", "unequal": "unequal faces, all nine", "crowds": "crowds"}
        return [
            {"step": f"{names[scene]}: LIP-W - LIP-A", "detector": d, "n": 30}
            | {"value": 0.0, "ci_low": low, "ci_high": high}
            for scene, (low, high) in scenes.items()
            for d in ("hr-mini", "all detectors")
        ]

    @pytest.mark.parametrize(
        ("scenes", "word"),
        [
            ({"equal": (-0.1, 0.1), "unequal": (0.01, 0.2), "crowds": (-0.1, 0.1)}, "preset"),
            ({"equal": (-0.1, -0.01), "unequal": (0.01, 0.2), "crowds": (-0.1, 0.1)}, "paragraph"),
            ({"equal": (-0.1, 0.1), "unequal": (0.0, 0.2), "crowds": (-0.1, 0.1)}, "paragraph"),
            ({"unequal": (0.01, 0.2)}, "not decided"),
            ({"unequal": (-0.2, -0.01)}, "paragraph"),
            ({}, "not decided"),
        ],
    )
    def test_by_the_rule(self, scenes: dict[str, tuple[float, float]], word: str) -> None:
        rows = self.rows(**scenes)
        assert better_lip.decision(better_lip.gains(rows, "lip-w", "lip-a")) == word
        table = better_lip.decision_table(rows)
        assert list(table["it becomes"]) == [word, "not decided", "not decided", "–", "–"]
        assert table["perturbation"].iloc[2] == "LIP-A on the L2 budget less LIP-A"
        assert table["perturbation"].iloc[-1] == "IMP-I on the L2 budget less LIP-A on the L2 budget"
        assert (table == "not measured").to_numpy().sum() == 15 - len(scenes)
