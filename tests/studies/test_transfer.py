"""Transfer between detectors: treatments, what is recorded, and success against the clean image treated alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import toys
from studying import completed, tabled
from test_attack_runs import ITEMS, SETTINGS

from lipcore.datasets.photographs import astronaut
from lipcore.results import read_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks import attack_figures as plots
from lipcore.studies.benchmarks import transfer
from lipcore.studies.benchmarks.attack_runs import NONE, Settings


class Pictures(transfer.Transfer):
    """On :data:`ITEMS`."""

    def items(self, config: transfer.Config, run: Run) -> Any:
        return ITEMS


PAIR = transfer.Config(
    detectors=("toys:make", "test_transfer:other"), dataset="", title="generated crowds", settings=SETTINGS
)
PICTURES = Pictures()


def other() -> toys.Toy:
    """A toy that looks at the mirror image of a square."""
    made = toys.Toy()
    made.name = "other"
    with torch.no_grad():
        made.conv1.weight.copy_(made.conv1.weight.flip(3))
    return made


@pytest.fixture(scope="module")
def detectors() -> list[toys.Toy]:
    return [toys.Toy(), other()]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return completed(PICTURES, PAIR, tmp_path_factory.mktemp("transfer") / "a.jsonl", detector="toys:make")


def test_treatments() -> None:
    image = astronaut()[:, :, 40:200, 140:301]
    change = {name: float((treat(image) - image).abs().mean()) for name, treat in transfer.TREATMENTS.items()}
    assert change["none"] == 0
    assert 0 < change["jpeg 95"] < change["jpeg 75"] < change["jpeg 50"] < 8
    assert 0 < change["half size"] < 10
    for treat in transfer.TREATMENTS.values():
        treated = treat(image)
        assert treated.shape == image.shape
        assert torch.equal(treated, treated.round())
        assert 0 <= float(treated.min()) <= float(treated.max()) <= 255


def test_each_measurement_once(records: Records) -> None:
    images = 2  # a third of six
    clean, attacked = 2 * 5, 2 * 2 * 3 * 5
    assert len(records) == images * (clean + attacked)
    before = records.path.read_bytes()
    again = completed(PICTURES, PAIR, records.path, detector="toys:make")
    assert len(again) == len(records)
    assert records.path.read_bytes() == before


def test_processes_record_what_one_process_records(records: Records, tmp_path: Path) -> None:
    two = completed(PICTURES, PAIR, tmp_path / "two", jobs=2, detector="toys:make")
    by_unit = {two.unit(r): {**r, "seconds": 0} for r in two}
    assert by_unit == {records.unit(r): {**r, "seconds": 0} for r in records}
    assert {r["device"] for r in two} == {"cpu"}


def test_the_estimate_measures_nothing(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path))
    monkeypatch.setattr(Pictures, "config", lambda *_: PAIR)
    asked, path = Run(detector="toys:make"), tmp_path / "transfer.records.jsonl"
    assert [count for _, count, _ in PICTURES.estimate(asked)] == [len(records) / 2] * 2
    assert not path.exists()
    text = records.path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:-1]))
    ((part, count, minutes),) = PICTURES.estimate(asked)
    assert (part, count) == ("noise of other", 1)
    assert 0 <= minutes < 1


def test_success_is_against_the_clean_image_treated_alike(records: Records) -> None:
    table = {
        (r["detector"], r["target"], r["perturbation"], r["treatment"], r["subset"]): r
        for r in transfer.rows(list(records))
    }
    assert len(table) == 2 * 2 * 3 * 5 * 2
    one = table["toy", "toy", "imp-i", "none", "hard"]
    assert one["n"] == 2
    assert one["n_faces"] == 4
    assert one["value"] >= table["toy", "toy", "imp-i", "half size", "hard"]["value"]
    lost = [dict(r) for r in records]
    for r in lost:  # faces that the treatment alone loses cannot be lost to the noise
        if r["perturbation"] == NONE and r["treatment"] == "jpeg 50":
            r["faces"] = [None, r["faces"][1]]
    counted = {
        r["treatment"]: r["n_faces"]
        for r in transfer.rows(lost)
        if (r["detector"], r["target"], r["perturbation"], r["subset"]) == ("toy", "other", "imp", "hard")
    }
    assert counted["none"] == 4
    assert counted["jpeg 50"] == 2


def test_images_not_done_everywhere_are_left_out(records: Records) -> None:
    some = list(records)[:-1]
    assert {r["n"] for r in transfer.rows(some)} == {1}
    assert list(transfer.rows([])) == []


def test_the_fingerprint_has_both_detectors(detectors: list[toys.Toy]) -> None:
    a, b = detectors
    prints = {transfer.fingerprint(Settings(), s.info, t.info) for s in (a, b) for t in (a, b)}
    assert len(prints) == 4


def test_the_table_is_written(records: Records, tmp_path: Path) -> None:
    path = tabled(PICTURES, PAIR, records, tmp_path / "transfer.json", detector="toys:make")
    document = read_results(path)
    assert len(document["rows"]) == 2 * 2 * 3 * 5 * 2
    assert document["config"]["lines"] == len(records)
    assert transfer.table(list(records), document["config"]["records"]) == (document["rows"], document["summary"])
    figure = plots.transfer_figure(pd.DataFrame(document["rows"]), "hard", "imp", ("none", "jpeg 50"))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["as it is", "JPEG 50"]
    assert [len(axis.texts) for axis in figure.axes] == [4, 4]
    assert "epsilon 8" in figure.get_suptitle()
    plt.close(figure)


def test_the_table_needs_neither_images_nor_detectors(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where weights are not at hand: the records and what the results file says of the detectors are enough."""
    table = tabled(PICTURES, PAIR, records, tmp_path / "transfer.json", detector="toys:make")
    rows = read_results(table)["rows"]
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path))
    monkeypatch.setattr(Pictures, "items", lambda *_: pytest.fail("images looked for"))
    monkeypatch.setattr(Run, "load", lambda *_: pytest.fail("a detector was loaded"))
    named = replace(PAIR, detectors=("toy", "other"))
    monkeypatch.setattr(Pictures, "config", lambda *_: named)
    kept = tmp_path / "transfer.records.jsonl"
    kept.write_bytes(records.path.read_bytes())
    assert read_results(PICTURES.table(Run()))["rows"] == rows
    assert kept.read_bytes() == records.path.read_bytes()


@pytest.mark.parametrize(
    ("profile", "detector", "expected"),
    [
        ("full", "centerface", transfer.DETECTORS),
        ("full", "mine:make", ("mine:make", "centerface")),
        ("quick", "centerface", ("centerface", "pnet")),
        ("quick", "pnet", ("pnet", "centerface")),
    ],
)
def test_which_detectors(profile: str, detector: str, expected: tuple[str, ...]) -> None:
    assert transfer.Transfer().config(Run(profile=profile, detector=detector)).detectors == expected
