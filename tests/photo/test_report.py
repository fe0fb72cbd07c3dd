"""The report: one page that needs nothing else, with counts that were measured."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import toys
from PIL import Image
from typer.testing import CliRunner

from lipcore.cli import app
from lipcore.detectors import load_detector
from lipcore.errors import ImageError
from lipcore.images import load_image
from lipcore.photo import report
from lipcore.photo.batch import Loading
from lipcore.photo.report import check_report, write_report


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The book's other detectors are looked at by one of them, which is quick."""
    monkeypatch.setattr(report, "FACE_DETECTORS", ("pnet",))


def attacked(folder: Path, *options: object) -> str:
    """The page of all photographs in the folder."""
    own = ["-o", folder / "out", "--detector", "toys:unsure", "--method", "imp-i", "--report", folder / "r.html"]
    result = CliRunner().invoke(app, [str(a) for a in ("attack", folder, *own, *options)])
    assert result.exit_code == 0, result.output
    assert f"report in {folder / 'r.html'}" in result.stdout
    return (folder / "r.html").read_text()


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Of two photographs, the first without a face."""
    for name, corners in (("one & only", toys.FAR), ("empty", [])):
        image = toys.bright(corners)[0].permute(1, 2, 0).byte().numpy()
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return attacked(tmp_path)


def test_it_stands_alone(page: str) -> None:
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert not re.findall(r"https?://", page)
    assert page.count("data:image/webp") == 3
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|<link|<iframe|srcset", page)
    assert "What this does not protect from" in page
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.split(";")[0] == "default-src 'none'", "a browser refuses whatever the page would ask for"
    assert "http" not in policy


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_under_its_own_policy_it_works_in_a_browser(page: str, tmp_path: Path) -> None:
    """The script runs and the pictures show; a picture from elsewhere, put in, does not."""
    pixel = tmp_path / "pixel.png"
    Image.new("RGB", (1, 1)).save(pixel)
    widths = "document.title = [...document.images].map(image => image.naturalWidth)"
    told = f"<script>addEventListener('load', () => {widths})</script>"
    (tmp_path / "r.html").write_text(page.replace("</body>", f'<img src="{pixel.as_uri()}">{told}</body>'))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}", "--dump-dom"]
    command = ["chromium", *options, (tmp_path / "r.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert '<body class="js">' in done.stdout
    assert "<title>64,64,64,0</title>" in done.stdout


def test_what_was_measured(page: str, tmp_path: Path) -> None:
    row = re.search(r'<th scope="row">toys:unsure \(attacked\)</th>(.*?)</tr>', page)
    assert row
    counts = [int(n) for n in re.findall(r"<td>(\d+)</td>", row[1])]
    model = load_detector("toys:unsure")
    photos = [load_image(tmp_path / "one & only.png"), load_image(tmp_path / "out" / "one & only.png")]
    assert counts[:2] == [len(model.detect(photo.pixels)[0]) for photo in photos] == [4, 0]
    assert len(counts) == 4
    assert '<th scope="row">P-Net</th>' in page
    assert page.count("<rect") == 4


def test_what_an_earlier_run_wrote(page: str, tmp_path: Path) -> None:
    """Its epsilon and steps are not known any more; from whom the faces were to be hidden is."""
    assert "at epsilon" in page
    kept = attacked(tmp_path)
    assert "Written by an earlier run: the largest change" in kept
    assert "at epsilon" not in kept
    assert "The faces were hidden from: toys:unsure." in kept
    assert "toys:unsure (attacked)" in kept
    Image.new("RGB", (9, 9)).save(tmp_path / "out" / "one & only.png")
    assert "not of this photograph's size" in attacked(tmp_path)


def test_the_weights_given_are_those_that_count(page: str, tmp_path: Path) -> None:
    """With that bias the toy finds nothing anywhere."""
    (tmp_path / "bias.txt").write_text("-99")
    row = r'<th scope="row">toys:unsure \(attacked\)</th><td>(\d+)</td>'
    assert re.findall(row, page) == ["4"]
    assert re.findall(row, attacked(tmp_path, "--weights", tmp_path / "bias.txt")) == ["0"]


def test_names_are_text_and_what_failed_is_said(page: str) -> None:
    assert "<h2>one &amp; only.png</h2>" in page
    assert "Nothing was written: toys:unsure finds no face" in page or "Nothing was written: toy finds no face" in page


@pytest.mark.parametrize("name", ["r.txt", "none/r.html", "."])
def test_refuses_a_name_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"ends in \.html|its folder is not there"):
        check_report(tmp_path / name)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ImageError, match="No space left"):
        write_report(tmp_path / "r.html", [], report.Hiding(), Loading(("toys:unsure",)))
    assert not list(tmp_path.iterdir())
