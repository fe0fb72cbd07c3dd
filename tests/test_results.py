"""Results files: their form, what stands in for what is not measured, and the poster's numbers."""

from __future__ import annotations

import errno
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys

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
from lipcore.studies.interference import config as interference_config

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
        for changes, lost in (
            ({"rows": [ROW]}, "2 of its 3 rows"),
            ({"detectors": []}, "its rows of toy"),
            ({"dataset": Dataset("a reader's", "abc", 3, 9)}, "its rows of toys"),
        ):
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
        """A folder of one's own has the same ones in it; only that of one build is the exact one."""
        monkeypatch.delenv("LIPCORE_RUN", raising=False)
        for given, top in ((None, "results"), ("mine", "mine"), ("/somewhere", "/somewhere")):
            monkeypatch.delenv("LIPCORE_RESULTS", raising=False)
            if given is not None:
                monkeypatch.setenv("LIPCORE_RESULTS", given)
            folder = results.ROOT / top
            for profile in ("quick", "full"):
                assert results_path("example", profile) == folder / profile / "example.json"
            own = folder / "custom" / "full-own.module-make-+pnet" / "example.json"
            assert results_path("example", "full", "own.module:make/+pnet") == own
        monkeypatch.setenv("LIPCORE_RUN", "results/custom/mine")
        for variant in ("", "own.module:make"):
            assert results_path("example", "quick", variant) == results.ROOT / "results/custom/mine/example.json"


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


def test_a_wheel_names_no_commit_of_the_folder_it_is_used_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "IN_CHECKOUT", False)
    monkeypatch.setattr(results, "_git", lambda *_: "0123456789012345678901234567890123456789")
    assert git_commit() == ""


def test_stopwatch() -> None:
    watch = Stopwatch()
    time.sleep(0.01)
    assert 0.01 <= watch.seconds < 10
