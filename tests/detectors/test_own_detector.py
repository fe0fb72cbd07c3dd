"""The book's example of a reader's own detector is whole, short, and does what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.updates import i_fgsm
from lipcore.cli import app
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector, load_detector
from lipcore.images import load_image, save_image
from lipcore.metrics.success import found
from lipcore.paths import ROOT

EXAMPLE = ROOT / "book" / "own_detector.py"


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Detector:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return load_detector("own_detector:Linear")


def test_the_example_is_under_forty_lines_and_shown_on_the_page() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40
    assert "{literalinclude} own_detector.py" in (EXAMPLE.parent / "own_detector.md").read_text()


@pytest.mark.filterwarnings("ignore:linear")  # it says that LIP takes one backward pass per instance
def test_the_example_finds_faces_and_can_be_attacked(detector: Detector) -> None:
    scene = Grid(faces=9, distance=20, canvas=256).draw(0)
    before = found(scene.boxes, detector.detect(scene.image)[0].boxes, 0.5)
    assert before.sum() >= 6
    for name in ("imp-i", "lip-a"):
        attacked = Attack(name, i_fgsm(8), extent=Extent(rule="fixed", value=40))(detector, scene.image).image
        after = found(scene.boxes, detector.detect(attacked)[0].boxes, 0.5)
        assert (before & ~after).sum() >= 2
    responses = detector(scene.image.repeat(2, 1, 1, 1))
    assert responses.logits.shape == (2, len(responses.centres))
    torch.testing.assert_close(responses.logits[0], responses.logits[1])


@pytest.mark.usefixtures("detector")
def test_the_example_works_on_the_command_line(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    pixels = Grid(faces=4, distance=20, canvas=160).draw(1).image[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels.astype(np.uint8)).save(photo)
    done = CliRunner().invoke(app, ["detect", str(photo), "--detector", "own_detector:Linear"])
    assert done.exit_code == 0, done.output
    assert "with probability >= 0.5" in done.stdout


def test_the_five_lines_of_the_readme_attack_it(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?load_image.*?)```", readme, re.DOTALL)
    own = lines.replace('load_detector("retinaface")', 'load_detector("own_detector:Linear")')
    assert own != lines
    assert 'load_detector("own_detector:Linear")' in readme
    scene = Grid(faces=4, distance=20, canvas=160).draw(1).image
    save_image(tmp_path / "photo.png", scene)
    code = own.replace("photo.jpg", "photo.png")
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    before, after = (int(n) for n in re.findall(r"\d+", done.stdout))
    assert after < before
    change = load_image(tmp_path / "hidden.png").pixels - load_image(tmp_path / "photo.png").pixels
    assert 0 < float(change.abs().max()) <= 8
