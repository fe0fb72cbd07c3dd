"""The committed tables of the full runs, computed again from the records beside them, without running a detector."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

from lipcore import results
from lipcore.detectors import load_detector
from lipcore.results import read_results
from lipcore.studies.base.registry import STUDIES, load_study
from lipcore.studies.base.study import Run
from lipcore.studies.cost import lip_bench
from lipcore.studies.receptive_fields import study as receptive_fields

FULL = results.ROOT / "results" / "full"
#: Studies whose tables are computed again elsewhere, or partly; of which nothing is recorded; and what takes a minute.
ELSEWHERE = {"wider_attack", "fddb_attack", "crowds", "transfer", "coco_attack"}
UNRECORDED = {"noise", "receptive_fields", "theory", "lip_cost_cuda"}
LONG = {"verdicts", "neighbours", "visibility"}
AGAIN = [
    pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
    for name in STUDIES
    if name not in ELSEWHERE | UNRECORDED
]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are written to a folder that has all that the committed one has."""
    (tmp_path / "full").mkdir()
    for path in FULL.iterdir():
        (tmp_path / "full" / path.name).symlink_to(path)
    monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path))


@pytest.mark.parametrize("experiment", AGAIN)
def test_a_committed_table_follows_from_its_records(experiment: str, copied: None) -> None:
    """Rows and scalars for prose are computed again, on this machine, from the records beside them."""
    if not (FULL / f"{experiment}.json").is_file():
        pytest.skip(f"no full run of {experiment} is committed")
    document = read_results(FULL / f"{experiment}.json")
    again = read_results(load_study(experiment).table(Run(profile="full")))
    assert again["config"] == document["config"]
    assert len(again["rows"]) == len(document["rows"]) > 0
    for new, old in zip([*again["rows"], again["summary"]], [*document["rows"], document["summary"]], strict=True):
        assert new.keys() == old.keys()
        for key, value in new.items():
            same = value == old[key] or (isinstance(value, float) and math.isclose(value, old[key], rel_tol=1e-9))
            assert same, f"{key} of {new if len(new) < 30 else experiment}"


def test_the_committed_receptive_fields_give_their_scalars() -> None:
    """They have no records; P-Net's, which take a second, are measured again."""
    if not (FULL / "receptive_fields.json").is_file():
        pytest.skip("no full run of the receptive fields is committed")
    document = read_results(FULL / "receptive_fields.json")
    assert receptive_fields.summary(document["rows"]) == document["summary"]
    fields = receptive_fields.fields_of(load_detector("pnet"), document["config"]["images"])
    stored = receptive_fields.by_detector(document["rows"])["pnet"]["face"]
    assert fields.trf["face"] == stored["trf"]
    assert fields.middle.fit.r2 == pytest.approx(stored["r2"], abs=1e-3)
    for mass, side in fields.middle.sides.items():
        assert side == pytest.approx(stored[f"side_{round(100 * mass)}"], abs=1)


def test_the_benchmarks_become_records_and_a_table(root: Path, tmp_path: Path) -> None:
    """``bench/collect.py``, on what pytest-benchmark writes; an earlier run's records are replaced."""
    spec = importlib.util.spec_from_file_location("collect", root / "bench" / "collect.py")
    assert spec
    assert spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    shared = {"detector": "pnet", "machine": "m", "threads": 1, "peak_mb": 7.0, "sweep": "faces", "instances": 1}
    measured = tmp_path / "steps.json"
    benchmarks = [
        {"extra_info": shared | {"mode": mode, "x": 4}, "stats": {"data": seconds}}
        for mode, seconds in (("raw", [1.0, 3.0, 2.0]), ("imp", [4.0]))
    ]
    measured.write_text(json.dumps({"benchmarks": benchmarks}))
    path = tmp_path / "lip_bench.records.jsonl"
    path.write_text("of an earlier run\n")
    document = read_results(lip_bench.summarise(bench.collect(measured, path), "full", tmp_path / "lip_bench.json"))
    assert [(r["mode"], r["value"], r["n"], r["peak_mb"]) for r in document["rows"]] == [
        ("raw", 2.0, 3, 7.0),
        ("imp", 4.0, 1, 7.0),
    ]
    assert document["provenance"]["seconds"] == 10
