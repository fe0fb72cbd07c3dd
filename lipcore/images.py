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
    icc = image.info.get("icc_profile")
    alpha = None
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A")).copy()
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        icc = None  # the profile describes the colour space left behind
    rgb = np.asarray(image.convert("RGB")).copy()
    return Photo(torch.from_numpy(rgb).permute(2, 0, 1)[None].float(), alpha, icc if isinstance(icc, bytes) else None)


def save_image(path: str | Path, pixels: Tensor, like: Photo | None = None) -> Path:
    """Writes an image without loss, with the alpha channel and the colour profile of ``like``.

    The file appears whole or not at all.

    Args:
        path: ends in one of .png, .tif, .tiff, .bmp, .webp.
        pixels: (1, 3, H, W) float in 0..255; rounded to whole numbers.
        like: the photograph it was made from.

    Raises:
        ImageError: a format that would lose pixels, or alpha in a format that has none.
    """
    path = Path(path)
    form = LOSSLESS.get(path.suffix.lower())
    if form is None:
        raise ImageError(
            f"cannot write {path.name!r}: {path.suffix or 'no ending'} would lose pixels of the perturbation or is "
            f"unknown; valid are {', '.join(LOSSLESS)}"
        )
    array = quantise(pixels)[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    alpha = like.alpha if like is not None else None
    if alpha is not None:
        if form == "BMP":
            raise ImageError("a .bmp keeps no transparency; write a .png")
        array = np.dstack((array, alpha))
    options: dict[str, object] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    if like is not None and like.icc:
        options["icc_profile"] = like.icc
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    part = path.with_name(path.name + ".part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)
    return path


def quantise(pixels: Tensor) -> Tensor:
    """The image as it would be saved: whole numbers in 0..255, still float."""
    return pixels.detach().round().clamp(0, 255)


def _eight_bit(image: Image.Image) -> Image.Image:
    """A 16-bit or float greyscale image scaled to 8 bits by its type's range, not by its content."""
    values = np.asarray(image).astype(np.float64)
    top = 65535.0 if image.mode.startswith("I") and values.max(initial=0) > 255 else 255.0
    if image.mode == "F" and values.max(initial=0) <= 1:
        top = 1.0
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
