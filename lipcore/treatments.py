"""What happens to a photograph on its way: written as JPEG, or shrunk."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lipcore.images import quantise


def jpeg(image: Tensor, quality: int) -> Tensor:
    """``image`` (1, 3, H, W) written as JPEG, colours at half resolution as is usual, and read again."""
    pixels = quantise(image)[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    read = np.asarray(Image.open(buffer).convert("RGB")).copy()
    return torch.from_numpy(read).permute(2, 0, 1)[None].to(image)


def rescaled(image: Tensor, factor: float) -> Tensor:
    """``image`` (1, 3, H, W) shrunk by ``factor`` and brought back to its size, bilinearly; rounded both times."""
    height, width = image.shape[2:]
    size = [max(1, round(side * factor)) for side in (height, width)]
    small = quantise(F.interpolate(image, size=size, mode="bilinear", antialias=True))
    return quantise(F.interpolate(small, size=[height, width], mode="bilinear"))


#: What happens to a photograph on its way; the first is nothing.
TREATMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda image: image,
    "jpeg 95": lambda image: jpeg(image, 95),
    "jpeg 75": lambda image: jpeg(image, 75),
    "jpeg 50": lambda image: jpeg(image, 50),
    "half size": lambda image: rescaled(image, 0.5),
}
