"""The text and .mat formats of WIDER FACE, read and written; ``lipcore.datasets.wider`` is what users call.

Inside, an annotation is a mapping ``event/file`` -> rows (N, 10): x, y, w, h and the six ``ATTRIBUTES`` of each face,
as in the text file ``wider_face_<split>_bbx_gt.txt``. The .mat files hold the same in nested cell arrays, one cell for
each event and in it one for each image; those of the evaluation add ``gt_list``, the 1-based numbers of the kept faces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from lipcore.datasets.mat_files import read_mat_file, written_here
from lipcore.datasets.text_files import read_text as text_of
from lipcore.errors import DataError, UnknownName, short

#: An image of the set: its event ("0--Parade") and its file name without the ending.
ImageKey = tuple[str, str]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SUBSETS = ("easy", "medium", "hard")
#: The columns after x, y, w, h in the text file, in its order.
ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")


def check_name(kind: str, name: str, valid: Sequence[str]) -> str:
    """``name`` if it is one of ``valid``, else :class:`UnknownName`."""
    if name not in valid:
        raise UnknownName(kind, name, valid)
    return name


def xyxy(xywh: Floats) -> Floats:
    """Boxes (N, 4) x, y, w, h as x, y, x + w, y + h."""
    return np.hstack((xywh[:, :2], xywh[:, :2] + xywh[:, 2:4]))


def image_key(name: str) -> ImageKey:
    """(event, name without ending) of ``event/file``; only the last ending is taken off."""
    event, _, file = name.partition("/")
    return event, file[: file.rfind(".")] if "." in file else file


def read_annotations(root: Path, split: str) -> dict[str, Floats]:
    """``event/file`` -> (N, 10) rows, from the text file or, where it is not there, from the split's .mat.

    Raises:
        DataError: neither is there, or it is malformed.
    """
    text = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    mats = [root / folder / f"wider_face_{split}.mat" for folder in ("wider_face_split", "eval_tools/ground_truth")]
    if text.is_file():
        return read_text(text)
    for mat in mats:
        if mat.is_file():
            return read_mat(mat)
    raise DataError(
        f"no annotation: neither {text} nor {mats[0].name} beside it; unpack wider_face_split.zip in {root}"
    )


def read_text(path: Path) -> dict[str, Floats]:
    """The rows of a ``wider_face_<split>_bbx_gt.txt``.

    An image without faces has the count 0 and then one line of zeros, which may be left out. Attributes that a line
    leaves out are 0.

    Raises:
        DataError: with the file and the line that is malformed or listed twice.
    """
    lines = text_of(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    rows: dict[str, Floats] = {}
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        if "/" not in name or name in rows:
            raise DataError(f"{path}, line {at + 1}: {name!r} is {'listed twice' if name in rows else 'no event/file'}")
        try:
            count = int(lines[at + 1])
            found = [_numbers(line) for line in lines[at + 2 : at + 2 + count]]
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}: the entry of {name} (line {at + 1}) is malformed: {error}") from None
        if count < 0 or len(found) < count:
            raise DataError(f"{path}: {name} (line {at + 1}) announces {count} faces, {len(found)} follow")
        rows[name] = np.array(found, dtype=np.float64).reshape(count, 4 + len(ATTRIBUTES))
        at += 2 + count
        if count == 0 and at < len(lines) and "/" not in lines[at]:
            at += 1  # an image without faces is followed by one line of zeros
    return rows


def _numbers(line: str) -> list[float]:
    values = [float(v) for v in line.split()]
    if len(values) < 4 or not np.isfinite(values).all():
        raise ValueError(f"{line.strip()!r} is not x y w h and attributes")
    return (values + [0.0] * len(ATTRIBUTES))[: 4 + len(ATTRIBUTES)]


def read_mat(path: Path) -> dict[str, Floats]:
    """The rows of a ``wider_face_<split>.mat``; it knows no file endings, ``.jpg`` is assumed.

    Raises:
        DataError: it is not such a file, or boxes and labels differ in number.
    """
    boxes = read_cells(path, "face_bbx_list")
    labels = [read_cells(path, f"{name}_label_list") for name in ATTRIBUTES]
    rows = {}
    for key, value in boxes.items():
        faces = boxes_of(path, key, value)
        faces[:, 2:] -= faces[:, :2]
        columns = [table(label.get(key, ()), 1) for label in labels]
        if any(len(column) != len(faces) for column in columns):
            raise DataError(f"{path}: the labels of {'/'.join(key)} are not as many as its {len(faces)} boxes")
        rows["/".join(key) + ".jpg"] = np.hstack((faces, *columns))
    return rows


def table(value: Any, columns: int) -> Floats:
    """A MATLAB matrix as (N, columns) floats; an empty one of any shape has N = 0."""
    return np.asarray(value, dtype=np.float64).reshape(-1, columns)


def read_cells(path: Path, variable: str) -> dict[ImageKey, Any]:
    """The nested cell array ``variable`` of an official .mat: one array for each image.

    Raises:
        DataError: the file is not such a .mat.
    """
    content = read_mat_file(path, ("event_list", "file_list", variable))
    found: dict[ImageKey, Any] = {}
    try:
        for event, files, values in zip(
            *(content[n][:, 0] for n in ("event_list", "file_list", variable)), strict=True
        ):
            for file, value in zip(files[:, 0], values[:, 0], strict=True):
                key = str(event[0]), str(file[0])
                if key in found:
                    raise DataError(f"{path} lists {'/'.join(key)} twice")
                found[key] = np.asarray(value)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not an official WIDER FACE list with {variable}: {short(error)}") from error
    return found


def boxes_of(path: Path, key: ImageKey, value: Any) -> Floats:
    """The boxes (N, 4), xyxy, in a cell of ``face_bbx_list``.

    Raises:
        DataError: they are no boxes of finite numbers.
    """
    try:
        boxes = xyxy(table(value, 4))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: the boxes of {'/'.join(key)} are not x, y, w, h: {short(error)}") from error
    if not np.isfinite(boxes).all():
        raise DataError(f"{path}: the boxes of {'/'.join(key)} hold NaN or infinity")
    return boxes


def kept_flags(path: Path, key: ImageKey, value: Any, n: int) -> Flags:
    """A 1-based list of kept faces as (n,) flags.

    Raises:
        DataError: a number is not one of the image's ``n`` faces.
    """
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel()
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: the kept faces of {'/'.join(key)} are no numbers: {short(error)}") from error
    if not np.isin(numbers, np.arange(1, n + 1)).all():
        wrong = numbers[~np.isin(numbers, np.arange(1, n + 1))][0]
        raise DataError(f"{path.name} keeps face {wrong:g} of {'/'.join(key)}, which has {n}")
    flags = np.zeros(n, dtype=np.bool_)
    flags[numbers.astype(np.int64) - 1] = True
    return flags


def write_annotations(root: Path, split: str, rows: Mapping[str, Floats], keep: Mapping[str, float]) -> None:
    """Writes the text file, the split's .mat and the four evaluation lists below ``root``.

    Args:
        root: the dataset's folder.
        split: the ending of the files' names.
        rows: ``event/file`` -> (N, 10); written exactly, fractions too, the images of an event together.
        keep: subset -> height in pixels; valid faces that are higher are kept.
    """
    lists, evaluation = root / "wider_face_split", root / "eval_tools" / "ground_truth"
    for folder in (lists, evaluation):
        folder.mkdir(parents=True, exist_ok=True)
    events: dict[str, list[str]] = {}
    for name in rows:
        events.setdefault(image_key(name)[0], []).append(name)

    def cells(values: Callable[[str], Any]) -> NDArray[np.object_]:
        return _cell([_cell([values(name) for name in names]) for names in events.values()])

    lines = [line for names in events.values() for name in names for line in _lines(name, rows[name])]
    (lists / f"wider_face_{split}_bbx_gt.txt").write_text("".join(f"{line}\n" for line in lines))
    variables = {
        "event_list": _cell(list(events)),
        "file_list": cells(lambda name: image_key(name)[1]),
        "face_bbx_list": cells(lambda name: rows[name][:, :4]),
    }
    for column, label in enumerate(ATTRIBUTES, start=4):
        variables[f"{label}_label_list"] = cells(lambda name, c=column: rows[name][:, c : c + 1])  # type: ignore[misc]
    for folder in (lists, evaluation):
        _save(folder / f"wider_face_{split}.mat", variables)
    for subset, height in keep.items():
        kept = cells(lambda name, h=height: _kept_list(rows[name], h))  # type: ignore[misc]
        _save(evaluation / f"wider_{subset}_{split}.mat", {**variables, "gt_list": kept})


def _save(path: Path, variables: Mapping[str, Any]) -> None:
    savemat(path, dict(variables), do_compression=True)
    written_here(path)


def _lines(name: str, row: Floats) -> list[str]:
    """The entry of one image in the text file; whole numbers without a point, others so that they read back equal."""
    faces = [" ".join(str(int(v)) if v.is_integer() else repr(v) for v in face) + " " for face in row.tolist()]
    return [name, str(len(row)), *(faces or ["0 " * (4 + len(ATTRIBUTES))])]


def _kept_list(row: Floats, height: float) -> Floats:
    """The 1-based numbers (K, 1) of the valid faces higher than ``height``."""
    valid = (row[:, 4 + ATTRIBUTES.index("invalid")] == 0) & (row[:, 2] > 0)
    return np.asarray(np.flatnonzero(valid & (row[:, 3] > height)) + 1, dtype=np.float64)[:, None]


def _cell(values: Sequence[Any]) -> NDArray[np.object_]:
    cell = np.empty((len(values), 1), dtype=object)
    for i, value in enumerate(values):
        cell[i, 0] = value
    return cell
