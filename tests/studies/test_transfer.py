"""Transfer between detectors: treatments, what is recorded, and success against the clean image treated alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import toys
from test_attack_runs import ITEMS, SETTINGS

from lipcore.datasets.photographs import astronaut
from lipcore.detectors import weights
from lipcore.errors import DataError
from lipcore.results import read_results
from lipcore.studies.base.records import Records
from lipcore.studies.benchmarks import attack_figures as plots
from lipcore.studies.benchmarks import transfer
from lipcore.studies.benchmarks.attack_runs import NONE, Settings, Workers
from lipcore.studies.benchmarks.attack_tables import DETECTORS, Absent


@pytest.fixture(scope="module")
def detectors() -> list[toys.Toy]:
    other = toys.Toy()
    other.name = "other"
    with torch.no_grad():
        other.conv1.weight.copy_(other.conv1.weight.flip(3))
    return [toys.Toy(), other]


@pytest.fixture(scope="module")
def records(detectors: list[toys.Toy], tmp_path_factory: pytest.TempPathFactory) -> Records:
    return transfer.run(SETTINGS, ITEMS, detectors, tmp_path_factory.mktemp("transfer") / "a.jsonl")


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


def test_each_measurement_once(records: Records, detectors: list[toys.Toy]) -> None:
    images = 2  # a third of six
    clean, attacked = 2 * 5, 2 * 2 * 3 * 5
    assert len(records) == images * (clean + attacked)
    before = records.path.read_bytes()
    again = transfer.run(SETTINGS, ITEMS, detectors, records.path)
    assert len(again) == len(records)
    assert records.path.read_bytes() == before


def test_processes_record_what_one_process_records(tmp_path: Path) -> None:
    one = transfer.run(SETTINGS, ITEMS, [toys.Toy()], tmp_path / "one")
    who = [Workers(detector="toys:make", threads=1)]
    two = transfer.run(SETTINGS, ITEMS, [toys.Toy()], tmp_path / "two", who, jobs=2)
    by_unit = {two.unit(r): {**r, "seconds": 0} for r in two}
    assert by_unit == {one.unit(r): {**r, "seconds": 0} for r in one}
    assert {r["device"] for r in two} == {"cpu"}


def test_the_estimate_measures_nothing(records: Records, detectors: list[toys.Toy], tmp_path: Path) -> None:
    assert transfer.minutes(SETTINGS, ITEMS, detectors, records.path) == 0
    path = tmp_path / "a.jsonl"
    assert 0 < transfer.minutes(SETTINGS, ITEMS, detectors, path) < 1
    assert not path.exists()
    text = records.path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:-1]))
    left = transfer.minutes(SETTINGS, ITEMS, detectors, path)
    assert left == pytest.approx(sum(r["seconds"] for r in Records(path, transfer.KEY)) / (len(text) - 1) / 60)


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
    prints = {transfer.fingerprint(Settings(), s, t) for s in (a, b) for t in (a, b)}
    assert len(prints) == 4


def test_the_table_is_written(
    records: Records, detectors: list[toys.Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "Settings", lambda: SETTINGS)
    path = transfer.summarise("quick", detectors, records, tmp_path / "transfer.json")
    document = read_results(path)
    assert len(document["rows"]) == 2 * 2 * 3 * 5 * 2
    assert document["config"]["lines"] == len(records)
    assert transfer.table(list(records), document["config"]["records"]) == (document["rows"], document["summary"])
    figure = plots.transfer_figure(pd.DataFrame(document["rows"]), "hard", "imp", ("none", "jpeg 50"))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["as it is", "JPEG 50"]
    assert [len(axis.texts) for axis in figure.axes] == [4, 4]
    assert "epsilon 8" in figure.get_suptitle()
    plt.close(figure)


def test_the_command_line_makes_the_table_alone(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "Settings", lambda: SETTINGS)
    monkeypatch.setattr(transfer, "run", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(transfer, "load_items", lambda *_: pytest.fail("images looked for"))
    monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path))
    kept = tmp_path / "transfer.records.jsonl"
    kept.write_bytes(records.path.read_bytes())
    monkeypatch.setattr("sys.argv", ["transfer", "--profile", "quick", "--detectors", "toys:make", "--table"])
    transfer.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "transfer.json")
    assert len(read_results(tmp_path / "transfer.json")["rows"]) == 2 * 3 * 5
    assert kept.read_bytes() == records.path.read_bytes()


def test_a_detector_without_weights_is_in_the_table_by_its_records(
    records: Records, detectors: list[toys.Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "Settings", lambda: SETTINGS)
    monkeypatch.setattr(weights, "registry", lambda: {"other": SimpleNamespace(sha256="")})
    path = transfer.summarise("quick", [detectors[0], Absent("other")], records, tmp_path / "transfer.json")
    assert len(read_results(path)["rows"]) == 2 * 2 * 3 * 5 * 2


class TestForTheBook:
    """What ``measure`` puts side by side, without measuring it."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[str, ...]]:
        monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path))

        def names(profile: str, detector: str) -> tuple[str, ...]:
            got: list[tuple[str, ...]] = []

            def stop(given: tuple[str, ...], *_: object) -> None:
                got.append(tuple(given))
                raise DataError("enough")

            monkeypatch.setattr(transfer, "all_at_hand", stop)
            with pytest.raises(DataError, match="enough"):
                transfer.measure(profile, detector)
            return got[0]

        return names

    @pytest.mark.parametrize(
        ("profile", "detector", "expected"),
        [
            ("full", "centerface", DETECTORS),
            ("full", "mine:make", ("mine:make", "centerface")),
            ("quick", "centerface", ("centerface", "pnet")),
            ("quick", "pnet", ("pnet", "centerface")),
        ],
    )
    def test_which_detectors(
        self, asked: Callable[..., tuple[str, ...]], profile: str, detector: str, expected: tuple[str, ...]
    ) -> None:
        assert asked(profile, detector) == expected
