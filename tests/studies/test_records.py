"""Records: resuming, amending, two processes at once, and a run that is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from studying import completed, tabled

from lipcore.attacks.crop import Extent
from lipcore.errors import DataError
from lipcore.results import (
    read_results,
)
from lipcore.studies.base.records import Records
from lipcore.studies.interference import config as interference_config
from lipcore.studies.interference.study import Interference


class TestRecords:
    KEY = ("image", "method")

    def records(self, path: Path) -> Records:
        return Records(path, self.KEY)

    def test_come_back_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "some.records.jsonl"
        records = self.records(path)
        assert not path.exists(), "made when the first record comes"
        made = [{"image": i, "method": m, "value": i / 3} for i in range(3) for m in ("a", "b")]
        for record in made:
            records.add(record)
        assert list(self.records(path)) == list(records) == made
        assert len(records) == 6
        assert records.has({"image": 2, "method": "b"})
        assert not records.has({"image": 3, "method": "b"})

    @pytest.mark.parametrize("keep", [1, 10, 30])
    def test_resume_where_the_last_line_was_cut_off(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "some.jsonl"
        records = self.records(path)
        for i in range(3):
            records.add({"image": i, "method": "a", "value": 0.25})
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:2]) + lines[2][:keep])
        again = self.records(path)
        assert len(again) == 2
        assert not again.has({"image": 2, "method": "a"})
        again.add({"image": 2, "method": "a", "value": 0.25})
        assert path.read_bytes() == whole

    def test_a_line_that_lacks_only_its_newline_is_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "some.jsonl"
        text = '{"image": 0, "method": "a"}\n{"image": 1, "method": "a"}'
        path.write_text(text)
        records = self.records(path)
        assert len(records) == 2
        assert path.read_text() == text
        records.add({"image": 2, "method": "a"})
        assert path.read_text() == text + '\n{"image": 2, "method": "a"}\n'
        assert len(self.records(path)) == 3

    @pytest.mark.parametrize("tail", ['{"image": 1, "meth', '{"image": 1, "method": "a"', '{"a": {"b": 1}', "{"])
    def test_reading_changes_nothing(self, tmp_path: Path, tail: str) -> None:
        path = tmp_path / "some.jsonl"
        text = '{"image": 0, "method": "a"}\n' + tail
        path.write_text(text)
        path.chmod(0o444)
        assert len(self.records(path)) == 1
        assert path.read_text() == text

    @pytest.mark.parametrize("text", ["a note", '{"image": 1, "method": "a"}{"image": 2, "method": "a"}', "[1, 2"])
    def test_a_file_of_something_else_is_left_as_it_is(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "some.jsonl"
        path.write_text(text)
        with pytest.raises(DataError, match=r"line 1 of .*some\.jsonl is damaged.* move the file away"):
            self.records(path)
        records = self.records(tmp_path / "none.jsonl")
        path.rename(records.path)
        with pytest.raises(DataError, match=r"line 1 of .* is damaged"):
            records.add({"image": 3, "method": "a"})
        assert records.path.read_text() == text

    def test_a_file_that_became_shorter(self, tmp_path: Path) -> None:
        records = self.records(tmp_path / "some.jsonl")
        records.add({"image": 0, "method": "a"})
        records.path.write_text("")
        with pytest.raises(DataError, match="has lost lines"):
            records.add({"image": 1, "method": "a"})
        assert records.path.read_text() == "", "no hole of zeros is written"

    def test_numbers_that_are_not_finite_are_null(self, tmp_path: Path) -> None:
        records = self.records(tmp_path / "some.jsonl")
        records.add({"image": 0, "method": "a", "psnr": math.inf, "drops": [math.nan, 1.0]})
        assert json.loads(records.path.read_text(), parse_constant=pytest.fail)["drops"] == [None, 1.0]
        assert list(records) == list(self.records(records.path))

    def test_lines_written_twice_are_one(self, tmp_path: Path) -> None:
        path = tmp_path / "some.jsonl"
        path.write_text('{"image": 0, "method": "a", "value": 1}\n' * 2 + '{"image": 1, "method": "a", "value": 2}\n')
        records = self.records(path)
        assert [r["value"] for r in records] == [1, 2]
        records.add({"image": 2, "method": "a", "value": 3})
        assert len(self.records(path)) == 3

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "some.jsonl").write_text("")
        assert len(self.records(tmp_path / "some.jsonl")) == 0

    def test_refuse_a_unit_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "some.jsonl"
        records = self.records(path)
        records.add({"image": 0, "method": "a", "value": 1})
        with pytest.raises(DataError, match=r"\(0, 'a'\) is recorded in .*some\.jsonl already"):
            records.add({"image": 0, "method": "a", "value": 2})
        path.write_bytes(path.read_bytes() + b'{"image": 0, "method": "a", "value": 2}\n')
        with pytest.raises(DataError, match=r"lines 1 and 2 of .* \(0, 'a'\), and differ in value; delete one"):
            self.records(path)

    @pytest.mark.parametrize("line", ["{", "", "3", "null", "[1]", '{"image": 1}', '{"image": [], "method": {}}'])
    def test_refuse_a_damaged_line(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "some.jsonl"
        text = f'{{"image": 0, "method": "a"}}\n{line}\n{{"image": 1, "method": "a"}}\n'
        path.write_text(text)
        with pytest.raises(DataError, match=r"line 2 of .*some\.jsonl is damaged"):
            self.records(path)
        assert path.read_text() == text, "what cannot be read is not touched"


class TestAmendments:
    def test_add_to_a_record(self, tmp_path: Path) -> None:
        path = tmp_path / "some.jsonl"
        path.write_text('{"image": 0, "a": 1}\n{"image": 1, "a": 2}\n{"image": 0, "amends": true, "b": [3]}\n')
        assert list(Records(path, ("image",))) == [{"image": 0, "a": 1, "b": [3]}, {"image": 1, "a": 2}]

    def test_of_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "some.jsonl"
        path.write_text('{"image": 0, "amends": true, "b": [3]}\n')
        with pytest.raises(DataError, match=r"line 1 of .* amends a unit that no line before it records: \(0,\)"):
            Records(path, ("image",))


WRITER = """
import sys
from pathlib import Path
from lipcore.studies.base.records import Records
records = Records(Path(sys.argv[1]), ("image",))
with records.writing():
    records.add({"image": 0})
    print("holds", flush=True)
    sys.stdin.read()
"""


class TestTwoProcesses:
    def test_one_writes_at_a_time_and_the_other_is_told_who(self, tmp_path: Path) -> None:
        path = tmp_path / "some.jsonl"
        other = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout
        assert other.stdout.readline() == "holds\n"
        records = Records(path, ("image",))
        assert len(records) == 1, "reading goes on beside it"
        for attempt in (records.writing().__enter__, lambda: records.add({"image": 1})):
            with pytest.raises(DataError, match=rf"written by process {other.pid} .*, since 20.* wait until"):
                attempt()
        other.kill()  # a kill leaves no lock behind
        other.wait()
        with records.writing():
            records.add({"image": 1})
        assert path.read_text() == '{"image": 0}\n{"image": 1}\n'

    def test_what_another_wrote_meanwhile_is_seen(self, tmp_path: Path) -> None:
        one, two = (Records(tmp_path / "some.jsonl", ("image",)) for _ in range(2))
        one.add({"image": 0})
        two.add({"image": 1})
        assert (len(one), len(two)) == (1, 2)
        with pytest.raises(DataError, match=r"\(1,\) is recorded in .* already"):
            one.add({"image": 1})
        assert len(Records(one.path, one.key)) == 2

    def test_a_folder_that_cannot_be_written_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "some.jsonl"
        path.write_text('{"image": 0}\n')
        monkeypatch.setattr(os, "access", lambda *_: False)
        records = Records(path, ("image",))
        with records.writing():
            assert records.has({"image": 0})
        assert [p.name for p in tmp_path.iterdir()] == ["some.jsonl"]


#: Small enough for seconds, long enough to be killed half-way.
TINY = interference_config.Config(
    parts=(
        interference_config.Part("pnet", ((1, 40), (4, 16)), ("random", "imp", "lp", "lip-a", "alone"), images=4),
        interference_config.Part("pnet", ((4, 16),), ("imp",), epsilons=(2.0,), images=2),
    ),
    canvas=128,
    extent=Extent(rule="fixed", value=43),
)


UNITS = 2 * 5 * 4 + 2


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import torch
torch.set_num_threads(1)
from test_records import TINY
from lipcore.studies.interference.study import Interference
from studying import completed
completed(Interference(), TINY, Path(sys.argv[1]))
"""


class TestKilledForReal:
    """A process is killed with SIGKILL while it runs the study, and the run is resumed."""

    @pytest.fixture
    def one_thread(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    def test_nothing_is_lost_or_counted_twice(self, tmp_path: Path, one_thread: None) -> None:
        killed, whole = tmp_path / "killed.records.jsonl", tmp_path / "whole.records.jsonl"
        arguments = [sys.executable, "-c", CHILD, str(killed), *map(str, Path(__file__).parents[:2])]
        child = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not (killed.is_file() and killed.read_bytes().count(b"\n") >= 7):
            assert child.poll() is None, child.stderr.read().decode()  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        done = killed.read_bytes()
        assert 7 <= done.count(b"\n") < UNITS, "killed on the way"
        killed.write_bytes(done + b'{"config": "half a li')  # as a kill in the middle of a write leaves it

        resumed = completed(Interference(), TINY, killed)
        straight = completed(Interference(), TINY, whole)
        assert killed.read_bytes().startswith(done)
        assert len(resumed) == len(straight) == UNITS == killed.read_bytes().count(b"\n")
        assert without_seconds(list(resumed)) == without_seconds(list(straight))

        tables = [
            read_results(tabled(Interference(), TINY, Records(path, Interference.key), path.with_suffix("")))
            for path in (killed, whole)
        ]
        assert without_seconds(tables[0]["rows"]) == without_seconds(tables[1]["rows"])
        assert {**tables[0]["summary"], "minutes": 0} == {**tables[1]["summary"], "minutes": 0}

        before = killed.read_bytes()
        completed(Interference(), TINY, killed)
        assert killed.read_bytes() == before, "a finished run does nothing"


def test_a_line_is_one_json_object(tmp_path: Path) -> None:
    records = Records(tmp_path / "a.jsonl", ("image",))
    records.add({"image": 1, "text": "two\nlines"})
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "two\nlines"


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows or records without what differs from run to run."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
