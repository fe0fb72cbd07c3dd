"""The errors a user can meet. Each message says what was wrong, what is valid, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LipcoreError(Exception):
    """Base of every error raised for a user's input."""


class ImageError(LipcoreError, ValueError):
    """Something that should be an image is not one, or not one that can be used."""


class NoFaceFound(LipcoreError, ValueError):
    """The detector finds nothing to attack on the clean image."""


class UnknownName(LipcoreError, ValueError):
    """A name (preset, detector, profile, field, ...) that does not exist; the message lists those that do."""

    def __init__(self, kind: str, name: object, valid: Iterable[str]) -> None:
        known = list(valid)
        near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}; valid: {', '.join(known)}.{hint}")


class OptionError(LipcoreError, ValueError):
    """An option, a field of a config or an argument has a value that it cannot have; the message says which it can."""


class WeightsError(LipcoreError, ValueError):
    """A weights file is missing, damaged, or not the network's."""


class DetectorError(LipcoreError, ValueError):
    """A detector breaks the contract; the message says where, what is valid, and what to do."""


class DataError(LipcoreError, ValueError):
    """A dataset is missing, incomplete or malformed."""


class LipcoreWarning(UserWarning):
    """Something a user should know that does not stop the work; the command line prints it as one line."""


class MemoryShort(LipcoreError, MemoryError):
    """The work does not fit the memory at hand; the message says how much it takes."""


def short(said: object, limit: int = 200) -> str:
    """The first line of a message, cut where it is long: what other libraries say can hold a whole file."""
    lines = str(said).strip().splitlines()
    line = lines[0] if lines else type(said).__name__
    return line if len(line) <= limit else line[: limit - 3] + "..."
