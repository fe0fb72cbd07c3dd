"""Detections on WIDER FACE as text files, one for each image, and the evaluation of a folder of them.

``<folder>/<event>/<name>.txt``, as the official tool reads it::

    0--Parade/0_Parade_marchingband_1_20.jpg
    2
    541 354 36 46 0.997
    100.5 20 12 15 0.31

A line to name the image (the tool does not read it), the number of faces, then x, y, w, h and score of each. Further
columns and blank lines are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipcore.datasets.text_files import read_text
from lipcore.datasets.wider import ImageKey, load_ground_truth
from lipcore.errors import DataError, UnknownName, short
from lipcore.metrics.intervals import bootstrap_weights
from lipcore.metrics.wider import evaluate_subsets

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PredictionFiles:
    """A folder of predictions, read.

    Attributes:
        predictions: image -> (K, 5) x, y, w, h, score, for every image that has a file.
        missing: listed images without a file: they count as images without predictions.
        unlisted: files for images that are not listed, relative to the folder: not read.
    """

    predictions: Mapping[ImageKey, Floats] = field(repr=False)
    missing: tuple[ImageKey, ...]
    unlisted: tuple[str, ...]


def read_predictions(folder: str | Path, images: Iterable[ImageKey]) -> PredictionFiles:
    """Reads the predictions for ``images`` in the tool's text format.

    Raises:
        DataError: there is no such folder, it holds no file for any of the images, or a file is malformed or holds
            numbers that are not finite.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; give one that holds <event>/<image>.txt")
    paths = {f"{event}/{name}.txt": (event, name) for event, name in images}
    found = {path.relative_to(folder).as_posix() for path in folder.glob("*/*.txt")}
    if not found & paths.keys():
        raise DataError(f"{folder} holds no predictions of the listed images; valid names are <event>/<image>.txt")
    predictions = {key: _read(folder / path) for path, key in paths.items() if path in found}
    missing = tuple(key for path, key in paths.items() if path not in found)
    return PredictionFiles(predictions, missing, tuple(sorted(found - paths.keys())))


def write_predictions(folder: str | Path, predictions: Mapping[ImageKey, ArrayLike]) -> None:
    """Writes predictions (K, 5) x, y, w, h, score in the tool's text format, every digit kept.

    Raises:
        DataError: predictions of a wrong shape or not finite, or a name that leaves the folder.
    """
    for (event, name), value in predictions.items():
        table = np.asarray(value, dtype=np.float64)
        table = table.reshape(0, 5) if table.size == 0 else table
        if table.ndim != 2 or table.shape[1] != 5 or not np.isfinite(table).all():
            raise DataError(f"predictions of {event}/{name} have shape {table.shape}; valid is (K, 5), finite")
        if "/" in event + name or event in ("", ".", ".."):
            raise DataError(f"{event!r}, {name!r} cannot be a folder and a file")
        lines = [f"{event}/{name}.jpg", str(len(table)), *(" ".join(map(_number, row)) for row in table.tolist())]
        path = Path(folder) / event / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def evaluate(
    predictions_dir: str | Path,
    gt_dir: str | Path,
    *,
    split: str = "val",
    images: Literal["all", "predicted"] = "all",
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Evaluates a folder of predictions on easy, medium and hard.

    Args:
        predictions_dir: holds ``<event>/<image>.txt``.
        gt_dir: the folder of the four evaluation lists, or the dataset's root.
        split: the ending of the lists' names.
        images: ``"all"``: images without a file count their faces, as in the official tool; ``"predicted"``: only the
            images that have a file, on their own faces.
        draws: of the bootstrap over images, for the 95 % intervals; 0 for none.
        seed: of the bootstrap.

    Returns:
        A row for each subset and metric (``"ap"``, ``"ap_exact"``): ``subset``, ``metric``, ``value``, ``ci_low``,
        ``ci_high`` (in 0..1; None where there is no face of the subset or no bootstrap), ``n`` (faces), ``n_images``,
        ``n_listed``, ``partial``, ``without_predictions``, ``unlisted_files``.

    Raises:
        DataError: see :func:`read_predictions` and :func:`lipcore.datasets.wider.load_ground_truth`.
        UnknownName: ``images`` is neither of the two.
    """
    if images not in ("all", "predicted"):
        raise UnknownName("choice of images", images, ("all", "predicted"))
    truth = load_ground_truth(gt_dir, split)
    files = read_predictions(predictions_dir, truth.boxes)
    chosen = None if images == "all" else files.predictions.keys()
    results = evaluate_subsets(files.predictions, truth, images=chosen)
    weights = bootstrap_weights(len(truth.boxes) if chosen is None else len(chosen), draws=draws, seed=seed)
    rows: list[dict[str, Any]] = []
    for subset, result in results.items():
        for metric, value in (("ap", result.ap), ("ap_exact", result.ap_exact)):
            low, high = _interval(result.resampled(weights, exact=metric == "ap_exact") if draws else np.zeros(0))
            rows.append(
                {
                    "subset": subset,
                    "metric": metric,
                    "value": value if result.n_faces else None,
                    "ci_low": low,
                    "ci_high": high,
                    "n": result.n_faces,
                    "n_images": result.n_images,
                    "n_listed": result.n_listed,
                    "partial": result.partial,
                    "without_predictions": result.without_predictions,
                    "unlisted_files": len(files.unlisted),
                }
            )
    return rows


def _interval(values: Floats) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws that hold a face."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _read(path: Path) -> Floats:
    valid = "valid is a line for the name, one for the count, then one with x y w h score for each face"
    lines = [(i, line) for i, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]
    if len(lines) < 2:
        raise DataError(f"{path} {'ends after its first line' if lines else 'is empty'}; {valid}")
    (at, count), rows = lines[1], []
    if not count.strip().isascii() or not count.strip().isdigit():
        raise DataError(f"{path}, line {at}: {short(repr(count), 60)} is no count of faces; {valid}")
    for at, line in lines[2:]:
        try:
            x, y, w, h, score = map(float, line.split()[:5])
        except ValueError as error:
            raise DataError(
                f"{path}, line {at}: {short(repr(line), 60)} is no face ({short(error)}); {valid}"
            ) from None
        rows.append((x, y, w, h, score))
    if len(count) > 9 or int(count) != len(rows):
        raise DataError(f"{path} announces {short(count, 20)} faces, {len(rows)} follow")
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    if not np.isfinite(table).all():
        raise DataError(f"{path} holds NaN or infinity; every number must be finite")
    return table


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
