"""The chapters about a reader's own detector and photographs: ``make book DETECTOR=... IMAGES=...``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lipcore.datasets.synthetic import Grid

#: Of what the book measures, what is about the reader's detector; HR-mini's own evaluation, for one, is not.
EXPERIMENTS = {"interference", "receptive_fields", "noise", "assumptions"}
#: The notebooks that are run: those that measure it, and page 1. The pages of such a book are the pipeline's test.
NOTEBOOKS = (*sorted(EXPERIMENTS), "paper")
pytestmark = pytest.mark.slow
#: The file a reader writes: a detector of their own, here P-Net under another name and for another size of face.
DETECTOR = """
from lipcore.detectors.pnet import PNet


class Mine(PNet):
    name = "mine"


def make():
    return Mine(face_side=44)
"""


def photograph(path: Path, seed: int) -> None:
    """A picture with four faces, saved as its name says."""
    pixels = Grid(faces=4, distance=40, canvas=240).draw(seed).image[0].permute(1, 2, 0).byte().numpy()
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, root: Path, clean_environment: dict[str, str]) -> Path:
    """A checkout in which the chapters about that detector were run."""
    top = tmp_path_factory.mktemp("reader")
    folder = top / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "generated", ".ipynb_checkpoints")
    for name in ("lipcore", "book", "data", "results/full"):
        shutil.copytree(root / name, folder / name, ignore=ignored)
    for path in (folder / "book").glob("*.ipynb"):
        if path.stem not in NOTEBOOKS:
            path.unlink()
    for name in ("dodo.py", "_config.yml", "pyproject.toml", "CITATION.cff"):
        shutil.copyfile(root / name, folder / name)
    (folder / "readers_detector.py").write_text(DETECTOR)
    pictures = top / "my pictures"
    pictures.mkdir()
    photograph(pictures / "one.png", 1)
    photograph(pictures / "two.jpg", 2)
    environment = {k: v for k, v in clean_environment.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "doit", "notebook", "detector=readers_detector:make", f"images={pictures}"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return folder


def test_every_result_is_of_the_readers_detector_and_apart_from_the_projects_own(built: Path) -> None:
    (own,) = (built / "results" / "custom").iterdir()
    assert {p.stem for p in own.glob("*.json")} == EXPERIMENTS
    for name in EXPERIMENTS:
        assert "mine" in json.loads((own / f"{name}.json").read_text())["provenance"]["detectors"]
    assert not (built / "results" / "quick").exists()


def test_the_photographs_were_attacked(built: Path) -> None:
    (document,) = (json.loads(p.read_text()) for p in (built / "results" / "custom").glob("*/noise.json"))
    assert document["provenance"]["dataset"]["n_images"] == 2
    assert document["provenance"]["dataset"]["n_faces"] >= 4
    changes = {r["perturbation"]: r["value"] for r in document["rows"] if r["metric"] == "l_inf"}
    assert changes["lip-a"] == changes["imp"] == document["config"]["epsilon"]


def test_the_chapters_speak_of_the_readers_detector(built: Path) -> None:
    run = {p.stem: p.read_text() for p in (built / "_build" / "executed").glob("*/*.ipynb")}
    assert run.keys() == set(NOTEBOOKS)
    for name in ("paper", "interference", "receptive_fields"):
        shown = [cell["outputs"] for cell in json.loads(run[name])["cells"] if cell["cell_type"] == "code"]
        assert "mine" in json.dumps(shown)
    assert str(built) not in "".join(run.values())
