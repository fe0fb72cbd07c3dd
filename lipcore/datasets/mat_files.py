"""MATLAB's .mat files from anywhere: a damaged one can end the whole process in scipy's compiled reader.

So another process reads a file first, unless its bytes are known: the official lists, what was written here, and what
was read before.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from lipcore.errors import DataError, short

#: sha256 of what is read without a trial; at first the four official lists of WIDER FACE val.
KNOWN = {
    "1dfe6a9853950f9dde256b5e8bb75d8f272e6bc02a15ae1968f5a9b883f458cb",
    "c2fb672d16f75653eb89fb8bc437a7d060896a71cd7a65c1a5a3e4479024099c",
    "4a031970bc132cef5cfacd05068aabcf4fe15d4a31a1e9f4f00eb134fdf449c1",
    "bb1af19dc5bc4dd9517dd8ae8096326c68175f2c3411763bdd4f23fa98638b78",
}
SECONDS, MEMORY = 120, 8 << 30
_TRIAL = f"""
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
except ImportError:
    pass
from scipy.io import loadmat
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        loadmat(path)
    except BaseException as error:
        sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def read_mat_file(path: Path, variables: Sequence[str]) -> dict[str, Any]:
    """The variables of a .mat file.

    Raises:
        DataError: it is missing or damaged.
    """
    try_mat_files([path])
    content: dict[str, Any] = loadmat(path, variable_names=list(variables))
    return content


def try_mat_files(paths: Iterable[Path]) -> None:
    """Reads files of unknown bytes in another process, all in one.

    Raises:
        DataError: one is missing or damaged; the message names it.
    """
    unknown = {path: digest for path in paths if (digest := _sha256(path)) not in KNOWN}
    if not unknown:
        return
    command = [sys.executable, "-I", "-c", _TRIAL, *map(str, unknown)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"{', '.join(map(str, unknown))}: not read within {SECONDS} s") from None
    if done.returncode:
        path = (done.stdout.splitlines() or [str(next(iter(unknown)))])[-1]
        why = short((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        if done.returncode < 0:
            why = f"reading it ends the program with {signal.Signals(-done.returncode).name}"
        raise DataError(f"{path} is damaged, or no MATLAB file of version 5 to 7: {why}")
    KNOWN.update(unknown.values())


def written_here(path: Path) -> None:
    """Takes a file that this process has just written for known."""
    KNOWN.add(_sha256(path))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
