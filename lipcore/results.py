"""Results: one JSON file for each experiment and profile, its rows beside the poster's, with where they came from."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import lipcore
from lipcore.errors import DataError, short
from lipcore.paths import DATA, IN_CHECKOUT, ROOT, replacing

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = {"type": ["number", "null"]}

#: What every results file looks like; a missing number is null, never NaN.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["experiment", "profile", "config", "rows", "reported", "summary", "provenance"],
    "additionalProperties": False,
    "properties": {
        "experiment": {"type": "string"},
        "profile": {"type": "string"},
        "config": {"type": "object"},
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["detector", "metric", "value", "ci_low", "ci_high", "n"],
                "properties": {
                    "detector": {"type": "string"},
                    "metric": {"type": "string"},
                    "value": _NUMBER,
                    "ci_low": _NUMBER,
                    "ci_high": _NUMBER,
                    "n": {"type": "integer", "minimum": 0},
                },
            },
        },
        "reported": {"type": "array", "items": {"type": "object", "required": ["claims", "metric", "value"]}},
        "summary": {"type": "object", "additionalProperties": {"type": ["number", "string", "null"]}},
        "provenance": {
            "type": "object",
            "required": [
                "git_commit", "lipcore", "torch", "device", "detectors", "dataset", "seed", "seconds", "utc",
            ],
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class DetectorInfo:
    """What results say of a detector; enough to compute a table from its records, without the detector.

    Attributes:
        name: as rows have it.
        sha256: of the file its weights came from, or of the weights themselves.
        options: its settings, as it prints them.
        device: where it ran, ``"cpu"`` or the card's name.
    """

    name: str
    sha256: str
    options: str
    device: str = "cpu"


@dataclass(frozen=True)
class Dataset:
    """The images a result rests on.

    Attributes:
        name: of the dataset.
        fingerprint: sha256 over what the images are made from.
        n_images: how many.
        n_faces: ground-truth faces in them.
    """

    name: str
    fingerprint: str
    n_images: int
    n_faces: int


def write_results(
    path: Path,
    *,
    experiment: str,
    profile: str,
    config: Any,
    rows: Sequence[Mapping[str, Any]],
    reported: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    detectors: Sequence[DetectorInfo],
    dataset: Dataset,
    seed: int,
    seconds: float,
) -> Path:
    """Validates a result and writes it, whole or not at all.

    Args:
        path: of the JSON file.
        experiment: its name, a table's or a figure's.
        profile: ``quick``, ``full`` or another.
        config: the frozen dataclass it ran with.
        rows: one mapping for each measured value.
        reported: the poster's numbers of the same table.
        summary: the scalars that prose may cite.
        detectors: those that were measured.
        dataset: the images.
        seed: of the experiment.
        seconds: of computing behind the rows, summed over runs where it was resumed.

    Raises:
        DataError: there is no row, or the project's own result would lose some.
        ValueError: the result is not of the form of :data:`SCHEMA`.
    """
    if not rows:
        raise DataError(f"{experiment} has nothing measured with this configuration, so there is no table to write")
    provenance = {
        "git_commit": git_commit(),
        "lipcore": lipcore.__version__,
        "torch": torch.__version__,
        "device": ", ".join(sorted({d.device for d in detectors})),
        "detectors": {d.name: {"weights_sha256": d.sha256, "options": d.options} for d in detectors},
        "dataset": asdict(dataset),
        "seed": seed,
        "seconds": round(seconds, 1),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    document = plain(
        {
            "experiment": experiment,
            "profile": profile,
            "config": config,
            "rows": list(rows),
            "reported": list(reported),
            "summary": dict(summary),
            "provenance": provenance,
        }
    )
    validated(document)
    if path.parent == ROOT / "results" / "full":
        _keep_what_is_there(path, document)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    return path


def _keep_what_is_there(path: Path, document: Mapping[str, Any]) -> None:
    """Refuses to replace the project's own result by one of other detectors, weights or images, or of fewer rows."""
    if not path.is_file():
        return
    before = read_results(path)
    old, new = (
        {name: of["weights_sha256"] for name, of in d["provenance"]["detectors"].items()} for d in (before, document)
    )
    lost = sorted(name for name, weights in old.items() if new.get(name) != weights)
    rows, left = len(before["rows"]), len(document["rows"])
    images, seen = (d["provenance"]["dataset"]["name"] for d in (before, document))
    if lost or images != seen or left < rows:
        why = f"its rows of {', '.join(lost)} with the same weights" if lost else f"{rows - left} of its {rows} rows"
        why = f"its rows of {images}" if images != seen else why
        raise DataError(
            f"{path} would lose {why}, and is left as it is. Set LIPCORE_RESULTS to a folder of your own for this "
            "result, or move the file away to replace it on purpose"
        )


def read_results(path: Path) -> dict[str, Any]:
    """A results file, validated.

    Raises:
        DataError: no such file, or one that is not of the form of :data:`SCHEMA`.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return validated(document)
    except FileNotFoundError:
        raise DataError(f"no results at {path}; `make book` makes those of the quick profile") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a results file: {short(error)}") from error


def validated(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` itself, if it is of the form of :data:`SCHEMA`.

    Raises:
        ValueError: it is not; the message says where.
    """
    import jsonschema  # whoever attacks a photograph validates nothing, and it takes a while to load

    try:
        jsonschema.validate(document, SCHEMA)
    except jsonschema.ValidationError as error:
        raise ValueError(f"{error.json_path}: {short(error.message)}") from error
    return document


def detectors_of(document: Mapping[str, Any]) -> dict[str, DetectorInfo]:
    """The detectors that a results file is about, by name."""
    of = document["provenance"]
    return {n: DetectorInfo(n, d["weights_sha256"], d["options"], of["device"]) for n, d in of["detectors"].items()}


def results_path(experiment: str, profile: str, variant: str = "") -> Path:
    """Where an experiment writes its results, its records beside them.

    In ``results/<profile>``, or with a variant in a folder of its own under ``results/custom``, so that what is not the
    project's never touches the project's. LIPCORE_RESULTS names another folder than ``results``. All results of one
    build are in the folder that LIPCORE_RUN names, which the pipeline sets.

    Args:
        experiment: its name.
        profile: ``"quick"`` or ``"full"``.
        variant: what is other than the project's own choice, such as a detector's name.
    """
    own = f"custom/{profile}-{re.sub(r'[^A-Za-z0-9_.+-]+', '-', variant)}" if variant else profile
    folder = os.environ.get("LIPCORE_RUN") or f"{os.environ.get('LIPCORE_RESULTS') or 'results'}/{own}"
    return ROOT / folder / f"{experiment}.json"


def shown_and_own(own: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The results the book stands by, and this build's own beside them.

    The full run's where there is one and this build is of the project's own detectors and images; then the build's own
    run is the second. Otherwise the build's own alone.

    Args:
        own: the results file this build wrote.

    Raises:
        DataError: it is not there.
    """
    mine = read_results(own)
    full = ROOT / "results" / "full" / own.name
    if own == full or own.parent.parent.name == "custom" or not full.is_file():
        return mine, None
    return read_results(full), mine


def frame(document: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of a result as a table."""
    import pandas as pd

    return pd.DataFrame(document["rows"])


@cache
def poster(table: str) -> tuple[dict[str, Any], ...]:
    """The poster's numbers of one table: ``ipi``, ``wider`` or ``coco`` (``data/poster/*.csv``).

    Raises:
        DataError: no such table.
    """
    path = DATA / "poster" / f"{table}.csv"
    if not path.is_file():
        raise DataError(f"the poster has no table {table!r}; valid: {', '.join(p.stem for p in _poster_files())}")
    with path.open(newline="") as file:
        return tuple({key: _value(text) for key, text in row.items()} for row in csv.DictReader(file))


def plain(value: Any) -> Any:
    """``value`` in JSON's types: dataclasses as objects, tuples as lists, numbers that are not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def digest(value: Any) -> str:
    """Twelve hex digits that change with anything in ``value``."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:12]


def git_commit() -> str:
    """The checkout's commit, with ``+`` behind it where lipcore has changed since; "" outside a checkout."""
    if not IN_CHECKOUT:
        return ""
    try:
        head = _git("rev-parse", "HEAD").strip()
        return head + ("+" if _git("status", "--porcelain", "--", "lipcore").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _poster_files() -> list[Path]:
    return sorted((DATA / "poster").glob("*.csv"))


def _value(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
