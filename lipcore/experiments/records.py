"""Records: one line of JSON for each image done. A run can be stopped at any moment and goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lipcore.errors import DataError


class Records:
    """The records of one experiment and profile, in a file that only grows.

    A record is a flat mapping. Those of its entries named in ``key`` say which unit of work it is; a unit is done
    once. A last line cut off by a kill is dropped and that unit is done again.

    Args:
        path: the ``.records.jsonl`` file; made when the first record comes.
        key: the names of the entries that tell units apart.

    Raises:
        DataError: a damaged line before the last, or a unit recorded twice.
    """

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        self.path = path
        self.key = key
        self._records: dict[tuple[Any, ...], dict[str, Any]] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                unit = self.unit(record)
                twice = unit in self._records
            except (ValueError, KeyError, TypeError) as error:
                message = f"line {number} of {self.path} is damaged, or of an older version: {error!r}"
                raise DataError(f"{message}. Move the file away to measure anew") from error
            if twice:
                raise DataError(f"line {number} of {self.path} records a unit for the second time: {unit}")
            self._records[unit] = record
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))

    def unit(self, record: dict[str, Any]) -> tuple[Any, ...]:
        """The entries of ``record`` that say which unit of work it is."""
        return tuple(record[name] for name in self.key)

    def has(self, unit: dict[str, Any]) -> bool:
        """Whether that unit is done."""
        return self.unit(unit) in self._records

    def add(self, record: dict[str, Any]) -> None:
        """Appends a record and sees it on disk before returning."""
        unit = self.unit(record)
        if unit in self._records:
            raise DataError(f"{unit} is recorded in {self.path} already")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._records[unit] = record

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)
