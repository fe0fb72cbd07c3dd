"""A dask cluster of two workers finds what one process finds, and a worker that is killed loses and repeats nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lipcore.errors import LipcoreError
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run
from lipcore.studies.base.workers import Workers

distributed = pytest.importorskip("dask.distributed", reason="the extra lipcore[cluster] is not installed")


def slow_squares(number: int) -> Iterator[dict[str, Any]]:
    """What a unit of work makes, and which process made it."""
    time.sleep(0.3)
    yield {"image": number, "square": number**2, "process": os.getpid()}


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a cluster of two processes that can import the tests."""
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tests, tests / "studies"))))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster.scheduler_address


def test_two_workers_find_what_one_process_does(address: str) -> None:
    made = {task: list(found) for task, found in Workers(scheduler=address).each(slow_squares, range(6))}
    assert {task: [r["square"] for r in found] for task, found in made.items()} == {n: [n**2] for n in range(6)}
    processes = {r["process"] for found in made.values() for r in found}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_worker_killed_in_the_middle_loses_and_repeats_nothing(address: str, tmp_path: Path) -> None:
    records = Records(tmp_path / "a.records.jsonl", ("image",))
    killed: list[int] = []
    for task, found in Workers(scheduler=address).each(slow_squares, range(12)):
        for record in found:
            records.add(record)  # raises where a unit comes twice
            if not killed:
                killed.append(record["process"])
                threading.Timer(0.1, os.kill, (record["process"], signal.SIGKILL)).start()
        assert 0 <= task < 12
    assert sorted(r["image"] for r in records) == list(range(12))
    assert {r["square"] for r in records} == {n**2 for n in range(12)}
    assert {r["process"] for r in records} - set(killed), "others went on"


def test_a_study_on_a_cluster(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_study import Squares

    tables = []
    for name, workers in (("here", Workers()), ("there", Workers(scheduler=address))):
        monkeypatch.setenv("LIPCORE_RUN", str(tmp_path / name))
        study = Squares()
        study.run(Run(workers=workers))
        tables.append(sorted((tuple(r.items()) for r in study.records(Run())), key=str))
    assert tables[0] == tables[1]


def test_nobody_there() -> None:
    with pytest.raises(LipcoreError, match="no dask scheduler answers at tcp"):
        list(Workers(scheduler="tcp://127.0.0.1:9").each(slow_squares, [1]))
