"""Records: one line of JSON for each image done. A run can be stopped at any moment and goes on where it was."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from lipcore.errors import DataError
from lipcore.results import plain


class Records:
    """The records of one experiment and profile, in a file that only grows.

    A record is a flat mapping. Those of its entries named in ``key`` say which unit of work it is; a unit is done
    once. Reading changes nothing: a last line cut off by a kill is passed over, and gives way to the next record.
    One process writes at a time; any number may read beside it.

    A later line with ``"amends": true`` adds its other entries to the record of its unit.

    Args:
        path: the ``.records.jsonl`` file; made when the first record comes.
        key: the names of the entries that tell units apart.

    Raises:
        DataError: a damaged line before the last, or two records of one unit that differ.
    """

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        self.path = path
        self.key = key
        self._records: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._lines: dict[tuple[Any, ...], int] = {}
        self._read = 0  # bytes, all of them whole lines
        self._count = 0  # lines in them
        self._lock = FileLock(f"{path}.lock")
        self._read_on()

    @property
    def lines(self) -> int:
        """Whole lines read; more than the records where some are amended."""
        return self._count

    def unit(self, record: dict[str, Any]) -> tuple[Any, ...]:
        """The entries of ``record`` that say which unit of work it is."""
        return tuple(record[name] for name in self.key)

    def has(self, unit: dict[str, Any]) -> bool:
        """Whether that unit is done."""
        return self.unit(unit) in self._records

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keeps other processes from writing meanwhile; a run holds it from its first unit to its last.

        Raises:
            DataError: another process holds it; the message says which, and since when.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path.parent, os.W_OK):  # a run that has nothing left to do needs no lock
            yield
            return
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = Path(self._lock.lock_file).read_text() or "another process"
            message = f"{self.path} is being written by {holder}; wait until that has ended, or end it"
            raise DataError(message) from None
        try:
            if self._lock.lock_counter == 1:
                since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
                Path(self._lock.lock_file).write_text(f"process {os.getpid()} ({' '.join(sys.argv)}, since {since})")
            yield
        finally:
            self._lock.release()

    def add(self, record: dict[str, Any]) -> None:
        """Appends a record and sees it on disk before returning; numbers that are not finite become null.

        Raises:
            DataError: the unit is recorded already, or another process is writing.
        """
        record, unit = plain(record), self.unit(record)
        with self.writing():
            self._read_on()
            if unit in self._records:
                raise DataError(f"{unit} is recorded in {self.path} already")
            line = json.dumps(record, allow_nan=False).encode() + b"\n"
            with self.path.open("r+b" if self.path.exists() else "x+b") as file:
                self._mend(file)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._read_on()

    def _mend(self, file: BinaryIO) -> None:
        """Goes to the end: a last line that lacks only its newline gets it, one that was cut off goes."""
        if file.seek(0, os.SEEK_END) < self._read:
            raise DataError(f"{self.path} has lost lines since it was read; see to the file and start again")
        file.seek(self._read)
        tail = file.read()
        if tail and self._parsed(tail) is None:
            file.seek(self._read)
            file.truncate()
        elif tail:
            file.write(b"\n")

    def _read_on(self) -> None:
        """Takes in what has come since the last time."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        for line in text.splitlines(keepends=True):
            whole = line.endswith(b"\n")
            record = self._parsed(line)
            if record is not None:
                self._take(record)
            if whole:
                self._read += len(line)
                self._count += 1

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        """The record in a line, or None where the line was cut off."""
        if line.startswith(b"{") and not line.endswith(b"\n") and _cut_off(line):
            return None
        try:
            record = json.loads(line)
            self.unit(record)
            return dict(record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"line {self._count + 1} of {self.path} is damaged, or of an older version: {error!r}"
            raise DataError(f"{message}. Delete that line, or move the file away to measure anew") from error

    def _take(self, record: dict[str, Any]) -> None:
        unit, number = self.unit(record), self._count + 1
        if record.pop("amends", False):
            if unit not in self._records:
                raise DataError(f"line {number} of {self.path} amends a unit that no line before it records: {unit}")
            self._records[unit] |= record
            return
        try:
            known = self._records.setdefault(unit, record)
        except TypeError as error:
            raise DataError(f"line {number} of {self.path} is damaged: {error}. Delete that line") from error
        first = self._lines.setdefault(unit, number)
        if known != record:
            names = sorted(name for name in known.keys() | record.keys() if known.get(name) != record.get(name))
            raise DataError(
                f"lines {first} and {number} of {self.path} record one unit, {unit}, and differ in {', '.join(names)}; "
                "delete one of the two"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)


def _cut_off(line: bytes) -> bool:
    """Whether an object begins and does not end."""
    try:
        json.JSONDecoder().raw_decode(line.decode(errors="replace"))
    except (json.JSONDecodeError, RecursionError):
        return True
    return False
