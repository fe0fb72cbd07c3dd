"""Photographs that may be shown: those that ship with scikit-image, and a reader's own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from lipcore.errors import DataError
from lipcore.images import load_image, photo_endings

#: Photographs without a face, used as backgrounds; each ships with scikit-image under a licence that lets it be shown.
BACKGROUNDS = ("coffee", "chelsea", "rocket", "brick", "gravel", "hubble_deep_field")


def astronaut() -> Tensor:
    """Eileen Collins, NASA (public domain): one face of about 90 x 120 px. (1, 3, 512, 512) float in 0..255."""
    return _tensor(data.astronaut())


def background(index: int, height: int, width: int) -> Tensor:
    """Photograph number ``index`` (modulo their number), scaled and cropped in the middle to cover height x width.

    Returns:
        (1, 3, height, width) float, whole numbers in 0..255.
    """
    photo = _tensor(getattr(data, BACKGROUNDS[index % len(BACKGROUNDS)])())
    scale = max(height / photo.shape[2], width / photo.shape[3])
    size = [max(height, round(photo.shape[2] * scale)), max(width, round(photo.shape[3] * scale))]
    photo = F.interpolate(photo, size=size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return photo[:, :, top : top + height, left : left + width].round().clamp(0, 255)


def photo_paths(folder: str | Path) -> list[Path]:
    """The photographs in ``folder``, by name.

    Raises:
        DataError: no such folder, or no photograph in it.
    """
    folder, endings = Path(folder), photo_endings()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give one that holds photographs")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in endings)
    if not paths:
        raise DataError(f"{folder} holds no photograph; valid are files ending in {', '.join(sorted(endings))}")
    return paths


def photos(folder: str | Path, max_side: int = 1024) -> Iterator[tuple[str, Tensor]]:
    """Names and images (1, 3, H, W) of a folder, the longer side scaled down to at most ``max_side`` pixels."""
    for path in photo_paths(folder):
        image = load_image(path).pixels
        scale = max_side / max(image.shape[2:])
        if scale < 1:
            size = [max(1, round(side * scale)) for side in image.shape[2:]]
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
            image = image.round().clamp(0, 255)
        yield path.name, image


def _tensor(array: np.ndarray) -> Tensor:
    """A uint8 array (H, W) or (H, W, 3) as (1, 3, H, W) float."""
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(array[..., :3])).permute(2, 0, 1)[None].float()
