"""Any photograph a person has, read upright as 8-bit RGB, and written back with nothing lost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from lipcore import images
from lipcore.datasets.photographs import astronaut, background, photo_paths, photos
from lipcore.errors import DataError, ImageError
from lipcore.images import LOSSLESS, Photo, load_image, quantise, save_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels(photo: Photo) -> np.ndarray:
    """(H, W, 3) uint8; also checks the contract of :class:`Photo`."""
    assert photo.pixels.dtype == torch.float32
    assert photo.pixels.shape[:2] == (1, 3)
    assert torch.equal(photo.pixels, photo.pixels.round().clamp(0, 255))
    return photo.pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)


class TestLoad:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_exif_orientation_is_upright(self, tmp_path: Path, orientation: int) -> None:
        """The file holds what a camera held sideways stores; its tag says how to turn it back."""
        back = {
            1: lambda a: a,
            2: lambda a: a[:, ::-1],
            3: lambda a: a[::-1, ::-1],
            4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: np.rot90(a, 1),
            7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
            8: lambda a: np.rot90(a, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "photo.png"
        Image.fromarray(np.ascontiguousarray(back(RGB))).save(path, exif=exif)
        np.testing.assert_array_equal(pixels(load_image(path)), RGB)

    def test_jpeg_with_orientation(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(RGB).save(tmp_path / "photo.jpg", exif=exif)
        assert load_image(tmp_path / "photo.jpg").pixels.shape == (1, 3, 20, 12)

    def test_grey(self, tmp_path: Path) -> None:
        Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
        photo = load_image(tmp_path / "grey.png")
        assert (pixels(photo) == RGB[..., :1]).all()
        assert photo.alpha is None

    def test_black_and_white(self, tmp_path: Path) -> None:
        Image.fromarray(RGB[..., 0] > 99).save(tmp_path / "bits.png")
        np.testing.assert_array_equal(pixels(load_image(tmp_path / "bits.png"))[..., 1], 255 * (RGB[..., 0] > 99))

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_alpha_is_kept_beside(self, tmp_path: Path, mode: str) -> None:
        alpha = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
        colour = RGB if mode == "RGBA" else RGB[..., :1]
        Image.fromarray(np.dstack((colour, alpha)), mode).save(tmp_path / "alpha.png")
        photo = load_image(tmp_path / "alpha.png")
        np.testing.assert_array_equal(photo.alpha, alpha)
        assert (pixels(photo) == colour).all(), "pixels are not blended with any background"

    @pytest.mark.parametrize("transparent", [False, True])
    def test_palette(self, tmp_path: Path, transparent: bool) -> None:
        image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        image.save(tmp_path / "palette.png", **({"transparency": 1} if transparent else {}))
        photo = load_image(tmp_path / "palette.png")
        assert pixels(photo).tolist() == [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
        assert (photo.alpha is not None) == transparent
        if transparent:
            assert photo.alpha.tolist() == [[255, 0], [255, 0]]  # type: ignore[union-attr]

    def test_cmyk(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((8, 8, 3), (200, 50, 50), np.uint8)).convert("CMYK").save(
            tmp_path / "cmyk.jpg", quality=100, icc_profile=SRGB
        )
        photo = load_image(tmp_path / "cmyk.jpg")
        assert abs(pixels(photo).astype(int) - (200, 50, 50)).max() <= 4
        assert photo.icc is None, "a profile of CMYK says nothing about RGB"

    @pytest.mark.parametrize("ending", ["png", "tif"])
    def test_sixteen_bit(self, tmp_path: Path, ending: str) -> None:
        values = np.array([[0, 257, 32896], [65535, 300, 128]], np.uint16)
        Image.fromarray(values).save(tmp_path / f"deep.{ending}")
        found = pixels(load_image(tmp_path / f"deep.{ending}"))
        assert found[..., 0].tolist() == [[0, 1, 128], [255, 1, 0]]
        assert (found[..., :1] == found).all()

    def test_sixteen_bit_in_the_dark(self, tmp_path: Path) -> None:
        """The scale is that of the type: a picture with nothing above 255 of 65535 is black."""
        Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "night.png")
        assert pixels(load_image(tmp_path / "night.png")).max() <= 1

    @pytest.mark.parametrize(("top", "expected"), [(1.0, 128), (255.0, 128)])
    def test_float(self, tmp_path: Path, top: float, expected: int) -> None:
        Image.fromarray(np.array([[0, top / 2, top]], np.float32)).save(tmp_path / "float.tif")
        assert pixels(load_image(tmp_path / "float.tif"))[0, :, 0].tolist() == [0, expected, 255]

    def test_float_with_nan(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, np.nan, 9]], np.float32)).save(tmp_path / "nan.tif")
        with pytest.raises(ImageError, match="NaN"):
            load_image(tmp_path / "nan.tif")

    def test_the_first_frame_of_an_animation(self, tmp_path: Path) -> None:
        frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
        frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(pixels(load_image(tmp_path / "two.webp")), RGB)

    def test_colour_profile(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "rgb.png", icc_profile=SRGB)
        assert load_image(tmp_path / "rgb.png").icc == SRGB
        Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png", icc_profile=SRGB)
        assert load_image(tmp_path / "grey.png").icc is None, "a profile of grey says nothing about RGB"


class TestRefuses:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="no file"):
            load_image(tmp_path / "none.png")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="is a folder; give a photograph"):
            load_image(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
    def test_not_an_image(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "text.png"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"text\.png is (not an image; valid are JPEG|damaged)"):
            load_image(path)

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
    def test_cut_off(self, tmp_path: Path, form: str) -> None:
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, form)
        path = tmp_path / "half"
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(ImageError, match=r"half is (damaged or cut off|not an image)"):
            load_image(path)

    def test_a_decompression_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        Image.fromarray(RGB).save(tmp_path / "bomb.png")
        with pytest.raises(ImageError, match="damaged"):
            load_image(tmp_path / "bomb.png")


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

        def full_disk(self: Path, data: bytes) -> int:
            with self.open("wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(images.Path, "write_bytes", full_disk)
        with pytest.raises(ImageError, match=r"cannot write .*No space left"):
            save_image(tmp_path / "out.png", torch.full((1, 3, 4, 4), 9.0))
        assert (tmp_path / "out.png").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["out.png"]

    def test_into_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="cannot write"):
            save_image(tmp_path / "none" / "out.png", torch.zeros(1, 3, 4, 4))
        (tmp_path / "folder.png").mkdir()
        with pytest.raises(ImageError, match="cannot write"):
            save_image(tmp_path / "folder.png", torch.zeros(1, 3, 4, 4))
        assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


class TestPhotographs:
    def test_of_a_folder_by_name(self, tmp_path: Path) -> None:
        for name in ("b.PNG", "a.jpg", "c.webp"):
            Image.fromarray(RGB).save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("no photograph")
        assert [p.name for p in photo_paths(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]

    def test_are_scaled_down_only(self, tmp_path: Path) -> None:
        Image.fromarray(RNG.integers(0, 256, (60, 100, 3), dtype=np.uint8)).save(tmp_path / "a.png")
        sizes = [tuple(next(photos(tmp_path, side))[1].shape) for side in (50, 200)]
        assert sizes == [(1, 3, 30, 50), (1, 3, 60, 100)]
        image = next(photos(tmp_path, 50))[1]
        assert torch.equal(image, image.round())

    def test_a_damaged_one_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "bad.jpg").write_bytes(b"no")
        with pytest.raises(ImageError, match=r"bad\.jpg"):
            list(photos(tmp_path))

    @pytest.mark.parametrize("make", [True, False])
    def test_no_photograph(self, tmp_path: Path, make: bool) -> None:
        folder = tmp_path / "folder"
        if make:
            folder.mkdir()
        with pytest.raises(DataError, match=r"\.jpg"):
            photo_paths(folder)

    def test_the_shipped_ones_are_images(self) -> None:
        assert astronaut().shape == (1, 3, 512, 512)
        for index in range(7):
            image = background(index, 90, 130)
            assert image.shape == (1, 3, 90, 130)
            assert torch.equal(image, image.round().clamp(0, 255))
        assert torch.equal(background(0, 50, 60), background(6, 50, 60))
