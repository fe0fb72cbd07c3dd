"""What a user is told: their errors in one line that names the file, bugs as bugs, and what they should know once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from lipcore.cli import app
from lipcore.cli.errors import told
from lipcore.errors import DataError, LipcoreWarning, MemoryShort, OptionError, short


def raiser(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def deep() -> None:
    json.loads("[" * 200_000)


def torch_out_of_memory() -> None:
    torch.empty(2**46)


USERS: dict[str, tuple[Callable[[], object], str]] = {
    "no file": (lambda: Path("none.json").read_text(), r"none\.json: No such file or directory"),
    "nested": (deep, "given.json: RecursionError: "),
    "too large a number": (
        lambda: int(json.loads("1e400")),
        "given.json: OverflowError: cannot convert float infinity",
    ),
    "no UTF-8": (lambda: b"\xff\xfe".decode(), "given.json: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
    "no JSON": (lambda: json.loads("{"), "given.json: JSONDecodeError: Expecting property name"),
    "a bomb": (raiser(Image.DecompressionBombError("too large")), "given.json: DecompressionBombError: too large"),
    "no archive": (raiser(zipfile.BadZipFile("no zip")), "given.json: BadZipFile: no zip"),
    "torch's memory": (
        torch_out_of_memory,
        r"given\.json: out of memory \(\d+\.\d GB more were needed\): take a smaller",
    ),
    "NumPy's memory": (lambda: np.empty(2**46), r"given\.json: out of memory \(512\. TiB more were needed\)"),
    "memory": (raiser(MemoryError()), r"given\.json: out of memory: take a smaller image"),
    "the card's memory": (
        raiser(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")),
        r"out of memory \(2\.00 GiB more were needed\)",
    ),
    "ours": (raiser(DataError("x.txt line 3: no number")), r"x\.txt line 3: no number"),
    "an option": (raiser(OptionError("epsilon is -1")), "epsilon is -1"),
    "too little memory": (raiser(MemoryShort("photo takes 9 GB")), "photo takes 9 GB"),
}


@pytest.mark.parametrize("kind", USERS)
def test_a_users_error_is_one_line(kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    act, message = USERS[kind]
    with pytest.raises(typer.Exit) as caught, told(Path("given.json"), None):
        act()
    assert caught.value.exit_code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lipcore: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert len(err) < 400


def test_the_files_contents_are_never_shown(capsys: pytest.CaptureFixture[str]) -> None:
    secret = b"secret" * 100_000 + b"\xff"
    with pytest.raises(typer.Exit), told(Path("given.json")):
        secret.decode()
    err = capsys.readouterr().err
    assert "secret" not in err
    assert len(err) < 300
    assert short("x" * 500_000) == "x" * 197 + "..."
    assert short("one\ntwo") == "one"


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, IndexError, RuntimeError, AssertionError])
def test_a_bug_is_shown_as_a_bug(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(error, match="bug"), told(Path("given.json")):
        raise error("bug")
    assert capsys.readouterr().err == ""


def test_what_a_user_should_know_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of others; those of ours are always told
        with told():
            for _ in range(3):
                warnings.warn("the first of 3 frames is read", LipcoreWarning, stacklevel=1)
            warnings.warn("another", LipcoreWarning, stacklevel=1)
            with pytest.raises(UserWarning, match="not ours"):
                warnings.warn("not ours", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "lipcore: note: the first of 3 frames is read\nlipcore: note: another\n"
    assert warnings.showwarning is before


def test_weights_that_are_not_the_registered_ones_are_noted(tmp_path: Path) -> None:
    """A detection with them is given, and said not to be the published detector's."""
    from lipcore.detectors.weights import find_weights

    state = torch.load(find_weights("pnet"), weights_only=True)
    torch.save(state | {"conv1.bias": state["conv1.bias"] + 0.01}, tmp_path / "mine.pt")
    Image.new("RGB", (60, 60)).save(tmp_path / "photo.png")
    command = ["detect", str(tmp_path / "photo.png"), "--detector", "pnet", "--weights", str(tmp_path / "mine.pt")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "with probability" in done.stdout
    note = done.stderr.strip()
    assert note.startswith(f"lipcore: note: {tmp_path / 'mine.pt'} is not the registered file of 'pnet' (sha256 ")
    assert "\n" not in note


def test_python_runs_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lipcore.cli"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "Usage: lipcore" in done.stdout
    done = subprocess.run([*command, "detect", "none.jpg"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "lipcore: no file none.jpg\n")
