"""Where the benchmarks are on this machine: by the environment variable ``LIPCORE_DATA`` or a path given.

Of images the project carries the crowds alone, which may be shown. ``LIPCORE_DATA`` names a folder that holds
``widerface/``, ``fddb/`` and the like, each in its official layout, whole or in part; ``data/registry.toml`` says what
belongs there, under which terms, and how to get it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lipcore.datasets.coco import load_coco
from lipcore.datasets.crowds import load_crowds
from lipcore.datasets.fddb import load_fddb
from lipcore.datasets.wider import load_wider
from lipcore.errors import DataError, UnknownName
from lipcore.paths import DATA

VARIABLE = "LIPCORE_DATA"
Status = Literal["complete", "part", "incomplete", "missing"]


@dataclass(frozen=True)
class Entry:
    """A benchmark as ``data/registry.toml`` describes it.

    Attributes:
        name: its folder below ``LIPCORE_DATA``.
        title: its usual name.
        source: who published it, and where.
        licence: the terms of use.
        get: what to do to have it, for a person.
        images: in the complete set.
        faces: annotated in the complete set; of COCO, its objects.
        parts: path below its folder -> what it is and which archive holds it; a path may end in alternatives ``a|b``.
    """

    name: str
    title: str
    source: str
    licence: str
    get: str
    images: int
    faces: int
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """What there is of a benchmark on this machine.

    Attributes:
        entry: the benchmark.
        status: ``"complete"``; ``"part"``: usable, with fewer images; ``"incomplete"``: there, but not usable as it is;
            ``"missing"``.
        path: its folder, or None.
        present: the registry's parts that are there.
        absent: the registry's parts that are not there, each with the archive that holds it.
        report: what the loader found or refused, in words.
    """

    entry: Entry
    status: Status
    path: Path | None
    present: tuple[str, ...]
    absent: tuple[str, ...]
    report: str

    @property
    def usable(self) -> bool:
        """Whether images can be loaded."""
        return self.status in ("complete", "part")

    def __str__(self) -> str:
        """Some lines for people: what is there, what is missing, how to get it, and the terms."""
        lines = [f"{self.entry.name} ({self.entry.title}): {self.status}{f', in {self.path}' if self.path else ''}"]
        lines += [f"  {self.report}"] if self.report else []
        lines += [f"  there:   {part}" for part in self.present]
        lines += [f"  missing: {part}" for part in self.absent]
        if self.status != "complete":
            lines.append(f"  get it:  {self.entry.get}")
        return "\n".join([*lines, f"  source:  {self.entry.source}", f"  terms:   {self.entry.licence}"])


@cache
def registry() -> dict[str, Entry]:
    """Every benchmark that the project knows, by name."""
    with (DATA / "registry.toml").open("rb") as file:
        table: dict[str, dict[str, Any]] = tomllib.load(file).get("data", {})
    return {name: Entry(name=name, **fields) for name, fields in table.items()}


def find_dataset(name: str, given: str | Path | None = None) -> Path:
    """The folder of benchmark ``name``.

    Args:
        name: ``"widerface"``, ``"fddb"``, ...
        given: the benchmark's own folder, or one that holds ``<name>/``; by default the project's own where it carries
            the images, else ``LIPCORE_DATA`` is asked.

    Raises:
        UnknownName: no such benchmark.
        DataError: it is not there; the message says how to get it and under which terms.
    """
    entry = _entry(name)
    if given is not None:
        path = Path(given).expanduser()
        if (path / name).is_dir():
            return path / name
        if path.is_dir():
            return path
        raise DataError(f"no folder {path} to find {entry.title} in")
    if (DATA / name).is_dir():
        return DATA / name
    value = os.environ.get(VARIABLE, "")
    if not value:
        place = f"{VARIABLE} is not set: let it name a folder that holds {name}/, or give the folder"
    else:
        path = Path(value).expanduser() / name
        if path.is_dir():
            return path
        place = f"{VARIABLE} holds no {name}/"
    raise DataError(f"{entry.title} is not at hand ({place}). {entry.get} Terms: {entry.licence}")


def check(name: str | None = None, given: str | Path | None = None) -> list[Check]:
    """Says what is there of one benchmark, or of all; never raises for what is missing.

    Args:
        name: of the benchmark; by default all.
        given: see :func:`find_dataset`.

    Raises:
        UnknownName: no such benchmark.
    """
    return [_check(_entry(each), given) for each in ([name] if name is not None else registry())]


_LOADERS: dict[str, Callable[[Path], Sized]] = {
    "widerface": load_wider,
    "fddb": load_fddb,
    "coco": load_coco,
    "crowds": load_crowds,
}


def _check(entry: Entry, given: str | Path | None) -> Check:
    try:
        path = find_dataset(entry.name, given)
    except DataError as error:
        everything = tuple(f"{part} ({what})" for part, what in entry.parts.items())
        return Check(entry, "missing", None, (), everything, "" if given is None else str(error))
    present = tuple(part for part in entry.parts if _is_there(path, part))
    absent = tuple(f"{part} ({what})" for part, what in entry.parts.items() if part not in present)
    if not present:
        return Check(entry, "missing", path, present, absent, "the folder holds none of the official parts")
    if entry.name not in _LOADERS:
        return Check(entry, "incomplete" if absent else "part", path, present, absent, "")
    try:
        data = _LOADERS[entry.name](path)
    except DataError as error:
        return Check(entry, "incomplete", path, present, absent, str(error))
    whole = not absent and len(data) >= entry.images
    return Check(
        entry,
        "complete" if whole else "part",
        path,
        present,
        absent,
        str(getattr(data, "report", f"{len(data)} images")),
    )


def _is_there(path: Path, part: str) -> bool:
    """Whether a part is below ``path``; ``folder/a|b`` is there when one of the two is."""
    folder, _, last = part.rpartition("/")
    return any((path / folder / choice).exists() for choice in last.split("|"))


def _entry(name: str) -> Entry:
    try:
        return registry()[name]
    except KeyError:
        raise UnknownName("benchmark", name, registry()) from None
