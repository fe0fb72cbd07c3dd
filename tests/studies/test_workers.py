"""Several processes do the work; each has one thread, and the way in which torch uses it is that of two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lipcore.errors import LipcoreError, LipcoreWarning
from lipcore.studies.base.workers import in_processes

STARTED: list[str] = []


def start(word: str) -> None:
    STARTED[:] = [word]


def work(number: int) -> tuple[int, str, int, str | None]:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number, STARTED[0], torch.get_num_threads(), os.environ.get("OMP_THREAD_LIMIT")


def warned(text: str) -> str:
    for _ in range(2):
        warnings.warn(text, LipcoreWarning, stacklevel=1)
    return text


def test_what_a_user_should_know_is_a_line_here_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(in_processes(warned, ["the first frame is read"], 1)) == ["the first frame is read"]
    assert capfd.readouterr().err == "lipcore: note: the first frame is read\n"


def test_each_task_is_done_once_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_THREAD_LIMIT", "7")
    done = sorted(in_processes(work, range(5), 2, start=start, arguments=("ready",)))
    assert done == [(i, "ready", 2, "1") for i in range(5)]
    assert os.environ["OMP_THREAD_LIMIT"] == "7", "nothing of this process is changed"


def ends(file: str) -> str:
    """Ends its own process the first time, as the system does for want of memory."""
    if not Path(file).exists():
        Path(file).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return file


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_worker_that_is_ended_from_outside(tmp_path: Path) -> None:
    files = [str(tmp_path / "a")]
    with pytest.raises(LipcoreError, match="ended from outside, or for want of memory; what is recorded stays: start"):
        list(in_processes(ends, files, 1))
    assert list(in_processes(ends, files, 1)) == files


def test_more_threads_are_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    assert list(in_processes(work, [3], 1, start=start, arguments=("go",), threads=3)) == [(3, "go", 3, None)]


def test_an_error_in_a_task_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    with pytest.raises(ValueError, match="-1 is negative"):
        list(in_processes(work, [-1], 1, start=start, arguments=("go",)))
    assert "OMP_THREAD_LIMIT" not in os.environ


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_workers import forever
from lipcore.studies.base.workers import in_processes
if __name__ == "__main__":
    list(in_processes(forever, [sys.argv[2]], 1))
"""


def forever(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)


def runs(process: int) -> bool:
    """Whether it still does; one that ended and that no one has asked for yet does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.is_file() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_workers_end_with_their_parent(sent: signal.Signals, tmp_path: Path) -> None:
    code = tmp_path / "parent.py"
    code.write_text(PARENT)
    pids = tmp_path / "pids"
    pids.mkdir()
    arguments = [sys.executable, code, str(Path(__file__).parent), pids]
    parent = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    try:
        assert until(lambda: any(pids.iterdir()), 120)
        workers = [int(p.name) for p in pids.iterdir()]
        assert all(map(runs, workers))
        sent_at = time.monotonic()
        parent.send_signal(sent)
        parent.communicate(timeout=20)
        assert time.monotonic() - sent_at < 10, "a second on an idle machine; the work itself takes five minutes"
        assert parent.returncode == -sent
        assert until(lambda: not any(map(runs, workers)), 5), "a worker has outlived its parent"
    finally:
        parent.kill()
