"""Any photograph a person has, read upright as 8-bit RGB."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import RGB, RNG, SRGB, pixels
from PIL import Image

from lipcore import images
from lipcore.datasets.photographs import astronaut, background, photo_paths, photos
from lipcore.errors import DataError, ImageError, LipcoreWarning, MemoryShort
from lipcore.images import load_image


def png(path: Path, values: np.ndarray, kind: int, transparent: bytes, *chunks: tuple[bytes, bytes]) -> None:
    """A PNG of 16 bits; Pillow writes no transparent value for those."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), (b"tRNS", transparent), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def tiff(path: Path, values: np.ndarray, photometric: int = 1) -> None:
    """A TIFF of unsigned greys; 1: zero is black, 0: zero is white."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 277: 1}
    tags |= {273: 8, 278: height, 279: values.nbytes, 339: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes() + directory)


def encoded(ending: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, Image.registered_extensions()[f".{ending}"])
    return buffer.getvalue()


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
        with pytest.warns(LipcoreWarning, match="its colour profile is one of CMYK and is not kept"):
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
        with pytest.warns(
            LipcoreWarning, match=rf"names no range of its values, 0\.\.{top:g}: read as of 0\.\.{top:g}$"
        ):
            photo = load_image(tmp_path / "float.tif")
        assert pixels(photo)[0, :, 0].tolist() == [0, expected, 255]

    @pytest.mark.parametrize("top", [65535, 2**32 - 1])
    def test_thirty_two_bits(self, tmp_path: Path, top: int) -> None:
        """Values above 2^31 are negative in Pillow's signed numbers."""
        values = np.array([[0, top // 3, top]], np.uint32)
        tiff(tmp_path / "deep.tif", values)
        with pytest.warns(LipcoreWarning, match=rf"read as of 0\.\.{top}$"):
            assert pixels(load_image(tmp_path / "deep.tif"))[0, :, 0].tolist() == [0, 85, 255]

    def test_negative_numbers_become_black(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[-300, 0, 100]], np.int32)).save(tmp_path / "signed.tif")
        with pytest.warns(LipcoreWarning, match=r"-300\.\.100: read as of 0\.\.255; those below 0 become black"):
            assert pixels(load_image(tmp_path / "signed.tif"))[0, :, 0].tolist() == [0, 0, 100]

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_white_is_zero(self, tmp_path: Path, kind: type) -> None:
        """TIFF's photometric interpretation 0: the largest number is black."""
        values = np.array([[0, 51, 255]], np.uint8).astype(kind) * (np.iinfo(kind).max // 255)
        tiff(tmp_path / "negative.tif", values, photometric=0)
        assert pixels(load_image(tmp_path / "negative.tif"))[0, :, 0].tolist() == [255, 204, 0]

    def test_float_with_nan(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, np.nan, 9]], np.float32)).save(tmp_path / "nan.tif")
        with pytest.raises(ImageError, match="NaN"):
            load_image(tmp_path / "nan.tif")

    def test_the_first_frame_of_an_animation(self, tmp_path: Path) -> None:
        frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
        frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:], lossless=True)
        with pytest.warns(LipcoreWarning, match=r"two\.webp has 2 frames: the first of 2 is read"):
            photo = load_image(tmp_path / "two.webp")
        np.testing.assert_array_equal(pixels(photo), RGB)

    def test_colour_profile(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "rgb.png", icc_profile=SRGB)
        assert load_image(tmp_path / "rgb.png").icc == SRGB
        Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png", icc_profile=SRGB)
        with pytest.warns(LipcoreWarning, match="its colour profile is one of L and is not kept"):
            assert load_image(tmp_path / "grey.png").icc is None, "a profile of grey says nothing about RGB"

    def test_transparent_value_of_sixteen_bits(self, tmp_path: Path) -> None:
        """PNG's tRNS names one value; of grey all 16 bits count, of colours the upper 8."""
        grey = np.array([[777, 778, 0, 65535]], np.uint16)
        png(tmp_path / "grey.png", grey, 0, struct.pack(">H", 777))
        photo = load_image(tmp_path / "grey.png")
        assert photo.alpha is not None
        assert photo.alpha.tolist() == [[0, 255, 255, 255]]
        assert pixels(photo)[0, :, 0].tolist() == [3, 3, 0, 255]
        colours = np.array([[[257, 514, 771], [65535, 514, 771]]], np.uint16)
        png(tmp_path / "colours.png", colours, 2, struct.pack(">HHH", 257, 514, 771))
        photo = load_image(tmp_path / "colours.png")
        assert photo.alpha is not None
        assert photo.alpha.tolist() == [[0, 255]]
        assert pixels(photo).tolist() == [[[1, 2, 3], [255, 2, 3]]]

    def test_turned_with_its_transparency(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        grey = np.array([[777, 778, 779]], np.uint16)
        chunk = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        png(tmp_path / "grey.png", grey, 0, struct.pack(">H", 778), chunk)
        photo = load_image(tmp_path / "grey.png")
        assert photo.alpha is not None
        assert photo.alpha.tolist() == [[255], [0], [255]]

    @pytest.mark.parametrize("damage", ["a rational over 0", "a negative length", "cut off", "junk"])
    def test_orientation_is_read_though_the_rest_of_exif_is_damaged(self, tmp_path: Path, damage: str) -> None:
        def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
            return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")

        entries = {
            "a rational over 0": [entry(0x011A, 10, 1, struct.pack("<I", 50))],
            "a negative length": [entry(0x0101, 9, 1, struct.pack("<i", -5))],
            "cut off": [entry(0x010F, 2, 900, struct.pack("<I", 50))],
            "junk": [entry(0x9999, 77, 1, b"abcd"), entry(0x8769, 4, 1, struct.pack("<I", 999999))],
        }[damage]
        entries = [entry(0x0112, 3, 1, struct.pack("<H", 6)), *entries]
        block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
        Image.fromarray(RGB).save(tmp_path / "photo.jpg", exif=block + struct.pack("<ii", -1, 0))
        assert load_image(tmp_path / "photo.jpg").pixels.shape == (1, 3, 20, 12)

    def test_heic(self, tmp_path: Path) -> None:
        heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
        heif.from_pillow(Image.fromarray(np.full((32, 48, 3), (200, 50, 50), np.uint8))).save(tmp_path / "phone.heic")
        photo = load_image(tmp_path / "phone.heic")
        assert photo.pixels.shape == (1, 3, 32, 48)
        assert np.abs(pixels(photo).astype(int) - (200, 50, 50)).max() <= 6
        content = (tmp_path / "phone.heic").read_bytes()
        (tmp_path / "cut.heic").write_bytes(content[: len(content) // 2])
        with pytest.raises(ImageError, match=r"cut\.heic is (damaged|an HEIC photograph, and a damaged one)"):
            load_image(tmp_path / "cut.heic")

    def test_avif(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((32, 48, 3), (200, 50, 50), np.uint8)).save(tmp_path / "photo.avif", quality=95)
        assert np.abs(pixels(load_image(tmp_path / "photo.avif")).astype(int) - (200, 50, 50)).max() <= 6


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
        with pytest.raises(ImageError, match=r"text\.png is (empty|not an image; valid are JPEG|damaged)"):
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
        """Refused by what the header claims, in megapixels; neither Pillow's limit nor its word for it is shown."""
        monkeypatch.setattr(images, "MAX_PIXELS", 10_000_000)
        path = tmp_path / "bomb.png"
        Image.new("1", (5000, 4000)).save(path)
        assert path.stat().st_size < 10_000
        monkeypatch.setattr(images.Image.Image, "load", lambda *_: pytest.fail("it is decoded"))
        for limit in (100, 10**9):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(ImageError, match=r"has 20 MP; photographs of at most 10 MP are read; make it smaller"):
                load_image(path)

    def test_more_than_memory_holds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.new("L", (1000, 1000)).save(tmp_path / "large.png")
        monkeypatch.setattr(images.memory, "available", lambda device="cpu": 29_000_000)
        said = (
            r"reading .*large\.png of 1000 x 1000 px takes about 30 MB of memory, and 29 MB are free; make it smaller"
        )
        with pytest.raises(MemoryShort, match=said):
            load_image(tmp_path / "large.png")
        monkeypatch.setattr(images.memory, "available", lambda device="cpu": None)
        monkeypatch.setattr(images.Image.Image, "load", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryShort, match="1000 x 1000 px does not fit"):
            load_image(tmp_path / "large.png")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is PostScript or PDF, not a photograph"),
            (b"\xc5\xd0\xd3\xc6" + bytes(40), "is PostScript or PDF"),
            (b"\0\0\0\x14ftypqt  " + bytes(40), "is a video; save one frame"),
            (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "is a JPEG XL photograph"),
            (b"II*\0\x08\0\0\0\0\0" + bytes(40), "is a raw file or a TIFF of a kind|is damaged"),
            (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', r"is a drawing \(SVG\)"),
            (b"<!DOCTYPE html><html></html>", "is a web page; save the photograph itself"),
        ],
    )
    def test_what_else_a_file_may_be(self, tmp_path: Path, content: bytes, said: str) -> None:
        (tmp_path / "holiday.jpg").write_bytes(content)
        with pytest.raises(ImageError, match=rf"holiday\.jpg ({said})"):
            load_image(tmp_path / "holiday.jpg")

    def test_postscript_starts_no_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subprocess, "Popen", lambda *a, **_: pytest.fail(f"starts {a}"))
        buffer = io.BytesIO()
        Image.fromarray(RGB).save(buffer, "EPS")
        (tmp_path / "holiday.png").write_bytes(buffer.getvalue())
        with pytest.raises(ImageError, match="is PostScript"):
            load_image(tmp_path / "holiday.png")

    def test_no_plain_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ImageError, match="is not a file"):
            load_image(tmp_path / "pipe.png")

    def test_heic_without_its_reader(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000))
        Image.init()
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
        monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
        with pytest.raises(ImageError, match=r'HEIC photograph; to read it: pip install "lipcore\[heic\]", or save'):
            load_image(tmp_path / "phone.jpg")


class TestPhotographs:
    def test_of_a_folder_by_name(self, tmp_path: Path) -> None:
        for name in ("b.PNG", "a.jpg", "c.webp"):
            Image.fromarray(RGB).save(tmp_path / name)
        for name in ("notes.txt", "d.gif", "e.heif", "f.jp2"):
            (tmp_path / name).write_text("found by its name")
        assert [p.name for p in photo_paths(tmp_path)] == ["a.jpg", "b.PNG", "c.webp", "d.gif", "e.heif", "f.jp2"]

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
        with pytest.raises(DataError, match="photograph"):
            photo_paths(folder)

    def test_the_shipped_ones_are_images(self) -> None:
        assert astronaut().shape == (1, 3, 512, 512)
        for index in range(7):
            image = background(index, 90, 130)
            assert image.shape == (1, 3, 90, 130)
            assert torch.equal(image, image.round().clamp(0, 255))
        assert torch.equal(background(0, 50, 60), background(6, 50, 60))
