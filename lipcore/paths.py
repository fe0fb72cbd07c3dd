"""Where the project's own files are: in a checkout at its top, in an installed wheel inside the package."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_CHECKOUT = Path(__file__).resolve().parent.parent
IN_CHECKOUT = (_CHECKOUT / "data" / "registry.toml").is_file()

#: The shipped data: ``registry.toml``, the poster's numbers, our own weights.
DATA = _CHECKOUT / "data" if IN_CHECKOUT else Path(__file__).resolve().parent / "_data"

#: The checkout's top; without a checkout the current folder, where results then go.
ROOT = _CHECKOUT if IN_CHECKOUT else Path.cwd()


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` once it is whole and on disk; if anything fails nothing of it stays.

    Args:
        path: of the file to be made; its folder must be there.
        mode: its permissions, less the process's umask.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")  # no one can have planted a link there
    file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode), "wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
