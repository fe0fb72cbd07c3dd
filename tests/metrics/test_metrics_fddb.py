"""FDDB's curves: regions, one-to-one matching, both curves worked by hand, the text formats."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lipcore.datasets.fddb import FddbImage, load_fddb
from lipcore.errors import DataError, OptionError, UnknownName
from lipcore.metrics import fddb
from lipcore.metrics.fddb import (
    KINDS,
    ellipse_mask,
    evaluate,
    evaluate_fddb,
    read_predictions,
    region_ious,
    write_predictions,
    write_roc,
)

SIZE = (120, 160)
ROUND, FAR = (15, 15, 0, 40, 40), (15, 15, 0, 110, 80)  # two circles of 31 pixels across


def image(name: str, *ellipses: tuple[float, ...], fold: int = 1) -> FddbImage:
    return FddbImage(fold, name, Path(f"{name}.jpg"), SIZE, np.array(ellipses, dtype=float).reshape(-1, 5))


def ellipses(*rows: tuple[tuple[float, ...], float]) -> NDArray[np.float64]:
    return np.array([(*ellipse, score) for ellipse, score in rows], dtype=float).reshape(-1, 6)


def rectangle_mask(x: float, y: float, w: float, h: float) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=bool)
    for row, column in itertools.product(range(SIZE[0]), range(SIZE[1])):
        mask[row, column] = round(x) <= column <= round(x + w) and round(y) <= row <= round(y + h)
    return mask


class TestRegions:
    def test_an_ellipse_has_its_area_and_its_direction(self) -> None:
        mask = ellipse_mask((40, 20, 0, 80, 60), SIZE)
        assert mask.sum() == pytest.approx(math.pi * 40.5 * 20.5, rel=0.01)
        assert mask[60, 40]
        assert not mask[60, 39]
        assert mask[40, 80]
        steep = ellipse_mask((40, 20, math.pi / 4, 80, 60), SIZE)
        assert steep[60 + 25, 80 + 25], "the angle turns from the x axis towards y, which points down"
        assert not steep[60 - 25, 80 + 25]

    def test_whole_pixels_and_degrees(self) -> None:
        exact = ellipse_mask((20, 10, math.radians(30), 40, 50), SIZE)
        np.testing.assert_array_equal(ellipse_mask((20.9, 10.9, math.radians(30.4), 40.4, 49.6), SIZE), exact)

    def test_what_lies_outside_is_cut_off(self) -> None:
        assert ellipse_mask((20, 20, 0, 0, 60), SIZE).sum() < ellipse_mask((20, 20, 0, 80, 60), SIZE).sum() * 0.53
        ious = region_ious(
            np.array([[20, 20, 0, 0, 60.0]]), np.array([[-500, -500, 1000, 1000.0], [0, 0, 159, 119]]), SIZE
        )
        assert ious[0, 0] == ious[0, 1] > 0

    @given(st.tuples(st.floats(-20, 150), st.floats(-20, 110), st.floats(0, 80), st.floats(0, 80)))
    def test_rectangles_are_counted_pixel_by_pixel(self, box: tuple[float, float, float, float]) -> None:
        face, found = ellipse_mask((30, 20, 0.7, 70, 60), SIZE), rectangle_mask(*box)
        expected = (face & found).sum() / (face | found).sum()
        assert region_ious(np.array([[30, 20, 0.7, 70, 60]]), np.array([box]), SIZE)[0, 0] == pytest.approx(expected)

    def test_detected_ellipses(self) -> None:
        ious = region_ious(
            np.array([ROUND, FAR], dtype=float), np.array([ROUND, FAR, (15, 15, 0, 55, 40)], dtype=float), SIZE
        )
        np.testing.assert_array_equal(ious[:, :2], np.eye(2))
        lens = 2 * math.pi / 3 - math.sqrt(3) / 2  # two circles of radius 1 at distance 1
        assert ious[0, 2] == pytest.approx(lens / (2 * math.pi - lens), abs=0.02)
        assert ious[1, 2] == 0


class TestMatching:
    def test_the_sum_decides_not_the_best_pair(self) -> None:
        """Greedy would take 0.60 and leave the second face without a match."""
        events = fddb._image_events(np.array([[0.60, 0.58], [0.55, 0.0]]), np.array([0.9, 0.8]))
        np.testing.assert_allclose(events, [[0.9, 1, 0.60, 0], [0.8, 1, 0.58 + 0.55 - 0.60, 0]])

    def test_half_is_not_enough(self) -> None:
        events = fddb._image_events(np.array([[0.5]]), np.array([0.9]))
        np.testing.assert_allclose(events, [[0.9, 0, 0.5, 1]])

    def test_one_face_one_match(self) -> None:
        events = fddb._image_events(np.array([[0.7, 0.9]]), np.array([0.8, 0.3]))
        np.testing.assert_allclose(events, [[0.8, 1, 0.7, 0], [0.3, 0, 0.2, 1]])

    @given(
        st.integers(1, 3).flatmap(
            lambda n: st.lists(
                st.lists(st.sampled_from([0.0, 0.2, 0.45, 0.5, 0.55, 0.8, 1.0]), min_size=n, max_size=n),
                min_size=1,
                max_size=3,
            )
        ),
        st.data(),
    )
    def test_as_trying_every_assignment(self, table: list[list[float]], data: st.DataObject) -> None:
        ious = np.array(table)
        n_faces, n_found = ious.shape
        scores = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=n_found, max_size=n_found)))
        events = fddb._image_events(ious, scores)
        for level, (_, _, total, _), counts in zip(
            events[:, 0], events.cumsum(axis=0), events[:, 1:].cumsum(axis=0), strict=True
        ):
            chosen = np.flatnonzero(scores >= level)
            slots = list(range(n_faces)) + [None] * len(chosen)
            best = max(
                sum(ious[face, j] for face, j in zip(faces, chosen, strict=True) if face is not None)
                for faces in itertools.permutations(slots, len(chosen))
            )
            assert total == pytest.approx(best)
            assert counts[0] + counts[2] == len(chosen)


class TestCurves:
    def test_worked_by_hand(self) -> None:
        """Three faces on two images; a hit, then two false positives of one score, then a hit elsewhere."""
        images = [image("a", ROUND, FAR), image("b", ROUND)]
        away = (8, 8, 0, 140, 20)
        predictions = {
            "a": ellipses((ROUND, 0.9), (away, 0.5)),
            "b": ellipses((away, 0.5), (ROUND, 0.2)),
        }
        result = evaluate_fddb(predictions, images)
        assert result.thresholds.tolist() == [0.9, 0.5, 0.2]
        assert result.false_positives.tolist() == [0, 2, 2]
        np.testing.assert_allclose(result.discrete, [1 / 3, 1 / 3, 2 / 3])
        np.testing.assert_allclose(result.continuous, result.discrete)
        assert (result.n_faces, result.n_images) == (3, 2)
        assert result.rate_at(1) == pytest.approx(1 / 3)
        assert result.rate_at(2) == pytest.approx(2 / 3)
        assert result.rate_at(-1) == 0

    def test_the_continuous_curve_counts_ious_and_has_the_same_false_positives(self) -> None:
        shifted = (15, 15, 0, 45, 40)
        iou = region_ious(np.array([ROUND], dtype=float), np.array([shifted], dtype=float), SIZE)[0, 0]
        result = evaluate_fddb({"a": ellipses((shifted, 0.9))}, [image("a", ROUND)])
        assert 0.5 < iou < 1
        assert (result.rate_at(0), result.rate_at(0, "continuous")) == (1, pytest.approx(iou))
        weak = (15, 15, 0, 55, 40)
        result = evaluate_fddb({"a": ellipses((weak, 0.9))}, [image("a", ROUND)])
        assert result.false_positives.tolist() == [1]
        assert (result.rate_at(1), result.rate_at(0, "continuous")) == (0, 0)
        assert 0.2 < result.rate_at(1, "continuous") < 0.3

    def test_images_without_predictions_or_faces(self) -> None:
        result = evaluate_fddb({"b": ellipses((ROUND, 0.9))}, [image("a", ROUND), image("b")])
        assert result.rate_at(10) == 0
        assert result.false_positives.tolist() == [1]
        assert result.n_faces == 1
        nothing = evaluate_fddb({}, [image("a", ROUND)])
        assert (nothing.rate_at(10), len(nothing.thresholds)) == (0, 0)

    def test_rectangles(self) -> None:
        result = evaluate_fddb({"a": np.array([[25, 25, 30, 30, 0.9]])}, [image("a", ROUND)])
        assert result.rate_at(0, "continuous") == pytest.approx(math.pi / 4, abs=0.03), "a circle in its square"

    def test_refused(self) -> None:
        with pytest.raises(DataError, match="a hold NaN"):
            evaluate_fddb({"a": ellipses((ROUND, np.nan))}, [image("a", ROUND)])
        with pytest.raises(DataError, match=r"\(1, 4\)"):
            evaluate_fddb({"a": [[1, 2, 3, 4]]}, [image("a", ROUND)])
        with pytest.raises(DataError, match="for z"):
            evaluate_fddb({"z": ellipses()}, [image("a", ROUND)])
        absent = FddbImage(1, "a", Path("a.jpg"), (0, 0), np.array([ROUND], dtype=float))
        with pytest.raises(DataError, match="its file is absent"):
            evaluate_fddb({"a": ellipses((ROUND, 0.9))}, [absent])
        with pytest.raises(UnknownName, match="'discrete'"):
            evaluate_fddb({}, [image("a", ROUND)]).rate_at(1, "discreet")  # type: ignore[arg-type]

    def test_a_draw_is_an_evaluation_of_the_drawn_images(self) -> None:
        images = [image("a", ROUND, FAR), image("b", ROUND), image("c", FAR)]
        away = (8, 8, 0, 140, 20)
        predictions = {
            "a": ellipses((ROUND, 0.9), (away, 0.5)),
            "b": ellipses((away, 0.6), (ROUND, 0.2)),
            "c": ellipses((FAR, 0.4)),
        }
        result = evaluate_fddb(predictions, images)
        twice = [images[0], image("b2", ROUND), images[1]]
        replica = evaluate_fddb({"a": predictions["a"], "b": predictions["b"], "b2": predictions["b"]}, twice)
        for kind in KINDS:
            for limit in (0, 1, 2, 3):
                ones, drawn = result.resampled([[1, 1, 1], [1, 2, 0]], limit, kind)
                assert ones == pytest.approx(result.rate_at(limit, kind))
                assert drawn == pytest.approx(replica.rate_at(limit, kind))
        assert np.isnan(evaluate_fddb({}, [image("a")]).resampled([[1]], 0)).all()
        with pytest.raises(ValueError, match="weights have shape"):
            result.resampled([[1, 1]], 0)


class TestFiles:
    def test_written_files_read_back_exactly(self, tmp_path: Path) -> None:
        images = [image("2002/a", ROUND), image("2002/b", ROUND, fold=2), image("2002/c", fold=2)]
        predictions = {"2002/a": np.array([[1.1, -2, 3 + 1 / 3, 4, -12.5]]), "2002/b": np.ones((2, 5))}
        write_predictions(tmp_path, images, predictions)
        assert (tmp_path / "fold-02-out.txt").read_text().splitlines()[:2] == ["2002/b", "2"]
        found = read_predictions(tmp_path)
        assert list(found) == ["2002/a", "2002/b", "2002/c"], "every image has its entry"
        np.testing.assert_array_equal(found["2002/a"], predictions["2002/a"])
        assert found["2002/c"].shape == (0, 5)
        write_predictions(tmp_path / "ell", images, {"2002/a": ellipses((ROUND, 0.5))})
        assert read_predictions(tmp_path / "ell" / "fold-01-out.txt", "ellipse")["2002/a"].shape == (1, 6)

    def test_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"fold-01-out\.txt"):
            read_predictions(tmp_path)
        with pytest.raises(UnknownName, match="'ellipse'"):
            read_predictions(tmp_path, "elipse")  # type: ignore[arg-type]
        (tmp_path / "fold-01-out.txt").write_text("a\n1\n1 2 3 4 0.5\n")
        with pytest.raises(DataError, match="valid: 6"):
            read_predictions(tmp_path, "ellipse")
        (tmp_path / "fold-02-out.txt").write_text("a\n0\n")
        with pytest.raises(DataError, match="in another file too"):
            read_predictions(tmp_path)

    def test_curves_as_text(self, tmp_path: Path) -> None:
        result = evaluate_fddb({"a": ellipses((ROUND, 0.9), ((8, 8, 0, 140, 20), 0.5))}, [image("a", ROUND)])
        discrete, continuous = write_roc(tmp_path / "x", result)
        assert discrete.name == "xDiscROC.txt"
        assert discrete.read_text() == "1.0 1 0.5\n1.0 0 0.9\n"
        assert continuous.read_text() == "1.0 1\n1.0 0\n"

    @pytest.fixture
    def places(self, tmp_path: Path) -> tuple[Path, Path, list[str]]:
        """A set of three images with a face each, a file of detections, and the images' names."""
        names = [f"2002/01/0{i}/big/img_{i}" for i in (1, 2, 3)]
        (tmp_path / "gt/FDDB-folds").mkdir(parents=True)
        entries = "".join(f"{name}\n1\n15 15 0 40 40 1\n" for name in names)
        (tmp_path / "gt/FDDB-folds/FDDB-fold-01-ellipseList.txt").write_text(entries)
        for name in names:
            path = tmp_path / f"gt/originalPics/{name}.jpg"
            path.parent.mkdir(parents=True)
            Image.new("RGB", SIZE[::-1]).save(path)
        return tmp_path / "found.txt", tmp_path / "gt", names

    @pytest.mark.parametrize(
        "named", ["{}", "{}.jpg", "{}.JPG", "originalPics/{}", "/data/FDDB/{}.jpeg", "data\\{}", "./{}"]
    )
    def test_endings_and_leading_folders_are_taken_off(self, places: tuple[Path, Path, list[str]], named: str) -> None:
        found, gt, names = places
        found.write_text("".join(f"{named.format(name)}\n1\n25 25 30 30 0.9\n" for name in names))
        discrete, _ = evaluate(found, gt, draws=0)
        assert (discrete["value"], discrete["without_predictions"], discrete["without_image"]) == (1, 0, 0)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"found\.txt is empty"),
            (
                "2002_01_01_big_img_1\n1\n25 25 30 30 0.9\n",
                "no predictions of the 3 images .*like 2002/01/01/big",
            ),
            ("# 2002/01/01/big/img_1\n0\n", "holds no predictions of the 3 images"),
            ("2002/01/01/big/img_1\n0\n2002/01/01/big/img_1.jpg\n0\n", r"img_1\.jpg' is there twice, as 2002/"),
            ("2002/01/01/big/img_1 1 2 3 4 5\n" * 2, "the entry of '2002/01/01/big/img_1 1 2 3 4 5' is malformed"),
        ],
    )
    def test_names_that_match_nothing_are_no_result(
        self, places: tuple[Path, Path, list[str]], text: str, message: str
    ) -> None:
        places[0].write_text(text)
        with pytest.raises(DataError, match=message):
            evaluate(*places[:2], draws=0)

    def test_text_that_is_not_utf8(self, places: tuple[Path, Path, list[str]]) -> None:
        places[0].write_bytes("é\n0\n".encode("latin1"))
        with pytest.raises(DataError, match=r"found\.txt is not UTF-8 text: .* at byte 0; save it as UTF-8"):
            evaluate(*places[:2], draws=0)

    @pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
    def test_false_positives_that_cannot_be(self, places: tuple[Path, Path, list[str]], limit: float) -> None:
        with pytest.raises(OptionError, match="valid is a number from 0 on"):
            evaluate(*places[:2], false_positives=[limit], draws=0)

    @pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
    @pytest.mark.filterwarnings("error")
    def test_as_large_as_a_float_can_be(self, places: tuple[Path, Path, list[str]], shape: str) -> None:
        found, gt, names = places
        row = "-1e308 -1e308 1e308 1e308" if shape == "rectangle" else "1e308 1e308 1e308 1e308 -1e308"
        found.write_text("".join(f"{name}\n1\n{row} 0.9\n" for name in names))
        discrete, _ = evaluate(found, gt, shape=shape, draws=0)  # type: ignore[arg-type]
        assert discrete["value"] == 0

    def test_rows_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "gt/FDDB-folds").mkdir(parents=True)
        (tmp_path / "gt/originalPics/2002").mkdir(parents=True)
        names = [f"2002/i{i}" for i in range(4)]
        entries = "".join(f"{name}\n1\n15 15 0 40 40 1\n" for name in names)
        (tmp_path / "gt/FDDB-folds/FDDB-fold-01-ellipseList.txt").write_text(entries)
        for name in names[:3]:
            Image.new("RGB", SIZE[::-1]).save(tmp_path / f"gt/originalPics/{name}.jpg")
        found = "".join(f"{name}\n1\n15 15 0 40 40 0.9\n" for name in names[1:])
        (tmp_path / "found.txt").write_text(found)
        discrete, continuous = evaluate(tmp_path / "found.txt", tmp_path / "gt", shape="ellipse", draws=200)
        assert (discrete["metric"], continuous["metric"]) == KINDS
        assert discrete["value"] == pytest.approx(2 / 3)
        assert discrete["ci_low"] < 2 / 3 < discrete["ci_high"]
        assert discrete["false_positives"] == pytest.approx(1000 * 3 / 2845)
        assert (discrete["n"], discrete["n_images"], discrete["n_listed"], discrete["partial"]) == (3, 3, 4, True)
        assert (discrete["without_predictions"], discrete["without_image"]) == (1, 1)


def test_official_annotations_find_themselves(root: Path) -> None:
    folder = Path(os.environ.get("LIPCORE_DATA") or root.parent / "shared" / "data") / "fddb"
    if not folder.is_dir():
        pytest.skip("FDDB is not at hand: LIPCORE_DATA names no folder with fddb/")
    data = load_fddb(folder)[:60]
    perfect = {image.name: np.column_stack((image.ellipses, np.ones(len(image)))) for image in data}
    result = evaluate_fddb(perfect, data)
    assert [result.rate_at(0, kind) for kind in KINDS] == [1, pytest.approx(1)]
    boxed = {}
    for picture in data:
        sides = picture.boxes[:, 2:] - picture.boxes[:, :2]
        boxed[picture.name] = np.column_stack((picture.boxes[:, :2], sides, np.ones(len(picture))))
    result = evaluate_fddb(boxed, data)
    assert result.rate_at(0) == 1, "an upright rectangle around an ellipse overlaps it by more than half"
    assert 0.65 < result.rate_at(0, "continuous") < 0.85
