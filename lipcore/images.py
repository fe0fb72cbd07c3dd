"""Reading any photograph a person has, and writing it back with nothing lost but the perturbation."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lipcore import memory
from lipcore.errors import ImageError, LipcoreWarning, MemoryShort, short

#: Formats that keep every pixel as it is; a lossy one would wash part of a perturbation away.
LOSSLESS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP"}
#: What is read. Pillow knows more, among them PostScript, which it hands to a program that runs what the file says.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA", "ICO")
#: Larger photographs are refused before they are decoded; a file of few kB can claim any size.
MAX_PIXELS = 120_000_000
#: The largest side that WebP can hold.
WEBP_SIDE = 16383
#: Bytes that reading takes for each pixel at its peak: decoded, as RGB, and as floats; and more for deep greys.
BYTES, BYTES_DEEP = 30, 60

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE = 0x0112, 258, 262, 339

_HEIC = 'to read it: pip install "lipcore[heic]", or save it as JPEG'

#: What the first bytes of a file that cannot be read say of it.
_KINDS = (
    (rb"%!PS|\xc5\xd0\xd3\xc6|%PDF", "is PostScript or PDF, not a photograph; save the page as a PNG"),
    (rb".{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)", "is an HEIC photograph"),
    (rb".{4}ftypavi[fs]", "is an AVIF photograph"),
    (rb".{4}ftyp", "is a video; save one frame as a PNG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "is a JPEG XL photograph, which Pillow cannot read; save it as JPEG or PNG"),
    (
        rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
        "is a raw file or a TIFF of a kind that Pillow cannot read; save it as 8-bit PNG",
    ),
    (rb"(?s)\s*(<\?xml.*)?<svg", "is a drawing (SVG), not a photograph; save it as a PNG"),
    (rb"(?i)\s*<(!doctype )?html", "is a web page; save the photograph itself"),
    (rb"\Z", "is empty"),
)


@dataclass(frozen=True)
class Photo:
    """A photograph, upright.

    Attributes:
        pixels: (1, 3, H, W) float RGB, whole numbers in 0..255.
        alpha: (H, W) uint8 opacity, or None.
        icc: the colour profile, or None.
        dpi: dots per inch across and down, or None.
        mode: the file's permissions, or None.
    """

    pixels: Tensor
    alpha: NDArray[np.uint8] | None = field(default=None, repr=False)
    icc: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    mode: int | None = field(default=None, repr=False)


def load_image(path: str | Path) -> Photo:
    """Reads a photograph as RGB in 0..255: turned upright; grey, palette, CMYK and 16-bit images converted.

    HEIC photographs need the extra ``heic``: ``pip install "lipcore[heic]"``. What is not kept (a profile of another
    colour space, all frames but the first) is said in a :class:`LipcoreWarning`; of EXIF nothing but the orientation is
    read, and no place or date gets into a result.

    Raises:
        ImageError: no such file, not an image, one that is damaged, or one of more than :data:`MAX_PIXELS`.
        MemoryShort: the photograph does not fit the memory at hand.
    """
    path = Path(path)
    image, tags = _decoded(path)
    icc, dpi = image.info.get("icc_profile"), _resolution(image.info.get("dpi"))
    if icc and image.mode not in ("RGB", "RGBA", "P", "PA"):
        # It describes a colour space that is left behind.
        _say(f"{path}: its colour profile is one of {image.mode} and is not kept; the result is plain RGB")
        icc = None
    alpha = None
    if image.mode.startswith("I") or image.mode == "F":
        transparent = image.info.get("transparency")
        values = np.asarray(image)
        if isinstance(transparent, int):
            alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        image = Image.fromarray(_eight_bit(values, image.mode, tags, path))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if tags.get("raw") == "RGB;16B":  # 16-bit colours are read by their upper bytes, so its transparent one is too
            image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
    rgb = np.array(image.convert("RGB"))
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
    return Photo(pixels, alpha, icc if isinstance(icc, bytes) else None, dpi, path.stat().st_mode & 0o777)


def photo_endings() -> set[str]:
    """The endings of what :func:`load_image` reads, and of what it tells how to read, in small letters."""
    known = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    return known | {".heic", ".heif", ".hif", ".avif"}


def check_output(path: str | Path, like: Photo | None = None) -> str:
    """Refuses a name that :func:`save_image` could not write to, before anything is computed.

    What the format does not keep of ``like`` is said in a :class:`LipcoreWarning`.

    Returns:
        Pillow's name of the format.

    Raises:
        ImageError: no such folder or one that cannot be written to, a format that would lose pixels or is too small
            for the image, or alpha in a format that has none.
    """
    form = _form(Path(path), like)
    try:
        part = _part(Path(path).parent)
        os.close(os.open(part, _NEW, 0o666))
        part.unlink()
    except OSError as error:
        raise ImageError(f"cannot write into {Path(path).parent}: {error.strerror or error}") from error
    if like is not None and like.icc and form == "BMP":
        _say("a .bmp keeps no colour profile; .png, .tif and .webp do")
    if like is not None and like.dpi and form == "WEBP":
        _say("a .webp keeps no resolution (DPI); .png, .tif and .bmp do")
    return form


def save_image(path: str | Path, pixels: Tensor, like: Photo | None = None) -> Path:
    """Writes an image in 0..255 without loss, with alpha channel, colour profile and resolution of ``like``.

    The file appears whole or not at all, on the disk too, and nobody may read it who may not read ``like``. It holds no
    EXIF.

    Args:
        path: ends in one of .png, .tif, .tiff, .bmp, .webp.
        pixels: (1, 3, H, W) float in 0..255; rounded to whole numbers.
        like: the photograph it was made from.

    Raises:
        ImageError: a name that :func:`check_output` refuses, or the disk does.
    """
    path = Path(path)
    form = _form(path, like)
    array = quantise(pixels)[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    if like is not None and like.alpha is not None:
        array = np.dstack((array, like.alpha))
    options: dict[str, object] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    if like is not None and like.icc:
        options["icc_profile"] = like.icc
    if like is not None and like.dpi and form != "WEBP":
        options["dpi"] = like.dpi
    buffer = io.BytesIO()
    try:
        Image.fromarray(array).save(buffer, form, **options)
        _replace(path, buffer.getbuffer(), None if like is None else like.mode)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write {path}: {getattr(error, 'strerror', None) or short(error)}") from error
    return path


def quantise(pixels: Tensor) -> Tensor:
    """The image as it would be saved: whole numbers in 0..255, still float."""
    return pixels.detach().round().clamp(0, 255)


# Reading


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file, its header read and its size allowed; whatever Pillow raises inside becomes an :class:`ImageError`."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    if path.is_dir():
        raise ImageError(f"{path} is a folder; give a photograph")
    if path.exists() and not path.is_file():
        raise ImageError(f"{path} is not a file; give a photograph")
    size = ""
    try:
        with warnings.catch_warnings():
            # What Pillow finds odd in a file that it can read.
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
            with Image.open(path, formats=[form for form in FORMATS if form in _known()]) as file:
                size = f" of {file.width} x {file.height} px"
                _check_size(path, file.width * file.height, size)
                deep = file.mode.startswith("I") or file.mode == "F"
                needed = file.width * file.height * (BYTES_DEEP if deep else BYTES)
                memory.require(needed, f"reading {path}{size}", "make it smaller first")
                yield file
    except (ImageError, MemoryShort):
        raise
    except FileNotFoundError:
        raise ImageError(f"no file {path}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} {_kind(path)}") from None
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        _check_size(path, int(found[1]) if found else MAX_PIXELS + 1, "")
        raise ImageError(f"{path} is damaged: {short(error)}") from error
    except MemoryError as error:
        raise MemoryShort(f"{path}{size} does not fit the memory at hand; make it smaller first") from error
    except Exception as error:  # a damaged file leads Pillow's readers to errors of every kind
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
        raise ImageError(f"{path} is damaged or cut off: {short(error)}") from error


def _decoded(path: Path) -> tuple[Image.Image, dict[str, object]]:
    """The first frame, upright, and what :func:`_eight_bit` must know of its file."""
    with _opened(path) as file:
        tiles = getattr(file, "tile", None)
        raw = tiles[0][3] if tiles else None
        tags: dict[str, object] = {"raw": raw[0] if isinstance(raw, tuple) and raw else raw}
        if file.format == "TIFF":
            read = file.tag_v2  # type: ignore[attr-defined]
            tags |= {"white": read.get(_PHOTOMETRIC) == 0, "unsigned": (read.get(_SAMPLE) or (1,))[0] == 1}
        frames = 1 if file.format in ("MPO", "HEIF") else getattr(file, "n_frames", 1)
        if frames > 1:
            _say(f"{path} has {frames} frames: the first of {frames} is read")
        file.load()
        turn = _TURNS.get(_orientation(file, path))
        return (file.copy() if turn is None else file.transpose(turn)), tags


def _orientation(file: Image.Image, path: Path) -> int:
    """EXIF's orientation, 1 to 8; nothing else of EXIF is looked at, so that nothing else of it matters."""
    try:
        value = file.getexif().get(_ORIENTATION)
        return next((known for known in _TURNS if value == known), 1)
    except Exception:  # what a damaged block leads to is Pillow's own
        _say(f"{path} has damaged EXIF data: it is taken as upright")
        return 1


def _eight_bit(values: NDArray[Any], mode: str, tags: dict[str, object], path: Path) -> NDArray[np.uint8]:
    """A 16-bit, 32-bit or float greyscale image as 8 bits.

    16 bits are scaled by their type's range. The others name none: it is then the least of 1 (of floats), 255, 65535
    and, at last, the type's or the values' own that holds them all.
    """
    if mode == "I" and tags.get("unsigned") and values.dtype == np.int32:
        values = values.view(np.uint32)
    numbers: NDArray[np.float64] = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ImageError(f"{path} holds NaN or infinite values")
    top = 65535.0
    if not mode.startswith("I;16"):
        highest, lowest = float(numbers.max(initial=0)), float(numbers.min(initial=0))
        last = highest if mode == "F" else float(np.iinfo(values.dtype).max)
        top = next((t for t in ((1.0,) if mode == "F" else ()) + (255.0, 65535.0) if highest <= t), last)
        below = "; those below 0 become black" if lowest < 0 else ""
        _say(f"{path} names no range of its values, {lowest:g}..{highest:g}: read as of 0..{top:.10g}{below}")
    numbers *= 255 / top
    np.clip(numbers, 0, 255, out=numbers)
    if tags.get("white"):
        numbers = 255 - numbers
    found: NDArray[np.uint8] = np.rint(numbers).astype(np.uint8)
    return found


def _resolution(dpi: object) -> tuple[float, float] | None:
    """Pillow's value where it is one; 1 stands in TIFFs that have none."""
    try:
        across, down = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(v) and 1 < v < 1e5 for v in (across, down)) else None


def _check_size(path: Path, pixels: int, size: str) -> None:
    if pixels > MAX_PIXELS:
        raise ImageError(
            f"{path}{size} has {pixels / 1e6:.0f} MP; photographs of at most {MAX_PIXELS / 1e6:.0f} MP are read; make"
            " it smaller first"
        )


def _known() -> set[str]:
    """The formats that this Pillow can read."""
    Image.init()
    return set(Image.OPEN)


def _kind(path: Path) -> str:
    """What a file that Pillow does not know is, and what to do."""
    with path.open("rb") as file:
        head = file.read(1024)
    said = next((said for pattern, said in _KINDS if re.match(b"(?s)" + pattern, head)), None)
    if said is None:
        return "is not an image; valid are JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, HEIC and JPEG 2000"
    for kind, form, remedy in (
        ("HEIC", "HEIF", _HEIC),
        ("AVIF", "AVIF", "this Pillow cannot read it: save it as JPEG"),
    ):
        if said.endswith(f"{kind} photograph"):
            return f"{said}{', and a damaged one' if form in _known() else f'; {remedy}'}"
    return said


# Writing


def _form(path: Path, like: Photo | None) -> str:
    """The format that a name's ending stands for, once it can hold ``like``."""
    form = LOSSLESS.get(path.suffix.lower())
    if form is None:
        raise ImageError(
            f"cannot write {path.name!r}: {path.suffix or 'no ending'} would lose pixels of the perturbation or is "
            f"unknown; valid are {', '.join(LOSSLESS)}"
        )
    if form == "BMP" and like is not None and like.alpha is not None:
        raise ImageError("a .bmp keeps no transparency; write a .png")
    if form == "WEBP" and like is not None and max(like.pixels.shape[2:]) > WEBP_SIDE:
        raise ImageError(f"a .webp has sides of at most {WEBP_SIDE} px; write a .png")
    try:
        if path.is_dir() or not path.parent.is_dir():
            raise ImageError(f"cannot write {path}: it is a folder, or its folder is not there; make that first")
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}") from error
    return form


#: A new file of our own: neither a file that is there nor one that a link leads to is ever written to.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def _part(folder: Path) -> Path:
    """A name that nobody can foresee, and short, so that it fits wherever the result's own does."""
    return folder / f".{secrets.token_hex(8)}.part"


def _replace(path: Path, content: bytes | memoryview, mode: int | None) -> None:
    """Puts a file with ``content`` in the place of ``path``, whole and on the disk, or leaves everything as it was.

    Where ``mode`` is given, the file is open to nobody to whom that mode is closed.
    """
    part = _part(path.parent)
    try:
        with os.fdopen(os.open(part, _NEW, 0o666), "wb") as out:
            if mode is not None:
                part.chmod(part.stat().st_mode & (mode | 0o600) & 0o777)
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    except BaseException:  # Ctrl-C as well
        part.unlink(missing_ok=True)
        raise


def _say(what: str) -> None:
    warnings.warn(what, LipcoreWarning, stacklevel=3)
