"""WIDER FACE (Yang et al. 2016) in its official layout: a loader, the evaluation lists, and a writer of the same.

::

    ROOT/WIDER_<split>/images/<event>/<name>.jpg
    ROOT/wider_face_split/wider_face_<split>_bbx_gt.txt      (or wider_face_<split>.mat)
    ROOT/eval_tools/ground_truth/wider_{face,easy,medium,hard}_<split>.mat

The loader works on any part of the images and reports what is missing. The writer makes small sets with exact ground
truth ("crowds"), evaluation lists included, so that the real loader and the real evaluator run where the real images
may not go.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lipcore.datasets.wider_format import (
    ATTRIBUTES,
    SUBSETS,
    Flags,
    Floats,
    ImageKey,
    check_name,
    image_key,
    read_annotations,
    write_annotations,
    xyxy,
)
from lipcore.datasets.wider_lists import WiderGroundTruth, load_ground_truth
from lipcore.errors import DataError

__all__ = [
    "ATTRIBUTES",
    "KEPT_ABOVE",
    "SPLITS",
    "SUBSETS",
    "ImageKey",
    "WiderDataset",
    "WiderGroundTruth",
    "WiderImage",
    "WiderReport",
    "load_ground_truth",
    "load_wider",
    "read_pixels",
    "write_wider",
]

SPLITS = ("train", "val")
#: The rule by which :func:`write_wider` keeps a face for a subset: valid, and higher than so many pixels. Of the 39,708
#: official faces of val it decides 99.8 / 99.4 / 98.0 % as the official lists do, and keeps none that they leave out.
KEPT_ABOVE = {"easy": 50, "medium": 30, "hard": 10}
#: Marks a folder as written by :func:`write_wider`, which replaces no other.
MARKER = "GENERATED.txt"


@dataclass(frozen=True, eq=False)
class WiderImage:
    """One image with its annotation; the pixels are read when asked for.

    Attributes:
        event: the folder, e.g. ``"0--Parade"``.
        name: the file's name without its ending.
        path: the file, which may be absent where the loader was told to keep such images.
        boxes: (N, 4) xyxy in pixels, x2 = x + w as in the official evaluation; all annotated boxes, also unusable ones.
        valid: (N,) whether the box is not marked invalid and has a width and a height above zero.
        attributes: each of ``ATTRIBUTES`` (N,) as annotated: blur 0 clear, 1 normal, 2 heavy; expression 0 typical,
            1 exaggerate; illumination 0 normal, 1 extreme; invalid 0 no, 1 yes; occlusion 0 none, 1 partial, 2 heavy;
            pose 0 typical, 1 atypical.
        kept: for each of ``SUBSETS`` (N,) whether the face counts there; empty where the lists are not at hand.
        whole: whether the lists hold the boxes as integers; see :class:`WiderGroundTruth`.
    """

    event: str
    name: str
    path: Path
    boxes: Floats = field(repr=False)
    valid: Flags = field(repr=False)
    attributes: Mapping[str, NDArray[np.int64]] = field(repr=False)
    kept: Mapping[str, Flags] = field(default_factory=dict, repr=False)
    whole: bool = False

    @property
    def key(self) -> ImageKey:
        """(event, name): how predictions and evaluation lists name the image."""
        return (self.event, self.name)

    def __len__(self) -> int:
        """The number of annotated boxes."""
        return len(self.boxes)

    def read(self) -> NDArray[np.uint8]:
        """The pixels (H, W, 3), RGB in 0..255, as stored: the annotation knows no EXIF rotation.

        Raises:
            DataError: the file is absent or damaged.
        """
        return read_pixels(self.path)


@dataclass(frozen=True)
class WiderReport:
    """What a load found.

    Attributes:
        listed: images the annotation lists.
        loaded: images of the dataset at hand.
        absent: listed images whose file is not there.
        unlisted: image files that the annotation does not list, relative to the images folder.
        faces: annotated boxes of the loaded images, of these ``invalid`` marked so, ``zero_size`` without area,
            ``usable`` neither.
        without_faces: loaded images with no annotated box.
    """

    listed: int
    loaded: int
    absent: tuple[ImageKey, ...]
    unlisted: tuple[str, ...]
    faces: int
    invalid: int
    zero_size: int
    usable: int
    without_faces: int

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.loaded} of {self.listed} listed images ({len(self.absent)} files absent, "
            f"{len(self.unlisted)} files not listed); {self.faces} boxes, {self.usable} usable "
            f"({self.invalid} marked invalid, {self.zero_size} of no size); {self.without_faces} images without faces"
        )


@dataclass(frozen=True, eq=False)
class WiderDataset(Sequence[WiderImage]):
    """Images in the annotation's order, and the report of the load."""

    root: Path
    split: str
    images: tuple[WiderImage, ...] = field(repr=False)
    report: WiderReport

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> WiderImage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[WiderImage, ...]: ...
    def __getitem__(self, index: int | slice) -> WiderImage | tuple[WiderImage, ...]:
        return self.images[index]

    def fingerprint(self) -> str:
        """Hex SHA-256 of names, boxes and image files: the same on any machine that holds the same images."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.event}/{image.name}".encode())
            digest.update(np.ascontiguousarray(image.boxes, dtype="<f8").tobytes())
            digest.update(image.path.read_bytes() if image.path.is_file() else b"absent")
        return digest.hexdigest()


def load_wider(
    root: str | Path, split: str = "val", *, images: Iterable[ImageKey] | None = None, keep_absent: bool = False
) -> WiderDataset:
    """Loads a split from its official layout; see the module's docstring.

    Args:
        root: the folder that holds ``WIDER_<split>`` and ``wider_face_split``.
        split: ``"train"`` or ``"val"`` (the boxes of the test split are not public).
        images: only these, as (event, name without ending); by default all.
        keep_absent: keep listed images whose file is not there; by default they are left out and reported.

    Returns:
        The images in the annotation's order. Each knows which of its faces count as easy / medium / hard where the
        evaluation lists are at hand.

    Raises:
        UnknownName: no such split.
        DataError: the annotation is missing or malformed, an image asked for is not listed, no image file is there, or
            the evaluation lists belong to other annotations.
    """
    root = Path(root)
    folder = root / f"WIDER_{check_name('split', split, SPLITS)}" / "images"
    rows = read_annotations(root, split)
    listed = len(rows)
    on_disk = {p.relative_to(folder).as_posix() for p in folder.glob("*/*") if p.is_file()}
    unlisted = tuple(sorted(on_disk - rows.keys()))
    if images is not None:
        wanted = set(images)
        names = {image_key(name): name for name in rows}
        if unknown := sorted(wanted - names.keys()):
            raise DataError(f"{len(unknown)} images are not listed in the {split} split, the first {unknown[0]}")
        rows = {name: row for name, row in rows.items() if image_key(name) in wanted}
    absent = tuple(image_key(name) for name in rows if name not in on_disk)
    if not keep_absent:
        rows = {name: row for name, row in rows.items() if name in on_disk}
        if not rows and listed:
            raise DataError(f"none of the {listed} listed images is under {folder}; unpack WIDER_{split}.zip there")
    truth = _lists(root, split, rows)
    loaded = tuple(_record(folder, name, row, truth) for name, row in rows.items())
    return WiderDataset(root, split, loaded, _report(listed, loaded, absent, unlisted))


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of an image file, RGB in 0..255, without EXIF rotation.

    Raises:
        DataError: the file is absent or damaged.
    """
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB")).copy()
    except FileNotFoundError:
        raise DataError(f"no image {path}; the annotation lists it") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is damaged or cut off: {error}") from error


class Sample(Protocol):
    """What :func:`write_wider` needs of an image: ``lipcore.datasets.synthetic.Scene`` is one."""

    @property
    def name(self) -> str:
        """The file's name without its ending."""

    @property
    def image(self) -> Any:
        """(1, 3, H, W), (3, H, W) or (H, W, 3), RGB in 0..255."""

    @property
    def boxes(self) -> Any:
        """(N, 4) ground truth, xyxy in pixels."""


def write_wider(
    root: str | Path, split: str, samples: Iterable[Sample], *, event: str = "0--Crowd", quality: int = 95
) -> WiderDataset:
    """Writes images and their exact ground truth in the official layout, evaluation lists included.

    Boxes are written as they are, fractions too. A sample may carry an ``event`` (else ``event`` is its folder) and
    ``attributes`` (a mapping like :attr:`WiderImage.attributes`; else all 0). A face is kept for a subset by the rule
    ``KEPT_ABOVE``. Images are JPEG without chroma subsampling. A set written here before is replaced; any other is
    refused.

    Args:
        root: made where it does not exist.
        split: ``"train"`` or ``"val"``.
        samples: images with their boxes; taken one by one.
        event: the folder of samples that name none.
        quality: of the JPEG, 1..100.

    Returns:
        The set as :func:`load_wider` reads it back.

    Raises:
        UnknownName: no such split.
        DataError: the folder holds a set that was not written here, a name is unusable or taken, or pixels or boxes
            have a wrong shape or are not finite.
    """
    root = Path(root)
    target = root / f"WIDER_{check_name('split', split, SPLITS)}"
    taken = [p for p in (target, root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt") if p.exists()]
    if taken and not (target / MARKER).is_file():
        raise DataError(f"{taken[0]} was not written here and is left as it is; give an empty folder")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / MARKER).write_text("Written by lipcore.datasets.wider.write_wider, which may replace this folder.\n")
    (target / "images").mkdir()
    rows: dict[str, Floats] = {}
    for sample in samples:
        folder = _safe(str(getattr(sample, "event", "") or event))
        file = f"{folder}/{_safe(sample.name)}.jpg"
        if file in rows:
            raise DataError(f"two samples are called {file}; names are unique within an event")
        rows[file] = _sample_rows(file, sample)
        (target / "images" / folder).mkdir(exist_ok=True)
        Image.fromarray(_sample_pixels(file, sample)).save(target / "images" / file, quality=quality, subsampling=0)
    write_annotations(root, split, rows, KEPT_ABOVE)
    return load_wider(root, split)


def _lists(root: Path, split: str, rows: Mapping[str, Floats]) -> WiderGroundTruth | None:
    """The evaluation lists, of the same boxes as ``rows``; None where they are not at hand."""
    if not (root / "eval_tools" / "ground_truth" / f"wider_hard_{split}.mat").is_file():
        return None
    truth = load_ground_truth(root, split)
    for name, row in rows.items():
        key = image_key(name)
        if key in truth.boxes and not np.array_equal(truth.boxes[key], xyxy(row)):
            raise DataError(f"the evaluation lists and the annotation disagree about the boxes of {name}")
    return truth


def _record(folder: Path, name: str, row: Floats, truth: WiderGroundTruth | None) -> WiderImage:
    attributes = {key: row[:, 4 + i].astype(np.int64) for i, key in enumerate(ATTRIBUTES)}
    valid = (attributes["invalid"] == 0) & (row[:, 2:4] > 0).all(axis=1)
    key = image_key(name)
    if truth is None or key not in truth.boxes:
        return WiderImage(*key, folder / name, xyxy(row), valid, attributes)
    kept = {subset: truth.kept[subset][key] for subset in SUBSETS}
    return WiderImage(*key, folder / name, xyxy(row), valid, attributes, kept, truth.whole)


def _report(
    listed: int, loaded: Sequence[WiderImage], absent: tuple[ImageKey, ...], unlisted: tuple[str, ...]
) -> WiderReport:
    sides = [image.boxes[:, 2:] - image.boxes[:, :2] for image in loaded]
    return WiderReport(
        listed=listed,
        loaded=len(loaded),
        absent=absent,
        unlisted=unlisted,
        faces=sum(len(image) for image in loaded),
        invalid=sum(int((image.attributes["invalid"] != 0).sum()) for image in loaded),
        zero_size=sum(int((side <= 0).any(axis=1).sum()) for side in sides),
        usable=sum(int(image.valid.sum()) for image in loaded),
        without_faces=sum(len(image) == 0 for image in loaded),
    )


def _safe(name: str) -> str:
    if not name or name in (".", "..") or any(c in name for c in '/\\:*?"<>|\n\r\t'):
        raise DataError(f"{name!r} cannot be a file's name; leave out / \\ : * ? and the like")
    return name


def _sample_pixels(file: str, sample: Sample) -> NDArray[np.uint8]:
    pixels = np.asarray(sample.image)
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim == 3 and pixels.shape[2] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not np.isfinite(pixels).all():
        raise DataError(
            f"{file}: the image has shape {np.shape(sample.image)}; valid is (1, 3, H, W) or (H, W, 3), finite"
        )
    return np.ascontiguousarray(pixels.astype(np.float64).round().clip(0, 255).astype(np.uint8))


def _sample_rows(file: str, sample: Sample) -> Floats:
    boxes = np.asarray(sample.boxes, dtype=np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise DataError(f"{file}: boxes have shape {boxes.shape}; valid is (N, 4), finite")
    given: Mapping[str, Any] = getattr(sample, "attributes", None) or {}
    for key in given:
        check_name("attribute", key, ATTRIBUTES)
    columns = [np.asarray(given.get(key, np.zeros(len(boxes)))).reshape(len(boxes), 1) for key in ATTRIBUTES]
    return np.hstack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2], *columns))
