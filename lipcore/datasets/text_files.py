"""Text files as people's programs write them: UTF-8, with or without a byte order mark, any ends of lines."""

from __future__ import annotations

from pathlib import Path

from lipcore.errors import DataError, short


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8"
        raise DataError(message) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {short(error.strerror or error)}") from error
