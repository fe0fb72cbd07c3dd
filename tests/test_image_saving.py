"""Images on disk: what is written of an attacked image, and what is kept of the file that it was read from."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import RGB, RNG, SRGB, pixels
from PIL import Image

from lipcore import images
from lipcore.errors import ImageError, LipcoreWarning
from lipcore.images import LOSSLESS, Photo, check_output, load_image, quantise, save_image


class TestSave:
    @pytest.mark.parametrize(
        ("ending", "transparent"), [(e, t) for e in LOSSLESS for t in (False, True) if not (e == ".bmp" and t)]
    )
    def test_round_trip(self, tmp_path: Path, ending: str, transparent: bool) -> None:
        alpha = RNG.integers(0, 256, (12, 20), dtype=np.uint8) if transparent else None
        if alpha is not None:
            alpha[:4] = 0  # colours under full transparency are kept too
        like = Photo(torch.zeros(1, 3, 12, 20), alpha, SRGB)
        image = torch.from_numpy(RGB).permute(2, 0, 1)[None].float()
        path = save_image(tmp_path / f"out{ending}", image, like)
        photo = load_image(path)
        assert torch.equal(photo.pixels, image)
        if alpha is None:
            assert photo.alpha is None
        else:
            np.testing.assert_array_equal(photo.alpha, alpha)
        assert photo.icc == (None if ending == ".bmp" else SRGB)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_ending_in_capitals(self, tmp_path: Path) -> None:
        assert load_image(save_image(tmp_path / "OUT.PNG", torch.zeros(1, 3, 4, 4))).pixels.shape == (1, 3, 4, 4)

    def test_rounds_and_clips(self, tmp_path: Path) -> None:
        image = torch.tensor([-0.4, 0.6, 254.7, 255.4]).view(1, 1, 1, 4).expand(1, 3, 4, 4)
        assert pixels(load_image(save_image(tmp_path / "out.png", image)))[0, :, 0].tolist() == [0, 1, 255, 255]
        assert quantise(image)[0, 0, 0].tolist() == [0, 1, 255, 255]

    @pytest.mark.parametrize("name", ["out.jpg", "out.JPEG", "out.gif", "out", "out.xyz"])
    def test_refuses_what_would_lose_pixels(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ImageError, match=r"valid are \.png, \.tif, \.tiff, \.bmp, \.webp"):
            save_image(tmp_path / name, torch.zeros(1, 3, 4, 4))
        assert not list(tmp_path.iterdir())

    def test_refuses_transparency_in_a_bmp(self, tmp_path: Path) -> None:
        like = Photo(torch.zeros(1, 3, 4, 4), np.zeros((4, 4), np.uint8))
        with pytest.raises(ImageError, match=r"keeps no transparency; write a \.png"):
            save_image(tmp_path / "out.bmp", torch.zeros(1, 3, 4, 4), like)
        assert not list(tmp_path.iterdir())

    def test_leaves_nothing_half_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = save_image(tmp_path / "out.png", torch.zeros(1, 3, 4, 4)).read_bytes()

        def full_disk(file: int) -> None:
            assert len(list(tmp_path.iterdir())) == 2, "written beside, not over"
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(images.os, "fsync", full_disk)
        with pytest.raises(ImageError, match=r"cannot write .*No space left"):
            save_image(tmp_path / "out.png", torch.full((1, 3, 4, 4), 9.0))
        assert (tmp_path / "out.png").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["out.png"]

    def test_what_a_format_does_not_keep_is_told(self, tmp_path: Path) -> None:
        like = Photo(torch.zeros(1, 3, 4, 4), icc=SRGB, dpi=(300.0, 300.0))
        with pytest.warns(LipcoreWarning, match=r"a \.bmp keeps no colour profile"):
            check_output(tmp_path / "out.bmp", like)
        with pytest.warns(LipcoreWarning, match=r"a \.webp keeps no resolution"):
            check_output(tmp_path / "out.webp", like)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_output(tmp_path / "out.png", like)
        with pytest.raises(ImageError, match=r"sides of at most 16383 px; write a \.png"):
            check_output(tmp_path / "out.webp", Photo(torch.zeros(1, 3, 1, 17000)))
        with pytest.raises(ImageError, match=r"cannot write .*File name too long"):
            check_output(tmp_path / f"{'x' * 300}.png")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
    def test_the_resolution_is_kept(self, tmp_path: Path, ending: str) -> None:
        Image.fromarray(RGB).save(tmp_path / "photo.jpg", dpi=(300, 300))
        photo = load_image(tmp_path / "photo.jpg")
        made = load_image(save_image(tmp_path / f"out{ending}", photo.pixels, photo))
        assert made.dpi == pytest.approx((300, 300), abs=0.1)

    def test_place_and_date_stay_out(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0132], exif[0x010F], exif[0x0112] = "2026:01:02 03:04:05", "Maker", 1
        exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
        Image.fromarray(RGB).save(tmp_path / "photo.jpg", exif=exif, comment=b"at home")
        photo = load_image(tmp_path / "photo.jpg")
        for ending in LOSSLESS:
            made = save_image(tmp_path / f"out{ending}", photo.pixels, photo)
            assert not any(secret in made.read_bytes() for secret in (b"2026", b"Maker", b"at home"))
            with Image.open(made) as image:
                assert not set(dict(image.getexif())) & {0x0132, 0x010F, 0x8825}

    def test_a_private_photograph_gives_a_private_file(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "photo.png")
        before = os.umask(0o022)
        try:
            for mode, right in ((0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o400, 0o600)):
                (tmp_path / "photo.png").chmod(mode)
                photo = load_image(tmp_path / "photo.png")
                made = save_image(tmp_path / "out.png", photo.pixels, photo)
                assert made.stat().st_mode & 0o777 == right
            assert save_image(tmp_path / "new.png", torch.zeros(1, 3, 4, 4)).stat().st_mode & 0o777 == 0o644
        finally:
            os.umask(before)

    def test_files_and_links_beside_are_left_alone(self, tmp_path: Path) -> None:
        """A link planted where a part might be written, a file of that name, and a link in the result's own place."""
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / "out.png.part").symlink_to(victim)
        (tmp_path / "out.part").write_text("mine too")
        (tmp_path / "out.png").symlink_to(victim)
        save_image(tmp_path / "out.png", torch.zeros(1, 3, 4, 4))
        assert victim.read_text() == "mine"
        assert (tmp_path / "out.part").read_text() == "mine too"
        assert (tmp_path / "out.png.part").is_symlink()
        assert not (tmp_path / "out.png").is_symlink()
        assert len(list(tmp_path.iterdir())) == 4

    def test_a_name_as_long_as_the_system_allows(self, tmp_path: Path) -> None:
        name = "あ" * 82 + ".png"
        assert len(name.encode()) == 250
        assert save_image(tmp_path / name, torch.zeros(1, 3, 4, 4)).is_file()

    def test_ctrl_c_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(file: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(images.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_image(tmp_path / "out.png", torch.zeros(1, 3, 4, 4))
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_written_to_is_noticed_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(*_: object) -> int:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(images.os, "open", read_only)
        with pytest.raises(ImageError, match=f"cannot write into {tmp_path}: Read-only file system"):
            check_output(tmp_path / "out.png")

    def test_into_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="cannot write"):
            save_image(tmp_path / "none" / "out.png", torch.zeros(1, 3, 4, 4))
        (tmp_path / "folder.png").mkdir()
        with pytest.raises(ImageError, match="cannot write"):
            save_image(tmp_path / "folder.png", torch.zeros(1, 3, 4, 4))
        assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]
