"""Several processes do the work; each has one thread, and the way in which torch uses it is that of two."""

from __future__ import annotations

import os

import pytest
import torch

from lipcore.experiments.processes import in_processes

STARTED: list[str] = []


def start(word: str) -> None:
    STARTED[:] = [word]


def work(number: int) -> tuple[int, str, int, str | None]:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number, STARTED[0], torch.get_num_threads(), os.environ.get("OMP_THREAD_LIMIT")


def test_each_task_is_done_once_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_THREAD_LIMIT", "7")
    done = sorted(in_processes(work, range(5), 2, start=start, arguments=("ready",)))
    assert done == [(i, "ready", 2, "1") for i in range(5)]
    assert os.environ["OMP_THREAD_LIMIT"] == "7", "nothing of this process is changed"


def test_more_threads_are_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    assert list(in_processes(work, [3], 1, start=start, arguments=("go",), threads=3)) == [(3, "go", 3, None)]


def test_an_error_in_a_task_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    with pytest.raises(ValueError, match="-1 is negative"):
        list(in_processes(work, [-1], 1, start=start, arguments=("go",)))
    assert "OMP_THREAD_LIMIT" not in os.environ
