"""Damage of every kind to a file's bytes, and what a user sees of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

from lipcore.cli.errors import told

SEED = 20260101


def damage(content: bytes, kind: int, rng: np.random.Generator) -> bytes:
    """One of eight kinds of damage at a place drawn by ``rng``."""
    data = bytearray(content)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, max(2, len(data) // 8)))
    if kind == 0:  # cut off
        return bytes(data[:at])
    if kind == 1:  # one bit
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:  # some bytes anywhere
        for place in rng.integers(len(data), size=20):
            data[place] = int(rng.integers(256))
    elif kind == 3:  # the header
        for place in rng.integers(min(96, len(data)), size=3):
            data[place] = int(rng.integers(256))
    elif kind == 4:  # a hole, as of a download that went on
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 5:
        data[at : at + length] = b"\xff" * len(data[at : at + length])
    elif kind == 6:  # lost, or written twice
        del data[at : at + length]
    else:
        data[at:at] = data[at : at + length]
    return bytes(data)


def outcome(act: Callable[[], object], path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """What ``act`` returns, or None after one clear line; and the notes that were told."""
    capsys.readouterr()
    result = None
    try:
        with told(path):
            result = act()
    except typer.Exit:
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("lipcore: note: ")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("lipcore: ")
        assert str(path) in lines[0]
        assert len(lines[0]) < len(str(path)) + 500
        return None, lines[0]
    return result, capsys.readouterr().err
