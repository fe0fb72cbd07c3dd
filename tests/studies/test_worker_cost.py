"""The model of what N workers take: by hand, its bounds, and the committed table."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcore.results import read_results
from lipcore.studies.base.study import Run
from lipcore.studies.cost.worker_cost import IMAGES, WORKERS, WorkerCost, busiest, rows, summary, unit_seconds

SECONDS = st.lists(st.floats(0, 1e3), min_size=1, max_size=40)


def test_the_busiest_worker_by_hand() -> None:
    assert busiest([3, 1, 1, 1, 4], 1) == 10
    # The first takes 3, the second 1 + 1 + 1; both are free at 3, and one gets the 4.
    assert busiest([3, 1, 1, 1, 4], 2) == 7
    assert busiest([3, 1, 1, 1, 4], 9) == 4


@given(SECONDS, st.integers(1, 50))
def test_no_schedule_is_quicker_than_its_share_or_its_longest_unit(units: list[float], workers: int) -> None:
    taken = busiest(units, workers)
    assert taken >= max(sum(units) / workers, max(units)) * (1 - 1e-9)
    assert taken <= sum(units) / workers + max(units) + 1e-9


def test_a_unit_is_an_image() -> None:
    records = [{"image": i, "seconds": s} for i, s in (("a", 1.0), ("b", 2.0), ("a", 0.5))]
    assert unit_seconds(records) == [1.5, 2.0]


def test_rows_by_hand() -> None:
    records = [
        {"workers": 1, "wall": 10.0, "units": [2.0, 2.0, 4.0]},
        {"workers": 2, "wall": 7.5, "units": [3.0, 2, 4]},
    ]
    attacked = [{"detector": "centerface", "image": str(i), "seconds": 1.0} for i in range(3)]
    scalars = summary(rows(records, attacked))
    # Two seconds to begin; then 2 and 2, and 4 on the first that is free.
    assert (scalars["2_predicted_seconds"], scalars["2_wall_seconds"]) == (8.0, 7.5)
    assert scalars["1_predicted_seconds"] == 10.0
    assert scalars["centerface_1_hours"] == pytest.approx(IMAGES / 3600, abs=0.01)
    assert scalars["centerface_128_hours"] == pytest.approx(26 / 3600, abs=0.01)


def test_the_committed_table_is_that_of_its_records(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "results" / "full" / "worker_cost.json"
    kept = WorkerCost()._records(Run(profile="full"))
    monkeypatch.setattr(WorkerCost, "path", lambda *_: tmp_path / "worker_cost.json")
    monkeypatch.setattr(WorkerCost, "_records", lambda *_: kept)
    timed = [r for r in read_results(WorkerCost().table(Run(profile="full")))["rows"] if r["metric"] != "hours"]
    assert timed == [r for r in read_results(path)["rows"] if r["metric"] != "hours"]
    hours = [r for r in read_results(path)["rows"] if r["metric"] == "hours"]
    assert {r["workers"] for r in hours} == set(WORKERS)
    for before, after in pairwise(hours):
        assert before["detector"] != after["detector"] or before["value"] > after["value"]
