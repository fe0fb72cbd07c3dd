"""The errors a user can meet. Each message says what was wrong, what is valid, and what to do."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any


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


def out_of_memory(error: BaseException) -> str | None:
    """What to say of an error, torch's and NumPy's too, that means there was no memory left; None for any other."""
    text = str(error)
    torch_said = isinstance(error, RuntimeError) and re.search(r"can't allocate memory|not enough memory", text)
    if not (isinstance(error, MemoryError) or torch_said or type(error).__name__ == "OutOfMemoryError"):
        return None
    needed = ""
    if found := re.search(r"tried to allocate (\d+) bytes", text):
        needed = f" ({int(found[1]) / 1e9:.1f} GB more were needed)"
    elif found := re.search(r"[Tt]ried to allocate ([\d.]+ [KMGT]i?B)|Unable to allocate ([\d.]+ [KMGT]i?B)", text):
        needed = f" ({found[1] or found[2]} more were needed)"
    return f"out of memory{needed}: take a smaller image, or end what else runs"


def notes(tell: Callable[[str], object]) -> Callable[..., None]:
    """A ``warnings.showwarning`` that tells each :class:`LipcoreWarning` once, in a line, and shows others as before.

    Args:
        tell: writes the line.
    """
    other, said = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
        if not issubclass(category, LipcoreWarning):
            other(message, category, *more, **named)
        elif str(message) not in said:
            said.add(str(message))
            tell(f"lipcore: note: {message}")

    return show
