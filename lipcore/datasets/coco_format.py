"""COCO's two JSON formats, read: instances and results. Whatever is wrong is named by file and entry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipcore.datasets.text_files import read_text
from lipcore.errors import DataError, short

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: What ``iscrowd`` may be, as exporters write it.
_CROWD = {None: False, 0: False, 1: True, "0": False, "1": True}


@dataclass(frozen=True, eq=False)
class Instances:
    """An instances file.

    Attributes:
        images: id -> the image's entry; an entry listed twice is one.
        boxes: id -> (N, 4) x, y, width, height in pixels, of the boxes that have an extent.
        crowd: id -> (N,) whether a box stands for a crowd.
        degenerate: id -> boxes left out because they have no extent.
    """

    images: Mapping[int, Mapping[str, Any]] = field(repr=False)
    boxes: Mapping[int, Floats] = field(repr=False)
    crowd: Mapping[int, Flags] = field(repr=False)
    degenerate: Mapping[int, int] = field(repr=False)


@dataclass(frozen=True)
class Result:
    """A detection: the id of its image, its box x, y, width, height in pixels, and its score."""

    image: int
    box: tuple[float, float, float, float]
    score: float


def read_instances(path: Path) -> Instances:
    """Reads an instances file.

    Raises:
        DataError: it is missing, not JSON, or an entry is not as COCO has it; the message names the entry.
    """
    content = _json(path)
    images: dict[int, Mapping[str, Any]] = {}
    for where, image in _entries(path, content, "images"):
        number = _id(where, image, "id")
        if images.setdefault(number, image) != image:
            raise DataError(f"{where} has the id {number} of another image; every image needs its own")
    boxes: dict[int, list[tuple[float, ...]]] = {number: [] for number in images}
    crowd: dict[int, list[bool]] = {number: [] for number in images}
    degenerate = dict.fromkeys(images, 0)
    for where, annotation in _entries(path, content, "annotations"):
        number = _id(where, annotation, "image_id")
        if number not in images:
            raise DataError(f"{where} is of image {number}, which {path} does not list")
        box = _numbers(where, annotation, finite=False)
        if not np.isfinite(box).all() or min(box[2:]) <= 0:
            degenerate[number] += 1
            continue
        boxes[number].append(box)
        crowd[number].append(_crowd(where, annotation))
    return Instances(
        images,
        {number: np.array(own, dtype=np.float64).reshape(-1, 4) for number, own in boxes.items()},
        {number: np.array(own, dtype=np.bool_) for number, own in crowd.items()},
        degenerate,
    )


def read_results(path: Path) -> list[Result]:
    """Reads detections in COCO's result format.

    Raises:
        DataError: it is missing, no JSON list, or an entry lacks an image, a box or a score; the message names it.
    """
    content = _json(path)
    if not isinstance(content, list):
        raise DataError(f"{path} holds {_kind(content)}; valid is a list of objects with image_id, bbox and score")
    found = []
    for where, row in _objects(path, "", content):
        box = _numbers(where, row, finite=True)
        if min(box[2:]) < 0:
            raise DataError(f"{where}: bbox {list(box)} has a negative side; valid is x, y, width, height")
        found.append(Result(_id(where, row, "image_id"), (box[0], box[1], box[2], box[3]), _score(where, row)))
    return found


def _json(path: Path) -> Any:
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {short(error)}") from error


def _entries(path: Path, content: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each entry of a list in an instances file, with what messages call it."""
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {_kind(content)}; valid is an object with images and annotations")
    if not isinstance(content.get(name), list):
        raise DataError(f"{path} is not in COCO's format: it has no list called {name}")
    yield from _objects(path, name, content[name])


def _objects(path: Path, name: str, rows: list[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for i, row in enumerate(rows):
        where = f"{path}, {name}[{i}]"
        if not isinstance(row, dict):
            raise DataError(f"{where} is {_kind(row)}; valid is an object")
        yield where, row


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _id(where: str, row: Mapping[str, Any], name: str) -> int:
    """A whole number, also as exporters write it: "000000000139" or 139.0."""
    value = row.get(name)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 19:
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise DataError(f"{where}: {name} is {_shown(row, name)}; valid is a whole number")


def _numbers(where: str, row: Mapping[str, Any], *, finite: bool) -> tuple[float, ...]:
    """The box: four numbers."""
    value = row.get("bbox")
    box = tuple(map(_float, value)) if isinstance(value, list) and len(value) == 4 else ()
    numbers = tuple(v for v in box if v is not None)
    if len(numbers) != 4 or (finite and not np.isfinite(numbers).all()):
        raise DataError(f"{where}: bbox is {_shown(row, 'bbox')}; valid are four finite numbers: x, y, width, height")
    return numbers


def _score(where: str, row: Mapping[str, Any]) -> float:
    value = _float(row.get("score"))
    if value is None or not np.isfinite(value):
        raise DataError(f"{where}: score is {_shown(row, 'score')}; valid is a finite number")
    return value


def _crowd(where: str, row: Mapping[str, Any]) -> bool:
    value = row.get("iscrowd")
    try:
        return _CROWD[value]
    except (KeyError, TypeError):
        raise DataError(f"{where}: iscrowd is {_shown(row, 'iscrowd')}; valid are 0 and 1") from None


def _float(value: Any) -> float | None:
    """A number, also one in quotes; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _shown(row: Mapping[str, Any], name: str) -> str:
    return short(repr(row[name]), 60) if name in row else "missing"
