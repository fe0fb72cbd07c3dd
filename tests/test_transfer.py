"""Transfer between detectors: treatments, what is recorded, and success against the clean image treated alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toys
from test_attack_runs import ITEMS, SETTINGS

from lipcore.datasets.photographs import astronaut
from lipcore.experiments import transfer
from lipcore.experiments.attack_runs import NONE, Settings
from lipcore.experiments.records import Records
from lipcore.results import read_results


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
    assert len(read_results(path)["rows"]) == 2 * 2 * 3 * 5 * 2
