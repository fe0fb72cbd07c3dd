"""The committed tables of the full runs, computed again from the records beside them, without running a detector."""

from __future__ import annotations

import importlib.util
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from studying import again

from lipcore import results
from lipcore.detectors import load_detector
from lipcore.results import plain, read_results
from lipcore.studies.assumptions.study import Assumptions
from lipcore.studies.base.records import Records
from lipcore.studies.cost import lip_bench, lip_cost, lip_peers, lip_speedups
from lipcore.studies.cost.lip_tolerance import Tolerance
from lipcore.studies.detectors.evaluation import Evaluation
from lipcore.studies.interference.study import Interference
from lipcore.studies.mechanism.study import Mechanism
from lipcore.studies.receptive_fields import study as receptive_fields


def lip_cost_again(document: dict[str, Any], records: Path, path: Path) -> Path:
    config = lip_cost.full("centerface")
    assert document["config"] == json.loads(json.dumps(plain(config)))
    return lip_cost.summarise(config, Records(records, lip_cost.KEY), "full", path)


def lip_speedups_again(document: dict[str, Any], records: Path, path: Path) -> Path:
    config = lip_speedups.full()
    assert document["config"] == json.loads(json.dumps(plain(config)))
    return lip_speedups.summarise(config, Records(records, lip_speedups.KEY), path)


def lip_peers_again(document: dict[str, Any], records: Path, path: Path) -> Path:
    config = lip_peers.PROFILES["full"]
    assert document["config"] == json.loads(json.dumps(plain(config)))
    return lip_peers.summarise(config, Records(records, lip_peers.KEY), "full", path)


def lip_bench_again(document: dict[str, Any], records: Path, path: Path) -> Path:
    return lip_bench.summarise(Records(records, lip_bench.KEY), "full", path)


AGAIN = {
    "interference": partial(again, Interference()),
    "mechanism": partial(again, Mechanism()),
    "assumptions": partial(again, Assumptions()),
    "detector_eval": partial(again, Evaluation()),
    "lip_cost": lip_cost_again,
    "lip_tolerance": partial(again, Tolerance()),
    "lip_speedups": lip_speedups_again,
    "lip_peers": lip_peers_again,
    "lip_bench": lip_bench_again,
}
FULL = results.ROOT / "results" / "full"


@pytest.mark.parametrize("experiment", AGAIN)
def test_a_committed_table_follows_from_its_records(experiment: str, tmp_path: Path) -> None:
    """Rows and scalars for prose are computed again, on this machine, from the records beside them."""
    if not (FULL / f"{experiment}.json").is_file():
        pytest.skip(f"no full run of {experiment} is committed")
    document = read_results(FULL / f"{experiment}.json")
    records = tmp_path / "copy.records.jsonl"
    records.write_bytes((FULL / f"{experiment}.records.jsonl").read_bytes())
    again = read_results(AGAIN[experiment](document, records, tmp_path / "again.json"))
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
