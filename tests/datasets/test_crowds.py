"""The crowds that may be shown: whole, with a source each, read and scored like WIDER FACE."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lipcore.datasets.crowds import FOLDER, SCALES, load_crowd, load_crowds
from lipcore.datasets.locations import check, find_dataset
from lipcore.errors import DataError, UnknownName
from lipcore.studies.benchmarks.images import fit, load_items, truth

STADIUM = "000000203931"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A folder of two photographs: one read as it is, and the stadium."""
    (tmp_path / "images").mkdir()
    lines = (FOLDER / "annotations.jsonl").read_text().splitlines()
    names = ("000000462371.jpg", f"{STADIUM}.jpg")
    for name in names:
        shutil.copyfile(FOLDER / "images" / name, tmp_path / "images" / name)
    kept = [line for line in lines if json.loads(line)["file"] in names]
    (tmp_path / "annotations.jsonl").write_text("\n".join(kept) + "\n")
    shutil.copyfile(FOLDER / "sources.csv", tmp_path / "sources.csv")
    return tmp_path


def test_all_are_there_with_their_faces_inside_and_a_source_each() -> None:
    photos = load_crowds()
    assert (len(photos), sum(map(len, photos)), sum(len(p.boxes) for p in photos)) == (24, 436, 537)
    with (FOLDER / "sources.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {p.path.name for p in photos} == {p.name for p in FOLDER.glob("images/*")}
    for photo in photos:
        height, width = photo.size
        assert photo.read().shape == (height, width, 3)
        assert (photo.boxes[:, 2:] > photo.boxes[:, :2]).all()
        assert (photo.boxes[:, :2] >= -0.05 * width).all()
        assert (photo.boxes[:, 2:] <= [1.05 * width, 1.05 * height]).all()
        assert photo.licence == "CC BY 2.0"
        assert photo.source in {row["source"] for row in rows}
        assert "CC BY 2.0" in photo.attribution
        assert str(int(photo.name)) in photo.attribution


def test_the_stadium_is_read_at_twice_its_size_boxes_included(part: Path) -> None:
    photo = load_crowd(STADIUM, part)
    line = next(
        entry
        for entry in map(json.loads, (part / "annotations.jsonl").read_text().splitlines())
        if entry["file"] == f"{STADIUM}.jpg"
    )
    assert SCALES[STADIUM] == photo.scale == 2
    assert photo.size == (2 * line["height"], 2 * line["width"])
    x, y, width, height = line["boxes_xywh"][0]
    assert photo.boxes[0] == pytest.approx([2 * x, 2 * y, 2 * (x + width), 2 * (y + height)])
    assert len(photo) == 223


def test_an_item_counts_what_is_not_ignored_and_fits_boxes_as_wider_face_does() -> None:
    items = load_items("crowds")
    assert len(items) == 24
    item = items["000000462371"]
    photo = load_crowd("000000462371")
    assert item.kept["all"].tolist() == photo.counted.tolist()
    found = np.column_stack((photo.boxes, np.arange(len(photo.boxes), dtype=float)))
    fitted = fit(item, found)
    assert fitted.best.tolist() == list(range(len(photo.boxes)))
    assert fitted.faces == found[:, 4].tolist()
    kept = truth(item)
    assert kept["kept"]["all"].count("1") == len(photo)
    assert len(kept["heights"]) == len(photo.boxes)


def test_it_is_at_hand_without_being_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIPCORE_DATA", raising=False)
    assert find_dataset("crowds") == FOLDER
    (found,) = check("crowds")
    assert found.status == "complete"
    assert found.entry.faces == sum(len(p.boxes) for p in load_crowds())
    assert "24 images" in str(found)


class TestWhatIsWrongIsTold:
    def test_an_unknown_name(self) -> None:
        with pytest.raises(UnknownName, match=STADIUM):
            load_crowd("203931")

    def test_a_folder_without_lists(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"annotations\.jsonl"):
            load_crowds(tmp_path)

    def test_a_photograph_that_is_not_there(self, part: Path) -> None:
        (part / "images" / f"{STADIUM}.jpg").unlink()
        with pytest.raises(DataError, match=STADIUM):
            load_crowds(part)

    def test_a_photograph_without_a_source(self, part: Path) -> None:
        (part / "sources.csv").write_text("file,source,licence,licence_url\n")
        with pytest.raises(DataError, match="may not be shown"):
            load_crowds(part)

    def test_a_photograph_of_another_size(self, part: Path) -> None:
        shutil.copyfile(part / "images" / "000000462371.jpg", part / "images" / f"{STADIUM}.jpg")
        with pytest.raises(DataError, match="not as its annotation says"):
            load_crowd(STADIUM, part).read()

    @pytest.mark.parametrize("line", ["{", '{"file": "000000462371.jpg"}', "[]"])
    def test_a_damaged_line(self, part: Path, line: str) -> None:
        (part / "annotations.jsonl").write_text(line + "\n")
        with pytest.raises(DataError, match="line 1"):
            load_crowds(part)

    def test_marks_that_do_not_fit(self, part: Path) -> None:
        entry = json.loads((part / "annotations.jsonl").read_text().splitlines()[0]) | {"ignore": [0]}
        (part / "annotations.jsonl").write_text(json.dumps(entry) + "\n")
        with pytest.raises(DataError, match="1 marks"):
            load_crowds(part)
