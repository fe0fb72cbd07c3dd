"""Detections as one short string, so that a record of an image keeps all of them and any table can be computed again.

Boxes are rounded to 0.1 pixel and logits to 0.001; a detection takes about ten characters.
"""

from __future__ import annotations

import base64
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcore.errors import DataError

Floats = NDArray[np.float64]

PIXEL, LOGIT = 0.1, 0.001


def pack(boxes: Tensor, logits: Tensor) -> str:
    """Detections as a string.

    The rounded numbers are 32-bit integers, ordered column by column and byte by byte (the high bytes are nearly all
    alike), compressed, and written in base 85.

    Args:
        boxes: (K, 4) xyxy in pixels.
        logits: (K,), best first.
    """
    columns = torch.cat((boxes / PIXEL, logits[:, None] / LOGIT), dim=1).detach().cpu().double().round()
    planes = columns.numpy().astype("<i4").T.copy().view(np.uint8).reshape(5, -1, 4).transpose(0, 2, 1)
    return base64.b85encode(zlib.compress(planes.tobytes(), 9)).decode("ascii") if len(boxes) else ""


def unpack(text: str) -> Floats:
    """The detections (K, 5) that :func:`pack` wrote: xyxy in pixels and the logit, best first.

    Raises:
        DataError: the string is no such thing.
    """
    if not text:
        return np.zeros((0, 5))
    try:
        planes = np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype=np.uint8).reshape(5, 4, -1)
    except (ValueError, zlib.error) as error:
        raise DataError(f"{text[:20]!r}... does not hold detections: {error}") from error
    integers = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<i4")[..., 0]
    values: Floats = integers.T * np.array([PIXEL] * 4 + [LOGIT])
    return values
