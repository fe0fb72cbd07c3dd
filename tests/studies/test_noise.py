"""The study of photographs under noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lipcore.attacks.crop import Extent
from lipcore.attacks.presets import PRESETS
from lipcore.datasets.crowds import load_crowd
from lipcore.datasets.synthetic import Crowd
from lipcore.detectors import load_detector
from lipcore.errors import DataError, NoFaceFound
from lipcore.results import read_results
from lipcore.studies.base.study import Run
from lipcore.studies.noise import study as noise

FIXED = Extent(rule="fixed", value=43)


class TestPhotos:
    def config(self, folder: Path, **fields: Any) -> noise.Config:
        return noise.Config(images=str(folder), extent=FIXED, **fields)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two photographs with faces of P-Net's size, and one without."""
        folder = tmp_path / "photographs"
        folder.mkdir()
        for seed in range(2):
            image = Crowd(faces=(2, 3), face_side=(40, 41), height=128, width=160).draw(seed).image
            Image.fromarray(image[0].permute(1, 2, 0).byte().numpy()).save(folder / f"{seed}.png")
        Image.fromarray(np.full((96, 96, 3), 99, np.uint8)).save(folder / "none.png")
        return folder

    def test_a_readers_folder(self, folder: Path) -> None:
        path = folder.parent / "noise.json"
        shown = noise.measure(path, "quick", load_detector("pnet"), self.config(folder))
        document = read_results(path)
        assert {r["perturbation"] for r in document["rows"]} == set(PRESETS)
        assert {r["n"] for r in document["rows"] if r["metric"] == "asr"} == {2}, "one has no face"
        values = {(r["perturbation"], r["metric"]): r["value"] for r in document["rows"]}
        for name in PRESETS:
            assert values[name, "l_inf"] == 4
            assert values[name, "psnr"] > 34
            assert 0 < values[name, "touched"] <= 1
        assert values["imp-i", "asr"] >= values["random", "asr"]
        assert document["summary"]["images"] == 3
        assert document["provenance"]["dataset"]["name"] == "photographs of the reader"
        assert len(shown) == 3 + 2 * len(PRESETS)
        for picture in shown:
            assert torch.equal(picture.image, picture.image.round().clamp(0, 255))
            assert len(picture.correct) == len(picture.detections)
            assert (picture.image - picture.scene.image).abs().max() == picture.visibility.l_inf <= 4
        clean = next(s for s in shown if s.perturbation == "")
        assert clean.correct.all(), "without ground truth the clean detections stand for the faces"

    def test_at_most_so_many(self, folder: Path) -> None:
        path = folder.parent / "noise.json"
        shown = noise.measure(path, "quick", load_detector("pnet"), self.config(folder, count=1, epsilon=1.0))
        assert len({s.scene.name for s in shown}) == 1
        assert read_results(path)["provenance"]["dataset"]["n_images"] == 1

    def test_crowds_that_may_be_shown(self) -> None:
        scenes = list(noise.crowds(4))
        assert [scene.name for scene in scenes[:3]] == list(noise.SHOWN)
        assert len({scene.name for scene in scenes}) == 4
        assert len(scenes[0].boxes) == len(load_crowd(noise.SHOWN[0])), "the faces that count"
        assert torch.equal(scenes[0].image, scenes[0].image.round().clamp(0, 255))
        assert len(list(noise.crowds(99))) == 24

    def test_no_face_on_any(self, folder: Path) -> None:
        for name in ("0.png", "1.png"):
            (folder / name).unlink()
        with pytest.raises(NoFaceFound, match="pnet finds no face on any of the 1 images"):
            noise.measure(folder / "noise.json", "quick", load_detector("pnet"), self.config(folder))

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is not a folder"):
            noise.measure(tmp_path / "noise.json", "quick", load_detector("pnet"), self.config(tmp_path / "none"))

    def test_a_run_of_the_readers_own_writes_beside_the_projects(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Photographs, detector and weights; the weights are those that are attacked."""
        monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path))
        (tmp_path / "bias.txt").write_text("-99")
        assert noise.Noise().path(Run()) == tmp_path / "quick" / "noise.json"
        run = Run(detector="toys:unsure", data=folder)
        with pytest.raises(NoFaceFound, match="toy finds no face on any of the 3 images"):
            noise.Noise().run(replace(run, weights=tmp_path / "bias.txt"))
        paths = {noise.Noise().path(r) for r in (run, replace(run, data=None), Run(data=folder))}
        paths.add(noise.Noise().path(replace(run, weights=tmp_path / "bias.txt")))
        assert {p.parent.parent for p in paths} == {tmp_path / "custom"}
        assert len(paths) == 4
