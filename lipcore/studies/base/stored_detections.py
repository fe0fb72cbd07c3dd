"""Detections as one short string, so that a record of an image keeps all of them and any table can be computed again.

Boxes are rounded to 0.1 pixel and logits to 0.001; a detection takes about ten characters.
"""

from __future__ import annotations

import base64
import string
import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipcore.errors import DataError

Floats = NDArray[np.float64]

#: Of what the columns are multiples: x1, y1, x2, y2 in pixels, the logit, the number of the face matched.
UNITS: Floats = np.array([0.1, 0.1, 0.1, 0.1, 0.001, 1.0])
#: The digits of base 85 (as Git and Python's base64 have them), and of each character its digit, -1 for none.
ALPHABET = (string.digits + string.ascii_uppercase + string.ascii_lowercase + "!#$%&()*+-;<=>?@^_`{|}~").encode()
DIGITS = np.full(256, -1)
DIGITS[list(ALPHABET)] = np.arange(85)


def rounded(table: ArrayLike) -> Floats:
    """``table`` (K, 6), or less of its columns, as it comes back from :func:`unpack`."""
    values = np.asarray(table, dtype=np.float64)
    result: Floats = np.rint(values / UNITS[: values.shape[1]]) * UNITS[: values.shape[1]]
    return result


def pack(table: ArrayLike) -> str:
    """Detections as a string.

    The rounded numbers are 32-bit integers, ordered column by column and byte by byte (the high bytes are nearly all
    alike), compressed, and written in base 85.

    Args:
        table: (K, 6), in the columns of :data:`UNITS`.
    """
    values = np.asarray(table, dtype=np.float64)
    if not len(values):
        return ""
    integers = np.rint(values / UNITS).astype("<i4").T.copy()
    planes = integers.view(np.uint8).reshape(len(UNITS), -1, 4).transpose(0, 2, 1)
    return base64.b85encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def unpack(text: str) -> Floats:
    """The detections (K, 6) that :func:`pack` wrote.

    Raises:
        DataError: the string is no such thing.
    """
    if not text:
        return np.zeros((0, len(UNITS)))
    try:
        planes = np.frombuffer(zlib.decompress(_b85decode(text)), dtype=np.uint8).reshape(len(UNITS), 4, -1)
    except (ValueError, zlib.error) as error:
        raise DataError(f"{text[:20]!r}... does not hold detections: {error}") from error
    integers = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<i4")[..., 0]
    table: Floats = integers.T * UNITS
    return table


def _b85decode(text: str) -> bytes:
    """What ``base64.b85decode`` gives, in a fiftieth of its time: a table reads tens of thousands of records."""
    digits = DIGITS[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
    missing = -len(digits) % 5
    words = np.pad(digits, (0, missing), constant_values=84).reshape(-1, 5) @ 85 ** np.arange(4, -1, -1)
    if (digits < 0).any() or (words >> 32).any():
        raise ValueError("a character or a word that base 85 has not")
    return words.astype(">u4").tobytes()[: 4 * len(words) - missing]
