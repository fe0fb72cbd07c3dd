"""Results files and the records behind them: their form, that a kill loses and doubles nothing, and that the committed
tables follow from theirs."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from studying import completed, tabled

from lipcore import results
from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching
from lipcore.detectors import load_detector
from lipcore.errors import DataError
from lipcore.results import (
    Dataset,
    Stopwatch,
    digest,
    frame,
    git_commit,
    plain,
    poster,
    read_results,
    results_path,
    shown_and_own,
    write_results,
)
from lipcore.studies.base.records import Records
from lipcore.studies.interference import config as interference_config
from lipcore.studies.interference.study import Interference

ROW = {"detector": "toy", "metric": "asr", "value": 0.5, "ci_low": 0.1, "ci_high": 0.9, "n": 3}


def write(path: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "experiment": "example", "profile": "quick", "config": Matching(), "rows": [ROW], "reported": [],
        "summary": {"asr": 50.0}, "detectors": [toys.Toy().info], "dataset": Dataset("toys", "abc", 3, 9), "seed": 1,
        "seconds": 12.34,
    }  # fmt: skip
    return write_results(path, **(fields | changes))


class TestFile:
    def test_says_what_it_rests_on(self, tmp_path: Path) -> None:
        document = read_results(write(tmp_path / "new" / "example.json"))
        assert document["rows"] == [ROW]
        assert document["config"] == {"tau_attack": 0.5, "tau_target": 0.03, "iou": 0.5, "rematch": False}
        provenance = document["provenance"]
        assert provenance["dataset"] == {"name": "toys", "fingerprint": "abc", "n_images": 3, "n_faces": 9}
        assert provenance["detectors"]["toy"]["weights_sha256"] == toys.Toy().weights_sha256
        assert provenance["torch"] == torch.__version__
        assert provenance["device"] == "cpu"
        assert (provenance["seed"], provenance["seconds"]) == (1, 12.3)
        assert list(frame(document).columns) == list(ROW)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["example.json"]

    def test_holds_no_nan(self, tmp_path: Path) -> None:
        path = write(tmp_path / "example.json", rows=[ROW | {"value": math.nan, "ci_low": -math.inf}])
        assert "NaN" not in path.read_text()
        row = read_results(path)["rows"][0]
        assert row["value"] is None
        assert row["ci_low"] is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"rows": [{k: v for k, v in ROW.items() if k != "n"}]},
            {"rows": [ROW | {"n": 1.5}]},
            {"rows": [ROW | {"n": -1}]},
            {"rows": [ROW | {"value": "half"}]},
            {"reported": [{"value": 3}]},
            {"summary": {"list": [1]}},
            {"profile": 3},
        ],
    )
    def test_is_refused_where_malformed(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        path = write(tmp_path / "example.json")
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"^\$\..*(not|required|minimum|Additional)"):
            write(path, **changes)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["example.json"]

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no results at .*make book"):
            read_results(tmp_path / "none.json")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": []}'])
    def test_that_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=r"bad\.json is not a results file"):
            read_results(tmp_path / "bad.json")

    def test_without_rows_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "example.json")
        before = path.read_bytes()
        with pytest.raises(DataError, match="example has nothing measured with this configuration"):
            write(path, rows=[])
        assert path.read_bytes() == before

    def test_the_projects_own_loses_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(results, "ROOT", tmp_path)
        path = write(tmp_path / "results" / "full" / "example.json", rows=[ROW] * 3)
        before = path.read_bytes()
        for changes, lost in (({"rows": [ROW]}, "2 of its 3 rows"), ({"detectors": []}, "its rows of toy")):
            with pytest.raises(DataError, match=rf"would lose {lost}.* LIPCORE_RESULTS .* on purpose"):
                write(path, **({"rows": [ROW] * 3} | changes))
            assert path.read_bytes() == before
        write(path, rows=[ROW] * 4)
        assert len(read_results(path)["rows"]) == 4
        other = write(tmp_path / "results" / "quick" / "example.json", rows=[ROW] * 3)
        write(other, rows=[ROW])
        assert len(read_results(other)["rows"]) == 1

    def test_a_full_disk_leaves_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "example.json")
        before = path.read_bytes()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(path, rows=[ROW] * 2)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["example.json"]

    def test_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LIPCORE_RESULTS", raising=False)
        assert results_path("example", "quick") == results.ROOT / "results" / "quick" / "example.json"
        monkeypatch.setenv("LIPCORE_RESULTS", "results/custom/mine")
        assert results_path("example", "quick") == results.ROOT / "results" / "custom" / "mine" / "example.json"
        monkeypatch.setenv("LIPCORE_RESULTS", "/somewhere")
        assert results_path("example", "quick") == Path("/somewhere/example.json")
        assert results_path("example", "quick", "own.module:make") == Path("/somewhere/example.json")
        monkeypatch.delenv("LIPCORE_RESULTS")
        own = results.ROOT / "results" / "custom" / "full-own.module-make-+pnet" / "example.json"
        assert results_path("example", "full", "own.module:make/+pnet") == own


class TestStandBy:
    @pytest.fixture
    def top(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(results, "ROOT", tmp_path)
        return tmp_path / "results"

    def test_the_full_run_with_the_own_beside(self, top: Path) -> None:
        own = write(top / "quick" / "example.json")
        write(top / "full" / "example.json", profile="full")
        first, second = shown_and_own(own)
        assert first["profile"] == "full"
        assert second is not None
        assert second["profile"] == "quick"

    def test_the_own_where_there_is_no_full_run(self, top: Path) -> None:
        first, second = shown_and_own(write(top / "quick" / "example.json"))
        assert (first["profile"], second) == ("quick", None)

    def test_the_full_run_alone(self, top: Path) -> None:
        first, second = shown_and_own(write(top / "full" / "example.json", profile="full"))
        assert (first["profile"], second) == ("full", None)

    def test_the_own_of_a_readers_detector(self, top: Path) -> None:
        own = write(top / "custom" / "theirs" / "example.json", profile="custom")
        write(top / "full" / "example.json", profile="full")
        first, second = shown_and_own(own)
        assert (first["profile"], second) == ("custom", None)

    def test_nothing(self, top: Path) -> None:
        write(top / "full" / "example.json")
        with pytest.raises(DataError, match="no results"):
            shown_and_own(top / "quick" / "example.json")


class TestPoster:
    def test_ipi_as_printed(self) -> None:
        assert [(r["faces"], r["distance"], r["value"]) for r in poster("ipi")] == [
            (1, 40, 100.0), (9, 40, 51.5), (9, 160, 56.0), (9, 240, 63.9), (64, 40, 18.3),
        ]  # fmt: skip

    def test_wider_as_printed(self) -> None:
        values = {(r["metric"], r["method"], r["subset"]): r["value"] for r in poster("wider")}
        printed = {
            ("ap", "clean"): (92.4, 90.7, 77.3),
            ("ap", "IMP"): (46.2, 50.7, 45.9),
            ("ap", "LP"): (30.1, 34.7, 29.3),
            ("ap", "LIP-A"): (28.2, 32.2, 23.6),
            ("ap", "LIP-H"): (26.5, 31.1, 26.6),
            ("asr", "IMP"): (50.0, 44.1, 40.6),
            ("asr", "LP"): (67.4, 61.7, 62.1),
            ("asr", "LIP-A"): (69.5, 64.5, 69.5),
            ("asr", "LIP-H"): (71.3, 65.7, 65.6),
        }
        subsets = ("easy", "medium", "hard")
        assert values == {(*k, s): v for k, row in printed.items() for s, v in zip(subsets, row, strict=True)}

    def test_coco_as_printed(self) -> None:
        assert [(r["method"], r["metric"], r["value"]) for r in poster("coco")] == [
            ("IMP", "ar", 7.9), ("LP", "ar", 2.2), ("IMP", "ap", 6.9), ("LP", "ap", 1.9),
        ]  # fmt: skip

    def test_unknown_table(self) -> None:
        with pytest.raises(DataError, match="valid: coco, ipi, wider"):
            poster("fddb")


class TestPlain:
    def test_json_types(self) -> None:
        @dataclass(frozen=True)
        class Inner:
            pair: tuple[int, float]

        value = {"a": Inner((1, math.nan)), 3: [True, None, "x", math.inf], "n": np.float64(2.5)}
        assert plain(value) == {"a": {"pair": [1, None]}, "3": [True, None, "x", None], "n": 2.5}

    def test_digest_changes_with_anything(self) -> None:
        base = interference_config.Config(parts=())
        others = [
            replace(base, tau=0.3),
            replace(base, matching=Matching(rematch=True)),
            replace(base, extent=Extent(value=0.5)),
            replace(base, canvas=705),
        ]
        assert len({digest(c) for c in (base, *others)}) == 5
        assert digest(base) == digest(interference_config.Config(parts=()))
        assert len(digest(base)) == 12

    def test_digest_of_the_default_study_is_what_full_runs_recorded(self) -> None:
        """Records are found again by it: a change of a field or a default throws every recorded run away."""
        pnet = load_detector("pnet").info
        assert interference_config.full("centerface").fingerprint(pnet) == "aedcdacf2160"


def test_git_commit_names_the_checkout() -> None:
    commit = git_commit()
    assert commit == "" or len(commit.rstrip("+")) == 40


def test_stopwatch() -> None:
    watch = Stopwatch()
    time.sleep(0.01)
    assert 0.01 <= watch.seconds < 10


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
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from test_results import TINY
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
        arguments = [sys.executable, "-c", CHILD, str(killed), str(Path(__file__).parent)]
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
