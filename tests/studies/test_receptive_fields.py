"""The study of receptive fields."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toys

from lipcore.chapters import receptive_fields as chapter
from lipcore.receptive_field import theoretical_sides
from lipcore.results import frame, read_results
from lipcore.studies.base.study import Run
from lipcore.studies.receptive_fields import study as receptive_fields
from lipcore.studies.receptive_fields.figures import fields_figure


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a results file."""
    return tmp_path / "receptive_fields.json"


class TestReceptiveFields:
    def test_of_the_toy(self, path: Path) -> None:
        receptive_fields.measure_fields(path, "quick", {"toys:make": toys.Toy(("small", "large"))})
        document = read_results(path)
        values = {(r["template"], r["metric"]): r["value"] for r in document["rows"]}
        for template in ("small", "large"):
            assert values[template, "trf"] == 13
            sides = [values[template, f"side_{m}"] for m in (50, 75, 90, 95, 99)]
            assert sides == sorted(sides)
            assert values[template, "ratio"] == pytest.approx(values[template, "side_90"] / 13)
            assert values[template, "overlap_240"] == 0
        assert document["summary"]["trf"] == 13

    def test_random_weights_stand_beside(self, path: Path) -> None:
        models = [toys.Toy(("small", "middle", "large")), toys.Toy(), toys.Toy()]
        for model, name in zip(models, ("studied", receptive_fields.RANDOM, "control"), strict=True):
            model.name = name
        fields = receptive_fields.measure_fields(path, "quick", {model.name: model for model in models})
        document = read_results(path)
        assert list(fields) == ["studied", receptive_fields.RANDOM, "control"]
        assert fields["studied"].middle.template == "middle"
        counted = {r["detector"]: r["n"] for r in document["rows"]}
        assert counted == dict.fromkeys(("studied", receptive_fields.RANDOM, "control"), 2)
        summary = document["summary"]
        assert (summary["template"], summary["templates"]) == ("middle", 3)
        assert summary["hr101_trf"] == summary["control_trf"] == 13
        assert len(fields_figure(frame(document)).axes[0].get_yticks()) == 5

    def test_hr101s_field_is_that_of_its_layers(self) -> None:
        detector = receptive_fields.random_hr101()
        (side,) = theoretical_sides(detector).values()
        assert side in (835, 851)  # one or two neighbours of the upsampling, by parity
        assert detector(torch.full((1, 3, 64, 64), 99.0)).logits.shape == (1, 7 * 7)

    @pytest.mark.parametrize(
        ("side", "pitch", "expected"), [(40, 40, 0), (40, 80, 0), (80, 40, 0.5), (100, 25, 0.75), (40, 0, 1)]
    )
    def test_overlap_by_hand(self, side: int, pitch: int, expected: float) -> None:
        assert receptive_fields.overlap(side, pitch) == expected

    def test_as_many_images_as_the_profile_says(self, path: Path) -> None:
        receptive_fields.measure_fields(path, "full", {"toy": toys.Toy()})
        document = read_results(path)
        assert {r["n"] for r in document["rows"]} == {document["config"]["images"]} == {8}
        assert document["provenance"]["dataset"]["n_images"] == 8

    def test_what_is_not_at_hand_keeps_its_rows(self, path: Path) -> None:
        """And its place among the others, of which the first and the last mean something."""
        models = {name: toys.Toy() for name in ("studied", "away", "control")}
        for name, model in models.items():
            model.name = name
        receptive_fields.measure_fields(path, "quick", models)
        before = read_results(path)
        found = receptive_fields.measure_fields(path, "quick", models | {"away": None, "never seen": None})
        assert list(found) == ["studied", "control"]
        after = read_results(path)
        for of in ("rows", "summary", "config"):
            assert after[of] == before[of]
        assert after["provenance"]["detectors"] == before["provenance"]["detectors"]

    @pytest.mark.parametrize(("profile", "beside"), [("quick", 2), ("full", 5)])
    def test_the_chapter_measures_what_the_profile_says(
        self, profile: str, beside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its own detectors, with the weights given."""
        monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path))
        monkeypatch.setattr(Run, "load", lambda run, name: f"{name} {run.weights if name == run.detector else ''}")
        monkeypatch.setattr(receptive_fields, "random_hr101", lambda: "random")
        monkeypatch.setattr(receptive_fields, "locate", lambda name: None if name == "centerface" else tmp_path)
        measured: list[dict[str, object]] = []
        monkeypatch.setattr(receptive_fields, "measure_fields", lambda path, profile, of: measured.append(of))
        monkeypatch.setattr(chapter, "Page", lambda *_, **__: None)
        chapter.open_page(profile, "hr-mini")
        (tmp_path / "w.pt").write_bytes(b"weights")
        receptive_fields.ReceptiveFields().run(Run(profile=profile, weights=tmp_path / "w.pt"))
        for of, weights in zip(measured, (None, tmp_path / "w.pt"), strict=True):
            assert len(of) == beside + 2
            assert [*of][-2:] == [receptive_fields.RANDOM, "pnet"]
            assert (of["hr-mini"], of["centerface"]) == (f"hr-mini {weights}", None)
