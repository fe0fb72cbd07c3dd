"""A small picture for tests, and how one is looked at."""

from __future__ import annotations

import numpy as np
import torch
from PIL import ImageCms

from lipcore.images import Photo

RNG = np.random.default_rng(0)


RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels(photo: Photo) -> np.ndarray:
    """(H, W, 3) uint8; also checks the contract of :class:`Photo`."""
    assert photo.pixels.dtype == torch.float32
    assert photo.pixels.shape[:2] == (1, 3)
    assert torch.equal(photo.pixels, photo.pixels.round().clamp(0, 255))
    return photo.pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)
