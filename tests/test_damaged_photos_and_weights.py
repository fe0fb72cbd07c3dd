"""Damage of every kind to photographs and weights, and kills in the middle of writing.

Whatever is read gives one clear line that names the file, or a result; whatever is written is whole or not there.
"""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from damaging import SEED, damage, outcome
from PIL import Image, features

from lipcore.detectors import load_detector
from lipcore.detectors.weights import find_weights
from lipcore.images import load_image

FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "AVIF", "HEIF"]


def encoded(form: str) -> bytes:
    picture = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([1, 2, 3]) % 256
    image = Image.fromarray(picture.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    buffer = io.BytesIO()
    if form == "HEIF":
        pytest.importorskip("pillow_heif", reason="the extra heic is not installed").from_pillow(image).save(buffer)
    elif form in ("JPEG", "PNG", "WEBP", "TIFF"):
        image.save(buffer, form, exif=exif)
    elif form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    else:
        image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_photographs(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = encoded(form)
    rng = np.random.default_rng([SEED, FORMATS.index(form)])
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    whole, _ = outcome(lambda: load_image(path), path, capsys)
    assert whole is not None
    refused = 0
    for kind in range(8):
        path.write_bytes(damage(content, kind, rng))
        photo, _ = outcome(lambda: load_image(path), path, capsys)
        refused += photo is None
        if photo is not None:
            pixels = photo.pixels  # type: ignore[attr-defined]
            assert pixels.shape[:2] == (1, 3)
            assert torch.equal(pixels, pixels.round().clamp(0, 255))
    assert refused, "the damage is none"


@pytest.mark.parametrize(("name", "rounds"), [("pnet", 3), ("hr-mini", 1), ("centerface", 3)])
def test_damaged_weights(name: str, rounds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A zip with a pickle, safetensors, and a graph: what loads after all is said not to be the registered file."""
    content = find_weights(name).read_bytes()
    rng = np.random.default_rng([SEED, len(name)])
    path = tmp_path / "weights"
    for kind in list(range(8)) * rounds:
        path.write_bytes(damage(content, kind, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, where a damaged graph is run
            detector, said = outcome(lambda: load_detector(name, weights=path), path, capsys)
        if detector is not None:
            assert "is not the registered file of" in said
            assert all(bool(torch.isfinite(p).all()) for p in detector.parameters())  # type: ignore[attr-defined]


KILLS = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from lipcore.images import load_image, save_image

    torch.set_num_threads(1)  # a forked process has none of the others
    folder = Path(sys.argv[1])
    images = [torch.full((1, 3, 200, 300), float(v)) + torch.arange(300) % 50 for v in (10, 200)]
    out = folder / "out.png"
    save_image(out, images[0])
    draw = random.Random(1)
    for number in range(12):
        how = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[number % 3]
        child = os.fork()
        if child == 0:
            try:
                while True:
                    for image in images:
                        save_image(out, image)
            except KeyboardInterrupt:
                os._exit(0)
        time.sleep(0.05 + 0.1 * draw.random())
        os.kill(child, how)
        os.waitpid(child, 0)
        found = load_image(out).pixels
        assert any(torch.equal(found, image) for image in images), f"half a photograph after {how!r}"
        left = [p.name for p in folder.iterdir() if p.name != "out.png"]
        assert not (left and how == signal.SIGINT), f"{left} left after Ctrl-C"
        for name in left:
            (folder / name).unlink()
    print("whole")
"""

FULL = """
    import resource, sys
    from pathlib import Path
    import torch
    from lipcore.errors import ImageError
    from lipcore.images import save_image

    out = save_image(Path(sys.argv[1]) / "out.png", torch.zeros(1, 3, 8, 8))
    before = out.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        save_image(out, torch.rand(1, 3, 200, 200) * 255)
    except ImageError as error:
        assert "cannot write" in str(error) and "File too large" in str(error), error
    assert out.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == ["out.png"]
    print("whole")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork and no limit of a file's size")
@pytest.mark.parametrize("script", [KILLS, FULL], ids=["killed", "full disk"])
def test_a_photograph_is_whole_whatever_happens(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "whole\n", done.stderr
