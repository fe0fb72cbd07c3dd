"""Reading any photograph a person has, and writing it back with nothing lost but the perturbation."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lipcore.errors import ImageError

#: Formats that keep every pixel as it is; a lossy one would wash part of a perturbation away.
LOSSLESS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP"}


@dataclass(frozen=True)
class Photo:
    """A photograph, upright.

    Attributes:
        pixels: (1, 3, H, W) float RGB, whole numbers in 0..255.
        alpha: (H, W) uint8 opacity, or None.
        icc: the colour profile, or None.
    """

    pixels: Tensor
    alpha: np.ndarray | None = field(default=None, repr=False)
    icc: bytes | None = field(default=None, repr=False)


def load_image(path: str | Path) -> Photo:
    """Reads a photograph: EXIF rotation applied, grey, palette, CMYK and 16-bit images turned into 8-bit RGB.

    Raises:
        ImageError: no such file, not an image, or one that is damaged.
    """
    path = Path(path)
    try:
        with Image.open(path) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise ImageError(f"no file {path}") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder; give a photograph") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{path} is not an image; valid are JPEG, PNG, WebP, TIFF, BMP and whatever Pillow reads"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is damaged or cut off: {error}") from error
    # The profile of any other mode describes a colour space that is left behind.
    icc = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P", "PA") else None
    alpha = None
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image, path)
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A")).copy()
    rgb = np.asarray(image.convert("RGB")).copy()
    return Photo(torch.from_numpy(rgb).permute(2, 0, 1)[None].float(), alpha, icc if isinstance(icc, bytes) else None)


def check_output(path: str | Path, like: Photo | None = None) -> str:
    """Refuses a name that :func:`save_image` could not write to, before anything is computed.

    Returns:
        Pillow's name of the format.

    Raises:
        ImageError: no such folder, a format that would lose pixels, or alpha in a format that has none.
    """
    path = Path(path)
    form = LOSSLESS.get(path.suffix.lower())
    if form is None:
        raise ImageError(
            f"cannot write {path.name!r}: {path.suffix or 'no ending'} would lose pixels of the perturbation or is "
            f"unknown; valid are {', '.join(LOSSLESS)}"
        )
    if form == "BMP" and like is not None and like.alpha is not None:
        raise ImageError("a .bmp keeps no transparency; write a .png")
    if path.is_dir() or not path.parent.is_dir():
        raise ImageError(f"cannot write {path}: it is a folder, or its folder is not there; make that first")
    return form


def save_image(path: str | Path, pixels: Tensor, like: Photo | None = None) -> Path:
    """Writes an image without loss, with the alpha channel and the colour profile of ``like``.

    The file appears whole or not at all.

    Args:
        path: ends in one of .png, .tif, .tiff, .bmp, .webp.
        pixels: (1, 3, H, W) float in 0..255; rounded to whole numbers.
        like: the photograph it was made from.

    Raises:
        ImageError: a name that :func:`check_output` refuses, or the disk does.
    """
    path = Path(path)
    form = check_output(path, like)
    array = quantise(pixels)[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    if like is not None and like.alpha is not None:
        array = np.dstack((array, like.alpha))
    options: dict[str, object] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    if like is not None and like.icc:
        options["icc_profile"] = like.icc
    buffer = io.BytesIO()
    part = path.with_name(path.name + ".part")
    try:
        Image.fromarray(array).save(buffer, form, **options)
        part.write_bytes(buffer.getvalue())
        part.replace(path)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise ImageError(f"cannot write {path}: {error}") from error
    return path


def quantise(pixels: Tensor) -> Tensor:
    """The image as it would be saved: whole numbers in 0..255, still float."""
    return pixels.detach().round().clamp(0, 255)


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    """A 16-bit, 32-bit or float greyscale image as 8 bits.

    16 bits are scaled by their type's range. The other two name none: 32-bit values above 255 are taken as 16-bit
    ones, and floats as shares where none is above 1, else as 8-bit values.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{path} holds NaN or infinite values")
    highest = values.max(initial=0)
    if image.mode == "F":
        top = 1.0 if highest <= 1 else 255.0
    else:
        top = 65535.0 if image.mode.startswith("I;16") or highest > 255 else 255.0
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
