"""The studies of interference and of assumptions on tiny configurations with P-Net and the toy."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from studying import completed, tabled

from lipcore.attacks.crop import Extent
from lipcore.attacks.presets import ABLATIONS, PRESETS
from lipcore.datasets.synthetic import Grid
from lipcore.detectors.pnet import PNet
from lipcore.metrics.success import interference as coefficient
from lipcore.results import read_results
from lipcore.studies.assumptions import study as assumptions
from lipcore.studies.assumptions.study import Assumptions
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run
from lipcore.studies.interference import config as interference_config
from lipcore.studies.interference.study import Interference

INTERFERENCE = Interference()
FIXED = Extent(rule="fixed", value=43)
CELLS = ((1, 40), (4, 16))
TINY = interference_config.Config(
    parts=(interference_config.Part("pnet", CELLS, ("random", "imp", "imp-i", "lp", "lip-a", "alone"), images=3),),
    canvas=128,
    extent=FIXED,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of these tests go to a folder of their own."""
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path / "results"))
    return tmp_path / "results"


class TestSynthetic:
    @pytest.fixture(scope="class")
    @classmethod
    def measured(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The records and the results file of the tiny configuration."""
        folder = tmp_path_factory.mktemp("ipi")
        records = completed(INTERFERENCE, TINY, folder / "tiny.records.jsonl")
        return list(records), read_results(tabled(INTERFERENCE, TINY, records, folder / "tiny.json"))

    def row(self, document: dict[str, Any], metric: str, perturbation: str, faces: int) -> dict[str, Any]:
        (found,) = (
            r
            for r in document["rows"]
            if r["metric"] == metric and r.get("perturbation") == perturbation and r.get("faces") == faces
        )
        return dict(found)

    def test_there_is_a_record_for_every_unit(self, measured: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
        records, _ = measured
        assert len(records) == 2 * 3 * 6
        for record in records:
            if record["perturbation"] == "alone":
                assert len(record["drops"]) == len(record["chosen"]) <= 3
            else:
                assert len(record["before"]) == len(record["after"]) == record["faces"]
            assert record["seconds"] >= 0

    def test_asr_is_counted_from_the_records(self, measured: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
        records, document = measured
        for perturbation in ("random", "imp", "lip-a"):
            for faces, _ in CELLS:
                own = [r for r in records if r["perturbation"] == perturbation and r["faces"] == faces]
                pairs = [p for r in own for p in zip(r["before"], r["after"], strict=True)]
                row = self.row(document, "asr", perturbation, faces)
                found = [p for p in pairs if p[0] == "1"]
                assert row["value"] == pytest.approx(sum(p[1] == "0" for p in found) / len(found))
                assert row["clean_rate"] == pytest.approx(len(found) / len(pairs))
                assert (row["n"], row["n_faces"]) == (3, 3 * faces)
                assert row["ci_low"] <= row["value"] <= row["ci_high"]
                assert row["ci_low"] < row["ci_high"]

    def test_a_gradient_does_more_than_random_signs(
        self, measured: tuple[list[dict[str, Any]], dict[str, Any]]
    ) -> None:
        _, document = measured
        drops = {p: self.row(document, "logit_drop", p, 4)["value"] for p in ("random", "imp-i")}
        assert drops["imp-i"] > 5 * max(drops["random"], 0.1)

    def test_interference_is_of_the_faces_attacked_both_ways(
        self, measured: tuple[list[dict[str, Any]], dict[str, Any]]
    ) -> None:
        records, document = measured
        joint, alone = [], []
        for image in range(3):
            (apart,) = (r for r in records if (r["perturbation"], r["faces"], r["image"]) == ("alone", 4, image))
            (together,) = (r for r in records if (r["perturbation"], r["faces"], r["image"]) == ("imp-i", 4, image))
            alone += apart["drops"]
            joint += [together["drops"][k] for k in apart["chosen"]]
        row = self.row(document, "interference", "imp-i", 4)
        assert row["value"] == pytest.approx(coefficient(joint, alone))
        assert row["ci_low"] <= row["value"] <= row["ci_high"]

    def test_of_a_face_alone_there_is_no_interference(
        self, measured: tuple[list[dict[str, Any]], dict[str, Any]]
    ) -> None:
        records, document = measured
        assert not [r for r in document["rows"] if r["metric"] == "interference" and r.get("faces") == 1]
        for image in range(3):
            drops = [
                r["drops"]
                for p in ("alone", "imp-i")
                for r in records
                if (r["perturbation"], r["faces"], r["image"]) == (p, 1, image)
            ]
            assert drops[0] == drops[1], "attacked alone or jointly, a single face is the same"

    def test_provenance_and_summary(self, measured: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
        _, document = measured
        assert document["provenance"]["dataset"]["n_images"] == 6
        assert document["provenance"]["dataset"]["n_faces"] == 15
        assert document["config"]["canvas"] == 128
        assert document["summary"]["detector"] == "pnet"
        assert document["summary"]["imp_9_40"] is None, "other cells than the poster's"
        assert len(document["reported"]) == 5

    def test_records_of_another_configuration_are_left_out(self, tmp_path: Path) -> None:
        def config(canvas: int, images: int) -> interference_config.Config:
            part = interference_config.Part("pnet", ((1, 40),), ("random",), images=images)
            return interference_config.Config(parts=(part,), canvas=canvas, extent=FIXED)

        one, two = config(96, 3), config(128, 1)
        path = tmp_path / "both.records.jsonl"
        completed(INTERFERENCE, one, path)
        records = completed(INTERFERENCE, two, path)
        assert len(records) == 4
        document = read_results(tabled(INTERFERENCE, two, records, tmp_path / "two.json"))
        assert {r["n"] for r in document["rows"]} == {1}

    def test_a_grid_that_does_not_fit_stops_before_anything_runs(self, tmp_path: Path) -> None:
        parts = (
            interference_config.Part("pnet", ((1, 40),), ("random",), images=1),
            interference_config.Part("pnet", ((64, 40),), ("random",), images=1),
        )
        with pytest.raises(ValueError, match="more than the canvas of 96 px"):
            completed(INTERFERENCE, interference_config.Config(parts=parts, canvas=96), tmp_path / "none.records.jsonl")
        assert not (tmp_path / "none.records.jsonl").exists()

    def test_an_image_on_which_nothing_is_found(self, tmp_path: Path) -> None:
        """The toy sees no face in a grid: nothing to attack is no success, and no cell counts."""
        config = interference_config.Config(
            parts=(interference_config.Part("toys:make", ((1, 40),), ("imp-i", "imp", "alone"), images=2),),
            canvas=96,
            face_side=8,
            extent=FIXED,
        )
        records = completed(INTERFERENCE, config, tmp_path / "toy.records.jsonl")
        assert {r.get("before", "0") for r in records} == {"0"}
        document = read_results(tabled(INTERFERENCE, config, records, tmp_path / "toy.json"))
        rows = [r for r in document["rows"] if r["metric"] == "asr"]
        assert [r["value"] for r in rows] == [None, None]
        assert {r["clean_rate"] for r in rows} == {0.0}

    def test_measure_writes_where_results_go(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(
            interference_config.PROFILES,
            "quick",
            lambda detector: interference_config.Config(
                parts=(interference_config.Part(detector, ((1, 40),), ("random",), images=1),), canvas=96
            ),
        )
        path = INTERFERENCE.run(Run(detector="pnet"))
        assert path == elsewhere / "interference.json"
        assert read_results(path)["profile"] == "quick"
        assert (elsewhere / "interference.records.jsonl").read_text().count("\n") == 1

    @pytest.mark.parametrize("profile", interference_config.PROFILES)
    @pytest.mark.parametrize("detector", ["centerface", "pnet"])
    def test_profiles_fit_their_canvas_and_have_the_posters_cells(self, profile: str, detector: str) -> None:
        config = interference_config.PROFILES[profile](detector)
        cells = {cell for part in config.parts for cell in part.cells if part.detector == detector}
        assert cells >= set(interference_config.POSTER_CELLS)
        for part in config.parts:
            assert set(part.perturbations) <= {*PRESETS, "alone"}
            for cell in part.cells:
                config.grid(*cell)

    @pytest.mark.parametrize("studied", ["hr-mini", "centerface", "pnet"])
    def test_the_full_profile_has_thirty_faces_and_six_images_everywhere(self, studied: str) -> None:
        images: dict[tuple[str, str, float, int, int], int] = {}
        for part in interference_config.full(studied).parts:
            for unit in itertools.product(part.perturbations, part.epsilons, part.cells):
                key = (part.detector, *unit[:2], *unit[2])
                images[key] = max(part.images, images.get(key, 0))
        few = {key: n for key, n in images.items() if n < 6 or n * key[3] < 30}
        assert not few
        measured = {(d, e, (faces, distance)) for d, p, e, faces, distance in images if p == "imp"}
        grid = {
            *interference_config.POSTER_CELLS,
            *interference_config.grid_cells(interference_config.Config(parts=())),
        }
        assert len(grid) >= 20
        wanted = {(studied, e, cell) for e in (4.0, 2.0) for cell in grid}
        wanted |= {(studied, e, cell) for e in (1.0, 8.0, 16.0) for cell in interference_config.POSTER_CELLS}
        for other in {"centerface", "pnet"} - {studied}:
            wanted |= {(other, e, cell) for e in (4.0, 2.0, 1.0) for cell in interference_config.POSTER_CELLS}
        assert measured == wanted

    def test_two_processes_find_what_one_does(self, tmp_path: Path) -> None:
        part = interference_config.Part("pnet", ((1, 40), (4, 40)), ("random", "imp"), images=2)
        config = interference_config.Config(parts=(part,), canvas=160, extent=FIXED)
        one, two = (completed(INTERFERENCE, config, tmp_path / f"{jobs}.records.jsonl", jobs=jobs) for jobs in (1, 2))

        def facts(records: Records) -> list[tuple[object, ...]]:
            return sorted((*two.unit(r), r["before"], r["after"]) for r in records)

        assert facts(one) == facts(two)
        assert len(two) == 8

    def test_estimate_names_what_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        parts = tuple(interference_config.Part("pnet", ((1, 40),), (p,), images=2) for p in ("random", "imp"))
        config = interference_config.Config(parts=parts, canvas=96, extent=FIXED)
        path = tmp_path / "some.records.jsonl"
        completed(INTERFERENCE, interference_config.Config(parts=parts[:1], canvas=96, extent=FIXED), path)
        before = path.read_text()
        monkeypatch.setattr(Interference, "config", lambda *_: config)
        monkeypatch.setattr(Interference, "path", lambda *_: tmp_path / "some.json")
        ((part, images, needed),) = INTERFERENCE.estimate(Run(detector="pnet"))
        assert (part, images) == ("pnet, epsilon 4, imp; 1 at 40", 2)
        assert 0 < needed < 1
        assert path.read_text() == before


class TestAblations:
    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> tuple[assumptions.Variant, ...]:
        grid = Grid(faces=4, distance=16, canvas=128)
        variant = assumptions.Variant
        ledger = (
            variant(assumption="A2", label="LP", default=True, grid=grid, extent=FIXED),
            variant(assumption="A3", label="LIP-A", perturbation="lip-a", grid=grid, extent=FIXED),
            variant(assumption="A4", label="20 px", grid=grid, extent=Extent(rule="fixed", value=20)),
            variant(assumption="A8", label="two scales", grid=grid, extent=FIXED, scales=(0.9, 1.0)),
            variant(assumption="A10", label="fixed", default=True, grid=grid, extent=FIXED),
        )
        monkeypatch.setattr(assumptions, "ledger", lambda: ledger)
        monkeypatch.setattr(assumptions, "config_for", lambda *_: assumptions.Config(images={"pnet": 2}))
        return ledger

    def test_measures_every_variant_and_resumes(
        self, small: tuple[assumptions.Variant, ...], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = Assumptions().run(Run(detector="pnet"))
        document = read_results(path)
        assert {(r["assumption"], r["variant"]) for r in document["rows"]} == {(v.assumption, v.label) for v in small}
        assert all(r["n"] == 2 for r in document["rows"])
        asr = {r["assumption"]: r["value"] for r in document["rows"] if r["metric"] == "asr"}
        assert asr["A2"] == asr["A10"], "the default is the default"
        assert all(0 <= v <= 1 for v in asr.values())
        assert {r["default"] for r in document["rows"] if r["assumption"] == "A2"} == {True}
        lines = (elsewhere / "assumptions.records.jsonl").read_text().count("\n")
        assert lines == 4 * 2, "two variants that differ in name alone are measured once"

        monkeypatch.setattr(assumptions, "_attack_image", lambda *_: pytest.fail("measured again"))
        assert read_results(Assumptions().run(Run(detector="pnet")))["rows"] == document["rows"]

    def test_a_pyramid_is_made_once_a_detector(
        self, small: tuple[assumptions.Variant, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its receptive field is measured once for each object, which costs more than the attack."""
        made: list[assumptions.Pyramid] = []

        class Counted(assumptions.Pyramid):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                made.append(self)

        monkeypatch.setattr(assumptions, "Pyramid", Counted)
        assumptions._pyramid.cache_clear()
        Assumptions().run(Run(detector="pnet"))
        assert len(made) == 1

    def test_the_ledger_has_one_default_for_each_assumption(self) -> None:
        ledger = assumptions.ledger()
        names = dict.fromkeys(v.assumption for v in ledger)
        assert list(names) == [f"A{i}" for i in (*range(1, 9), 10, 11, 12, 14)]
        for assumption in names:
            assert sum(v.default for v in ledger if v.assumption == assumption) == 1
        assert len({(v.assumption, v.label) for v in ledger}) == len(ledger)
        for variant in ledger:
            assert variant.perturbation in PRESETS | ABLATIONS
            if variant.default:
                assert variant.extent == Extent()


def test_pnet_and_the_grids_agree_on_the_size_of_a_face() -> None:
    assert PNet().face_side == interference_config.Config(parts=()).face_side
