"""The study of receptive fields."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toys

from lipcore.errors import UnknownName
from lipcore.receptive_field import theoretical_sides
from lipcore.results import frame, read_results
from lipcore.studies.receptive_fields import study as receptive_fields
from lipcore.studies.receptive_fields.figures import fields_figure


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of these tests go to a folder of their own."""
    monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


class TestReceptiveFields:
    def test_of_the_toy(self, elsewhere: Path) -> None:
        path, _ = receptive_fields.measure_fields("quick", [toys.Toy(("small", "large"))])
        document = read_results(path)
        assert path == elsewhere / "receptive_fields.json"
        values = {(r["template"], r["metric"]): r["value"] for r in document["rows"]}
        for template in ("small", "large"):
            assert values[template, "trf"] == 13
            sides = [values[template, f"side_{m}"] for m in (50, 75, 90, 95, 99)]
            assert sides == sorted(sides)
            assert values[template, "ratio"] == pytest.approx(values[template, "side_90"] / 13)
            assert values[template, "overlap_240"] == 0
        assert document["summary"]["trf"] == 13

    def test_random_weights_stand_beside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        models = [toys.Toy(("small", "middle", "large")), toys.Toy(), toys.Toy()]
        for model, name in zip(models, ("studied", receptive_fields.RANDOM, "control"), strict=True):
            model.name = name
        path, fields = receptive_fields.measure_fields("quick", models)
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

    def test_as_many_images_as_the_profile_says(self) -> None:
        document = read_results(receptive_fields.measure_fields("full", [toys.Toy()])[0])
        assert {r["n"] for r in document["rows"]} == {document["config"]["images"]} == {8}
        assert document["provenance"]["dataset"]["n_images"] == 8
        with pytest.raises(UnknownName, match="unknown profile 'fast'; valid: quick, full"):
            receptive_fields.measure_fields("fast", [toys.Toy()])
