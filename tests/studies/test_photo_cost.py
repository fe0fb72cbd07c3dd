"""What a photograph takes: the photographs made, one command measured, and the rows by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lipcore.datasets.crowds import load_crowd
from lipcore.errors import LipcoreError
from lipcore.results import read_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run
from lipcore.studies.cost.photo_cost import KEY, PHOTO, PROFILES, Case, PhotoCost, measured, rows, summary


def test_the_crowd_itself_and_copies_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Case(name="a", arguments=()).write(path)
    with Image.open(path) as image:
        assert (image.height, image.width) == load_crowd(PHOTO).size
    Case(name="b", arguments=(), size=(700, 300), enlarged=0.5).write(path)
    with Image.open(path) as image:
        assert image.size == (700, 300)
        assert image.crop((0, 0, 320, 240)).tobytes() == image.crop((320, 0, 640, 240)).tobytes()


def test_a_command_is_measured() -> None:
    found = measured(Case(name="x", arguments=("detect", "PHOTO", "--json", "--detector", "tiny-yolo")))
    assert 0 < found["faces"] < 20
    assert 0.2 < found["cpu"] < 60
    assert 100 < found["rss_mb"] < 3000
    with pytest.raises(LipcoreError, match="no-such"):
        measured(Case(name="x", arguments=("detect", "PHOTO", "--detector", "no-such")))


def test_rows_by_hand(tmp_path: Path) -> None:
    records = Records(tmp_path / "r.jsonl", KEY)
    records.add({"case": "attack", "size": [640, 480], "cpu": 12.0, "wall": 7.0, "rss_mb": 900, "faces": 18})
    records.add({"case": "12 MP, some 100 faces", "size": [4000, 3000], "cpu": 90.0, "wall": 60.0, "rss_mb": 3000})
    records.add({"case": "passes", "steps": 10, "cpu": 3.0, "wall": 2.0})
    scalars = summary(rows(records))
    assert scalars["attack_passes"] == 4
    assert scalars["attack_faces"] == 18
    assert scalars["12_mp_some_100_faces_rss_mb"] == 3000
    assert "12_mp_some_100_faces_passes" not in scalars
    assert scalars["passes_cpu_seconds"] == 3


def test_the_committed_table_is_that_of_its_records(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "results" / "full" / "photo_cost.json"
    kept = Records(path.with_suffix(".records.jsonl"), KEY)
    monkeypatch.setattr(PhotoCost, "path", lambda *_: tmp_path / "photo_cost.json")
    monkeypatch.setattr(PhotoCost, "_records", lambda *_: kept)
    again = PhotoCost().table(Run(profile="full", detector="centerface"))
    assert read_results(again)["rows"] == read_results(path)["rows"]
    assert read_results(again)["summary"] == read_results(path)["summary"]


def test_the_profiles_are_of_the_same_commands() -> None:
    assert {case.name for case in PROFILES["quick"]} < {case.name for case in PROFILES["full"]}
