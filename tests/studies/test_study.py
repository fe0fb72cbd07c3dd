"""What the base does for every study: resuming, processes, estimates, tables without a detector, commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from studying import completed
from typer.testing import CliRunner

from lipcore import results
from lipcore.cli import app
from lipcore.errors import DataError, LipcoreError, OptionError, UnknownName
from lipcore.results import Dataset, read_results
from lipcore.studies.base import registry
from lipcore.studies.base import study as base
from lipcore.studies.base.registry import STUDIES, load_study
from lipcore.studies.base.study import Infos, Record, Run, Runnable, Study, Unit
from lipcore.studies.base.workers import Workers


@dataclass(frozen=True)
class Config:
    images: int = 3


class Squares(Study[Config]):
    """Squares of numbers, and one record that several parts want."""

    name = "squares"
    title = "squares of numbers"
    key = ("config", "detector", "image", "power")
    own_detector = "toys:make"

    def config(self, run: Run) -> Config:
        return Config(images=5 if run.profile == "full" else 3)

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        return [run.detector]

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        (info,) = infos.values()
        for image in [*range(config.images), 0]:
            shared = {"config": self.fingerprint("x", info), "detector": info.name, "image": image}
            yield Unit(shared, ({"power": 1}, {"power": 2}), what=image, part=f"image {image}")

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        assert run.load(run.detector).name == unit.shared["detector"]
        for want in unit.wanted:
            yield {"value": unit.what ** want["power"], "seconds": 60.0}

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        (info,) = infos.values()
        total = sum(r["value"] for r in records)
        row = {"detector": info.name, "metric": "sum", "value": total, "ci_low": None, "ci_high": None}
        return [row | {"n": len(records)}], {"total": total}

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        return Dataset("numbers", "x", config.images, 0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path / "results"))
    base._loaded.cache_clear()
    return tmp_path / "results"


def lines(folder: Path) -> list[Record]:
    return [json.loads(line) for line in (folder / "squares.records.jsonl").read_text().splitlines()]


def test_runs_writes_and_does_nothing_twice(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Squares().run(Run())
    document = read_results(path)
    assert path == elsewhere / "squares.json"
    assert (document["rows"][0]["value"], document["rows"][0]["n"]) == (0 + 1 + 2 + 0 + 1 + 4, 6)
    assert document["provenance"]["seconds"] == 360
    assert len(lines(elsewhere)) == 6, "what two parts want is measured once"
    monkeypatch.setattr(Squares, "measure", lambda *_: pytest.fail("measured again"))
    assert read_results(Squares().run(Run()))["rows"] == document["rows"]


def test_goes_on_in_the_middle_of_a_unit(elsewhere: Path) -> None:
    Squares().run(Run())
    path = elsewhere / "squares.records.jsonl"
    kept = "".join(path.read_text().splitlines(keepends=True)[:3])
    path.write_text(kept)
    assert read_results(Squares().run(Run()))["rows"][0]["value"] == 8
    assert path.read_text().startswith(kept)
    assert len(lines(elsewhere)) == 6


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    one, two = (
        completed(Squares(), Config(), tmp_path / f"{jobs}.jsonl", jobs=jobs, detector="toys:make") for jobs in (1, 2)
    )
    assert sorted(map(json.dumps, one)) == sorted(map(json.dumps, two))
    assert len(two) == 6


def test_a_table_needs_no_detector(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = read_results(Squares().run(Run()))
    monkeypatch.setattr(base, "load_detector", lambda *_: pytest.fail("loaded"))
    base._loaded.cache_clear()
    # The detector is known by the name in its results; a name of another kind is looked up as that.
    again = read_results(Squares().table(Run(detector="toy")))
    assert again["rows"] == document["rows"]
    assert again["provenance"]["detectors"] == document["provenance"]["detectors"]


def test_other_detectors_and_weights_have_a_place_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own results are never those of a run with another detector."""
    monkeypatch.delenv("LIPCORE_RUN")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "w.pth").write_bytes(b"weights")
    mine = Squares().run(Run())
    before = mine.read_bytes(), mine.with_suffix(".records.jsonl").read_bytes()
    assert mine == Squares().path(Run(detector="toys:make")) == tmp_path / "results/quick/squares.json"
    other = Squares().run(Run(detector="toys:Toy"))
    assert other == tmp_path / "results/custom/quick-toys-Toy/squares.json"
    assert other.with_suffix(".records.jsonl").is_file()
    assert Squares().table(Run(detector="toys:Toy")) == other
    weighed = Squares().path(Run(weights=tmp_path / "w.pth"))
    assert weighed == tmp_path / f"results/custom/quick-toys-make-{sha256(b'weights').hexdigest()[:8]}/squares.json"
    assert before == (mine.read_bytes(), mine.with_suffix(".records.jsonl").read_bytes())


def test_records_of_another_profile_are_left_out(elsewhere: Path) -> None:
    Squares().run(Run(profile="full"))
    assert len(lines(elsewhere)) == 10
    (elsewhere / "squares.json").unlink()
    assert read_results(Squares().table(Run()))["rows"][0]["n"] == 6


def test_nothing_measured_is_no_table() -> None:
    with pytest.raises(DataError, match="nothing measured"):
        Squares().table(Run())


def test_estimates_from_records_or_from_one_unit(elsewhere: Path) -> None:
    parts = list(Squares().estimate(Run()))
    assert parts == [(f"image {i}", 2, 2.0) for i in range(3)]
    assert not elsewhere.exists(), "an estimate records nothing"
    Squares().run(Run())
    assert list(Squares().estimate(Run(profile="full"))) == [(f"image {i}", 2, 2.0) for i in (3, 4)]


def test_an_estimate_measures_the_least_work_of_each_kind_and_says_so(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Image i is (4 - i) work here, so the last one is the cheapest; what is known is not measured."""
    measured: list[int] = []
    measure = Squares.measure

    def watched(self: Squares, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        measured.append(unit.shared["image"])
        yield from measure(self, config, unit, run)

    monkeypatch.setattr(Squares, "measure", watched)
    monkeypatch.setattr(Squares, "alike", lambda _, config, record: [("all", 4 - record["image"])])
    estimated = list(Squares().estimate(Run()))
    assert measured == [2]
    assert estimated == [(f"image {i}", 2, (4 - i) * 1.0) for i in range(3)]
    assert "squares: of some of it nothing alike is recorded" in capsys.readouterr().err
    Squares().run(Run())
    measured.clear()
    assert len(list(Squares().estimate(Run(profile="full")))) == 2
    assert not measured
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_does_not_take_is_refused(name: str) -> None:
    """Instead of being dropped without a word, or of a table of other things than was asked for."""
    with pytest.raises(UnknownName, match=r"unknown profile 'ful'; valid: quick, full\. Did you mean 'full'"):
        load_study(name).run(Run(profile="ful"))
    study = load_study(name)
    given = {
        "detector": "toys:make",
        "device": "meta",
        "weights": Path("w"),
        "data": Path("x"),
        "only": "x",
        "part": "x",
    }
    for option in set(given) - set(study.options):
        with pytest.raises(OptionError, match=f"{name} does not take --{option} .*; valid: --profile"):
            study.path(Run(profile="full", **{option: given[option]}))  # type: ignore[arg-type]


def test_a_detector_that_the_profile_does_not_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Squares, "detectors", lambda *_: ["pnet"])
    with pytest.raises(OptionError, match="squares of profile quick is of pnet, not toys:unsure"):
        Squares().run(Run(detector="toys:unsure"))


@pytest.mark.parametrize("name", ["lip_cost", "noise", "receptive_fields", "theory"])
def test_what_is_not_the_projects_own_is_written_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIPCORE_RUN")
    monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path))
    study = load_study(name)
    assert study.path(Run()) == study.path(Run(detector=study.own_detector)) == tmp_path / "quick" / f"{name}.json"
    assert study.path(Run(profile="full")) == tmp_path / "full" / f"{name}.json"
    assert study.path(Run(detector="toys:make")) == tmp_path / "custom" / "quick-toys-make" / f"{name}.json"


@pytest.mark.parametrize("name", ["noise", "receptive_fields", "theory"])
def test_what_keeps_no_records_has_no_table(name: str) -> None:
    with pytest.raises(LipcoreError, match=f"{name} keeps no records to make a table from; lipcore run {name}"):
        load_study(name).table(Run())


class TestRegistry:
    def test_every_line_is_a_study_of_that_name(self) -> None:
        for name in STUDIES:
            study = load_study(name)
            assert isinstance(study, Runnable)
            assert study.name == name
            assert study.title
            assert not study.title.endswith(".")

    def test_unknown_study(self) -> None:
        with pytest.raises(UnknownName, match="unknown study 'interferense'"):
            load_study("interferense")


class TestCommands:
    @pytest.fixture(autouse=True)
    def squares(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry.STUDIES, "squares", "test_study:Squares")

    def call(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == code, done.output
        return done.output

    def test_run_table_and_studies(self, elsewhere: Path) -> None:
        assert "0 to do" not in self.call("run", "squares", "--estimate")
        assert "6.0 min in all, with 1 process\n" in self.call("run", "squares", "--estimate")
        assert "squares.json" in self.call("run", "squares")
        assert "squares.json" in self.call("table", "squares", "--profile", "quick", "--detector", "toy")
        assert "squares of numbers" in self.call("studies")
        assert "1 rows from 3 images, toy" in self.call("studies")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["run", "squarez"], "unknown study 'squarez'"),
            (["run", "squares", "--profile", "fast"], "unknown profile 'fast'; valid: quick, full"),
            (["run", "squares", "--detector", "nobody"], "unknown detector 'nobody'"),
            (["table", "squares", "--profile", "quick"], "nothing measured"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, arguments: list[str], said: str) -> None:
        output = self.call(*arguments, code=1)
        assert output.startswith("lipcore: ")
        assert said in output
        assert output.count("\n") == 1


def test_workers_give_each_task_with_its_results() -> None:
    assert [(task, list(made)) for task, made in Workers().each(range, [1, 2])] == [(1, [0]), (2, [0, 1])]
    made = dict(Workers(jobs=2).each(list, ["ab", "c"]))
    assert made == {"ab": ["a", "b"], "c": ["c"]}
