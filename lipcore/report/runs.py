"""What a build of the book is asked for, and what each notebook says about itself; ``dodo.py`` does the rest.

A notebook says what it makes and needs in its metadata, by experiment name (``x`` is ``results/<profile>/x.json``)::

    "lip": {"results": ["interference"], "reads": ["receptive_fields"]}

``reads`` may be left out: a notebook that writes no results reads those of all the others, and so runs after them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doit import doit_cmd
from doit.exceptions import InvalidDodoFile

#: Relative to the checkout's top, where a build runs.
BOOK, BUILD, RESULTS = Path("book"), Path("_build"), Path("results")
PARAMETERS = ("detector", "images", "profile")
PROFILES = ("quick", "full")
#: Notebooks that begin first: one that another long one reads, then the longest of the quick profile.
FIRST = ("receptive_fields", "assumptions", "interference", "coco", "noise", "lip_cost", "wider_face", "protect")


@dataclass(frozen=True)
class Run:
    """One set of parameters for all notebooks; ``None`` leaves a notebook's own default.

    Attributes:
        profile: ``"quick"`` or ``"full"``.
        detector: a name or ``package.module:factory``.
        images: a folder of photographs, relative to the checkout's top.
        sources: files of the reader's that the run depends on.
    """

    profile: str = "quick"
    detector: str | None = None
    images: str | None = None
    sources: tuple[str, ...] = ()

    @property
    def custom(self) -> bool:
        """Whether it is of a reader's own detector or photographs."""
        return self.detector is not None or self.images is not None

    @property
    def variant(self) -> str:
        """Tells runs apart in the names of folders."""
        if not self.custom:
            return self.profile
        return f"{self.profile}-{_digest(self.detector, self.images)}"

    @property
    def results(self) -> Path:
        """Where its notebooks write their results."""
        return RESULTS / "custom" / self.variant if self.custom else RESULTS / self.profile

    @property
    def executed(self) -> Path:
        """Where its executed notebooks lie."""
        return BUILD / "executed" / self.variant

    @property
    def reports(self) -> Path:
        """Where what failed lies."""
        return BUILD / "reports" / self.variant

    def parameters(self) -> dict[str, str]:
        """Those that are injected into the notebooks."""
        given = {"profile": self.profile, "detector": self.detector, "images": self.images}
        return {name: value for name, value in given.items() if value is not None}


@functools.cache
def requested() -> Run:
    """The run that the command line asks for, checked before anything starts.

    Raises:
        InvalidDodoFile: a parameter is unknown or has no valid value; doit prints the message alone.
    """
    given = {name: value for name, value in (doit_cmd._CMDLINE_VARS or {}).items() if value.strip()}
    if unknown := set(given) - set(PARAMETERS):
        raise InvalidDodoFile(f"unknown parameter {', '.join(sorted(unknown))}; valid: {', '.join(PARAMETERS)}")
    profile = given.get("profile", "quick")
    if profile not in PROFILES:
        raise InvalidDodoFile(f"unknown profile {profile!r}; valid: {', '.join(PROFILES)}")
    defaults = [defaults_of(notebook) for notebook in notebooks()]
    for name in ("detector", "images"):
        if name in given and defaults and all(d.get(name) == given[name] for d in defaults):
            del given[name]  # what the notebooks use anyway is not a run of its own
    detector, images = given.get("detector"), given.get("images")
    sources: list[str] = []
    if detector is not None:
        sources += _detector_sources(detector)
    if images is not None:
        images, files = _images_folder(images)
        sources += files
    return Run(profile, detector, images, tuple(sources))


def _detector_sources(detector: str) -> list[str]:
    """The files of the reader's own detector; an error where there is no such detector."""
    sys.path.insert(0, str(Path.cwd()))
    module, colon, factory = detector.partition(":")
    if not colon:
        from lipcore.detectors import REGISTRY

        if detector not in REGISTRY:
            valid = ", ".join([*REGISTRY, "package.module:factory"])
            raise InvalidDodoFile(f"unknown detector {detector!r}; valid: {valid}")
        return []
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not factory:
        raise InvalidDodoFile(
            f"detector {detector!r}: there is no module {module!r}; it must be package.module:factory, installed or"
            " lying in this folder or on PYTHONPATH"
        )
    return [spec.origin] if spec.origin and Path(spec.origin).is_file() else []


def _images_folder(given: str) -> tuple[str, list[str]]:
    """The folder as the notebooks get it, relative to this one, and the files in it."""
    folder = Path(given).expanduser().resolve()
    if not folder.is_dir():
        raise InvalidDodoFile(f"images {given!r} is not a folder")
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise InvalidDodoFile(f"images {given!r} holds no file")
    if folder.is_relative_to(Path.cwd()):
        return folder.relative_to(Path.cwd()).as_posix(), files
    # A link inside the project, so that no page shows where on your disk the photographs are.
    link = BUILD / "images" / f"{folder.name}-{_digest(str(folder))}"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(folder, target_is_directory=True)
    return link.as_posix(), files


def _digest(*values: str | None) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]


def notebooks() -> list[Path]:
    """All of the book."""
    return sorted(BOOK.glob("*.ipynb"))


def in_turn() -> list[Path]:
    """The notebooks as they begin: two at once end sooner so."""
    turn = dict(zip(FIRST, range(len(FIRST)), strict=True))
    return sorted(notebooks(), key=lambda path: turn.get(path.stem, len(turn)))


@functools.cache
def _notebook(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise InvalidDodoFile(f"{path} is not a notebook: {error}") from error
    return read


def defaults_of(path: Path) -> dict[str, Any]:
    """The names that the cell tagged ``parameters`` assigns, with their values."""
    found: dict[str, Any] = {}
    for cell in _notebook(path)["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            for node in ast.parse("".join(cell["source"])).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    found[node.targets[0].id] = ast.literal_eval(node.value)
    if missing := set(PARAMETERS) - set(found):
        raise InvalidDodoFile(
            f"{path} knows no parameter {', '.join(sorted(missing))}: its cell tagged 'parameters' assigns"
            f" {', '.join(found) or 'nothing'} and must assign {', '.join(PARAMETERS)}"
        )
    return found


def results_of(path: Path, key: str = "results") -> list[str]:
    """Names of the results that a notebook writes, or (``key="reads"``) reads."""
    declared: dict[str, list[str]] = _notebook(path)["metadata"].get("lip", {})
    if key == "reads" and "reads" not in declared and not declared.get("results"):
        return [name for other in notebooks() if other != path for name in results_of(other)]
    return [name.removesuffix(".json") for name in declared.get(key, [])]
