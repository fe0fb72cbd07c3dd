"""Average precision of predictions in files, and against the official tool's own curves."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from wider_cases import FACE, A, B, C, scored

from lipcore.datasets.wider import SUBSETS, ImageKey, load_ground_truth, write_wider
from lipcore.errors import DataError, UnknownName
from lipcore.metrics.wider import (
    average_precision,
    evaluate_subsets,
)
from lipcore.metrics.wider_files import evaluate, read_predictions, write_predictions


class TestFiles:
    def test_written_files_read_back_exactly(self, tmp_path: Path) -> None:
        predictions = {
            A: np.array([[1.1, 2, 3.3333333333333335, 4e-7, -12.345678901234567]]),
            C: np.zeros((0, 5)),
            ("2--D", "pig.v1.5"): scored((FACE, 1 / 3)),
        }
        write_predictions(tmp_path, predictions)
        assert (tmp_path / "0--A/a.txt").read_text().splitlines()[:2] == ["0--A/a.jpg", "1"]
        files = read_predictions(tmp_path, predictions)
        assert (files.missing, files.unlisted) == ((), ())
        for key, table in predictions.items():
            np.testing.assert_array_equal(files.predictions[key], table)

    def test_missing_and_unlisted_files_are_reported(self, tmp_path: Path) -> None:
        write_predictions(tmp_path, {A: scored((FACE, 1)), C: scored()})
        files = read_predictions(tmp_path, [A, B])
        assert list(files.predictions) == [A]
        assert files.missing == (B,)
        assert files.unlisted == ("1--C/c.txt",)
        with pytest.raises(DataError, match="no predictions of the listed images"):
            read_predictions(tmp_path, [B])
        with pytest.raises(DataError, match="no folder"):
            read_predictions(tmp_path / "nowhere", [B])

    def test_blank_lines_and_further_columns(self, tmp_path: Path) -> None:
        (tmp_path / "0--A").mkdir()
        (tmp_path / "0--A/a.txt").write_text("\ufeffwhatever\r\n\r\n 1 \r\n1 2 3 4 5e-1 7 7\r\n\r\n")
        assert read_predictions(tmp_path, [A]).predictions[A].tolist() == [[1, 2, 3, 4, 0.5]]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("a\n", "ends after its first line"),
            ("a\nx\n", "line 2: 'x' is no count of faces"),
            ("a\n1.0\n1 2 3 4 5\n", "line 2: '1.0' is no count of faces"),
            ("a\n1\n\n1 2 3 4\n", "line 4: '1 2 3 4' is no face .*x y w h score"),
            ("a\n4\n" + "1 2 3 4\n" * 5, "line 3: '1 2 3 4' is no face"),
            ("a\n1\n1,2,3,4,5\n", "line 3: '1,2,3,4,5' is no face"),
            ("a\n2\n1 2 3 4 5\n", "announces 2 faces, 1 follow"),
            ("a\n0\n1 2 3 4 5\n", "announces 0 faces, 1 follow"),
            ("a\n1\n1 2 3 4 nan\n", "NaN"),
        ],
    )
    def test_malformed_files_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "0--A").mkdir()
        (tmp_path / "0--A/a.txt").write_text(text)
        with pytest.raises(DataError, match=rf"a\.txt.*{message}"):
            read_predictions(tmp_path, [A])

    @pytest.mark.parametrize("key", [("..", "a"), ("0--A", "../../a"), ("", "a")])
    def test_names_that_leave_the_folder_are_refused(self, tmp_path: Path, key: ImageKey) -> None:
        with pytest.raises(DataError, match="cannot be a folder and a file"):
            write_predictions(tmp_path, {key: scored()})

    def test_rows_of_a_folder(self, tmp_path: Path) -> None:
        grey, faces = np.full((80, 80, 3), 127), [[5, 5, 25, 60], [40, 5, 60, 25]]
        write_wider(tmp_path / "gt", "val", [SimpleNamespace(name=n, image=grey, boxes=faces) for n in "abcd"])
        found = scored(((5, 5, 20, 55), 0.9), ((40, 5, 20, 20), 0.8), ((5, 62, 8, 8), 0.1))
        write_predictions(tmp_path / "det", {("0--Crowd", name): found for name in "abc"})
        rows = evaluate(tmp_path / "det", tmp_path / "gt", draws=100)
        assert [(row["subset"], row["metric"]) for row in rows] == [
            (s, m) for s in SUBSETS for m in ("ap", "ap_exact")
        ]  # fmt: skip
        assert [row["n"] for row in rows[::2]] == [4, 4, 8]
        assert all(row["value"] == 0.75 and row["ci_low"] <= 0.75 <= row["ci_high"] for row in rows)
        assert all(not row["partial"] and row["without_predictions"] == 1 for row in rows)
        rows = evaluate(tmp_path / "det", tmp_path / "gt/eval_tools/ground_truth", images="predicted", draws=0)
        assert all(row["value"] == 1 and row["ci_low"] is None and row["partial"] for row in rows)
        with pytest.raises(UnknownName, match="valid: all, predicted"):
            evaluate(tmp_path / "det", tmp_path / "gt", images="some")  # type: ignore[arg-type]


def official(root: Path, inside: str) -> Path:
    """A file or folder of the benchmark, where it is at hand."""
    path = Path(os.environ.get("LIPCORE_DATA") or root.parent / "shared" / "data") / "widerface" / inside
    if not path.exists():
        pytest.skip(f"WIDER FACE's {inside} is not at hand: LIPCORE_DATA names no folder with widerface/{inside}")
    return path


def published(path: Path) -> NDArray[np.float64]:
    """Precision and recall (2, 1000) of a published curve.

    The files are HDF5 with one compressed block; finding that block needs no HDF5 library.
    """
    raw = path.read_bytes()
    start = raw.find(b"\x78")
    while start >= 0:
        try:
            block = zlib.decompressobj().decompress(raw[start:])
        except zlib.error:
            block = b""
        if len(block) == 2 * 1000 * 8:
            return np.frombuffer(block, dtype="<f8").reshape(2, 1000)
        start = raw.find(b"\x78", start + 1)
    raise AssertionError(f"no curve in {path.name}")


class TestOfficial:
    """On the benchmark itself, where it is at hand."""

    @pytest.mark.parametrize(
        ("name", "subset", "ap"),
        [
            ("HR", "easy", 0.9257),
            ("HR", "medium", 0.9105),
            ("HR", "hard", 0.8060),
            ("hr_res101", "easy", 0.9302),
            ("hr_res101", "medium", 0.9157),
            ("hr_res101", "hard", 0.8303),
        ],
    )
    def test_published_curves(self, root: Path, name: str, subset: str, ap: float) -> None:
        precision, recall = published(official(root, f"published_curves/{name}/wider_pr_info_{name}_{subset}_val.mat"))
        assert round(average_precision(recall, precision), 4) == ap

    def test_the_whole_set_takes_seconds(self, root: Path) -> None:
        """Boxes near all 39,708 and 100 others in each of the 3,226 images, on all subsets."""
        ground_truth = load_ground_truth(official(root, "eval_tools/ground_truth"))
        assert ground_truth.whole
        generator = np.random.default_rng(0)
        predictions = {}
        for key, faces in ground_truth.boxes.items():
            others = np.column_stack((generator.uniform(0, 900, (100, 2)), generator.uniform(5, 99, (100, 2))))
            table = np.vstack((np.hstack((faces[:, :2], faces[:, 2:] - faces[:, :2])), others))
            score = np.concatenate((generator.beta(4, 2, len(faces)), generator.beta(2, 4, 100)))
            predictions[key] = np.column_stack((table, score))
        start = time.perf_counter()
        results = evaluate_subsets(predictions, ground_truth)
        seconds = time.perf_counter() - start
        assert seconds < 60
        assert [results[subset].n_faces for subset in SUBSETS] == [7211, 13319, 31958]
        for result in results.values():
            assert result.recall[-1] > 0.999, "boxes that annotators drew twice hide one of the two"
            assert result.ap == pytest.approx(result.ap_exact, abs=0.002)
            assert not result.partial
