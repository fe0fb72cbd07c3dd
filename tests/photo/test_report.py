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
from lipcore.photo.report import check_report, write_report


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The book's other detectors are looked at by one of them, which is quick."""
    monkeypatch.setattr(report, "FACE_DETECTORS", ("pnet",))


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Of two photographs, the second without a face."""
    for name, corners in (("one & only", toys.FAR), ("empty", [])):
        image = toys.bright(corners)[0].permute(1, 2, 0).byte().numpy()
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    arguments = ["attack", tmp_path / "one & only.png", tmp_path / "empty.png", "-o", tmp_path / "out"]
    options = ["--detector", "toys:unsure", "--method", "imp-i", "--report", tmp_path / "r.html"]
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, *options)])
    assert result.exit_code == 0, result.output
    assert f"report in {tmp_path / 'r.html'}" in result.stdout
    return (tmp_path / "r.html").read_text()


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


def test_names_are_text_and_what_failed_is_said(page: str) -> None:
    assert "<h2>one &amp; only.png</h2>" in page
    assert "Nothing was written: toys:unsure finds no face" in page or "Nothing was written: toy finds no face" in page


@pytest.mark.parametrize("name", ["r.txt", "none/r.html", "."])
def test_refuses_a_name_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"ends in \.html|its folder is not there"):
        check_report(tmp_path / name)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ImageError, match="No space left"):
        write_report(tmp_path / "r.html", [], report.Hiding())
    assert not list(tmp_path.iterdir())
