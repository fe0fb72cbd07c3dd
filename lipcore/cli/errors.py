"""How an error of the user's is told, and what a user should know beside."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path

import typer

from lipcore.errors import LipcoreError, LipcoreWarning, notes, out_of_memory, short

#: What is a matter of the user's files or machine wherever it comes from. Other errors that no check has turned into a
#: :class:`LipcoreError` are bugs, and shown as such.
OF_FILES = (OSError, OverflowError, RecursionError, UnicodeError, json.JSONDecodeError, FloatingPointError)
#: The same of libraries that need not be imported to name their errors.
OF_FILES_BY_NAME = ("DecompressionBombError", "BadZipFile")


class told:
    """Turns an error of the user's into one line on stderr and exit code 1; any other error is a bug and is shown.

    A :class:`LipcoreWarning` becomes one line too, once.

    Args:
        files: what the work reads and writes, named where an error names none.
    """

    def __init__(self, *files: Path | None) -> None:
        self.files = [str(file) for file in files if file is not None]

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("always", LipcoreWarning)
        warnings.showwarning = notes(partial(typer.echo, err=True))

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._warnings.__exit__(None, None, None)
        line = None if error is None else self._line(error)
        if line is not None:
            typer.echo(f"lipcore: {line}", err=True)
            raise typer.Exit(1) from error

    def _line(self, error: BaseException) -> str | None:
        """What is told of an error; None where it is no user's."""
        if isinstance(error, LipcoreError):
            return str(error)
        if (said := out_of_memory(error)) is not None:
            return self._named(said)
        if isinstance(error, BrokenPipeError):
            return None  # whoever read the output has left; click ends quietly
        if isinstance(error, OSError) and error.filename is not None:
            return f"{error.filename}: {error.strerror or type(error).__name__}"
        if isinstance(error, OF_FILES) or type(error).__name__ in OF_FILES_BY_NAME:
            return self._named(f"{type(error).__name__}: {short(error)}")
        return None

    def _named(self, what: str) -> str:
        return ", ".join(self.files) + f": {what}" if self.files else what
