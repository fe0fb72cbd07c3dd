"""Runs that are killed at any moment, and a disk that is full: what is left is that of a run nothing happened to."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path

    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    draw = random.Random(1)

    def kill(work, times, look):
        for number in range(times):
            child = os.fork()
            if child == 0:
                try:
                    work()
                finally:
                    os._exit(0)
            time.sleep(0.03 + 0.12 * draw.random())
            os.kill(child, signals[number % 3])
            os.waitpid(child, 0)
            look(signals[number % 3])
"""

RECORDS = """
    from lipcore.studies.base.records import Records

    UNITS = 500
    path, whole = (Path(sys.argv[1]) / name for name in ("killed.records.jsonl", "whole.records.jsonl"))

    def run(path):
        records = Records(path, ("image",))
        with records.writing():
            for image in range(UNITS):
                if not records.has({"image": image}):
                    records.add({"image": image, "value": image / 7, "detections": "x" * 3000})

    run(whole)
    expected = list(Records(whole, ("image",)))

    def look(how):
        done = list(Records(path, ("image",))) if path.exists() else []
        assert done == expected[: len(done)], how

    kill(lambda: run(path), 9, look)
    run(path)
    assert path.read_bytes() == whole.read_bytes()
    print("whole")
"""

RESULTS = """
    from lipcore.results import Dataset, read_results, write_results

    path = Path(sys.argv[1]) / "study.json"

    def write(value):
        row = {"detector": "toy", "metric": "asr", "value": value, "ci_low": None, "ci_high": None, "n": 3}
        write_results(
            path, experiment="study", profile="quick", config={}, rows=[row] * 900, reported=[], summary={},
            detectors=[], dataset=Dataset("toys", "abc", 3, 9), seed=1, seconds=2.0,
        )

    def work():
        while True:
            write(0.25)
            write(0.75)

    def look(how):
        assert len({row["value"] for row in read_results(path)["rows"]}) == 1, how
        left = [p for p in path.parent.iterdir() if p != path]
        assert not (left and how == signal.SIGINT), f"{left} left after Ctrl-C"
        for part in left:
            part.unlink()

    write(0.25)
    kill(work, 6, look)
    print("whole")
"""

FULL = """
    import resource, sys
    from pathlib import Path
    from lipcore.studies.base.records import Records

    path = Path(sys.argv[1]) / "study.records.jsonl"
    records = Records(path, ("image",))
    records.add({"image": 0, "text": "x" * 1000})
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))
    try:
        records.add({"image": 1, "text": "x" * 1000})
    except OSError as error:
        assert "too large" in str(error), error
    else:
        raise AssertionError("there was room")
    assert path.read_bytes().startswith(before)
    assert [r["image"] for r in Records(path, ("image",))] == [0]
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    records.add({"image": 1, "text": "x" * 1000})
    assert [r["image"] for r in Records(path, ("image",))] == [r["image"] for r in records] == [0, 1]
    assert len(path.read_bytes().splitlines()) == 2
    print("whole")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork and no limit of a file's size")
@pytest.mark.parametrize("script", [KILLED + RECORDS, KILLED + RESULTS, FULL], ids=["records", "results", "full disk"])
def test_nothing_is_lost(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "whole\n", done.stderr
