"""FDDB (Jain & Learned-Miller 2010) in its official layout: ten folds of images whose faces are ellipses.

::

    ROOT/originalPics/<year>/<month>/<day>/big/img_<n>.jpg      (or the years directly in ROOT)
    ROOT/FDDB-folds/FDDB-fold-<01..10>.txt                      one image per line, without the ending
    ROOT/FDDB-folds/FDDB-fold-<01..10>-ellipseList.txt          image, number of faces, one line per face

A face is ``major_radius minor_radius angle centre_x centre_y 1``: pixels, and radians from the x axis to the major
axis, y pointing down. The loader works on any part of the images and reports what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lipcore.datasets.text_files import read_text
from lipcore.datasets.wider import read_pixels
from lipcore.errors import DataError, short

Floats = NDArray[np.float64]

FOLDS = tuple(range(1, 11))


@dataclass(frozen=True, eq=False)
class FddbImage:
    """One image with its annotation; the pixels are read when asked for.

    Attributes:
        fold: 1..10.
        name: as the folds list it, e.g. ``"2002/08/11/big/img_591"``.
        path: the file.
        size: (height, width) in pixels; (0, 0) where the file is absent.
        ellipses: (N, 5) major radius, minor radius, angle, centre x, centre y; pixels and radians.
    """

    fold: int
    name: str
    path: Path
    size: tuple[int, int]
    ellipses: Floats = field(repr=False)

    def __len__(self) -> int:
        """The number of faces."""
        return len(self.ellipses)

    @property
    def boxes(self) -> Floats:
        """(N, 4) xyxy in pixels: the upright rectangles that just hold the ellipses."""
        return ellipse_boxes(self.ellipses)

    def read(self) -> NDArray[np.uint8]:
        """The pixels (H, W, 3), RGB in 0..255, as stored.

        Raises:
            DataError: the file is absent or damaged.
        """
        return read_pixels(self.path)


@dataclass(frozen=True)
class FddbReport:
    """What a load found.

    Attributes:
        folds: the folds that were read.
        listed: images they list.
        loaded: images of the dataset at hand.
        absent: listed images whose file is not there.
        unannotated: listed images that the ellipse list leaves out: they cannot be evaluated and are left out.
        faces: ellipses of the loaded images.
        without_faces: loaded images with none.
    """

    folds: tuple[int, ...]
    listed: int
    loaded: int
    absent: tuple[str, ...]
    unannotated: tuple[str, ...]
    faces: int
    without_faces: int

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.loaded} of {self.listed} listed images in {len(self.folds)} of {len(FOLDS)} folds "
            f"({len(self.absent)} files absent, {len(self.unannotated)} without annotation); {self.faces} faces, "
            f"{self.without_faces} images without faces"
        )


@dataclass(frozen=True, eq=False)
class FddbDataset(Sequence[FddbImage]):
    """Images in the folds' order, and the report of the load."""

    root: Path
    images: tuple[FddbImage, ...] = field(repr=False)
    report: FddbReport

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> FddbImage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FddbImage, ...]: ...
    def __getitem__(self, index: int | slice) -> FddbImage | tuple[FddbImage, ...]:
        return self.images[index]

    def fingerprint(self) -> str:
        """Hex SHA-256 of names, ellipses and image files: the same on any machine that holds the same images."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(image.name.encode())
            digest.update(np.ascontiguousarray(image.ellipses, dtype="<f8").tobytes())
            digest.update(image.path.read_bytes() if image.path.is_file() else b"absent")
        return digest.hexdigest()


def load_fddb(
    root: str | Path,
    *,
    folds: Iterable[int] = FOLDS,
    images: Iterable[str] | None = None,
    keep_absent: bool = False,
) -> FddbDataset:
    """Loads FDDB from its official layout; see the module's docstring.

    Args:
        root: the folder that holds ``FDDB-folds``.
        folds: which of 1..10; a fold whose files are not there is left out and missing in the report.
        images: only these names; by default all.
        keep_absent: keep listed images whose file is not there; by default they are left out and reported.

    Raises:
        DataError: no such fold, no annotation, a malformed file, an image in two folds, an image asked for that is not
            listed, or no image file at all.
    """
    root, folds = Path(root), tuple(folds)
    if wrong := [fold for fold in folds if fold not in FOLDS]:
        raise DataError(f"no fold {wrong[0]}; valid are 1 to {len(FOLDS)}")
    pictures = root / "originalPics" if (root / "originalPics").is_dir() else root
    listed: dict[str, int] = {}
    ellipses: dict[str, Floats] = {}
    found = []
    for fold in folds:
        names, faces = (root / "FDDB-folds" / f"FDDB-fold-{fold:02d}{end}.txt" for end in ("", "-ellipseList"))
        if not faces.is_file():
            continue
        found.append(fold)
        annotated = read_ellipses(faces)
        order = read_text(names).split() if names.is_file() else list(annotated)
        if twice := [name for name in order if name in listed]:
            raise DataError(f"{names}: {twice[0]} is listed twice")
        listed |= dict.fromkeys(order, fold)
        ellipses |= annotated
    if not found:
        raise DataError(f"no FDDB-fold-01-ellipseList.txt and the like in {root / 'FDDB-folds'}; unpack FDDB-folds.tgz")
    if images is not None:
        wanted = set(images)
        if unknown := sorted(wanted - listed.keys()):
            raise DataError(f"{len(unknown)} images are not listed in the folds, the first {unknown[0]}")
        chosen = [name for name in listed if name in wanted]
    else:
        chosen = list(listed)
    unannotated = tuple(name for name in chosen if name not in ellipses)
    paths = {name: pictures / f"{name}.jpg" for name in chosen if name in ellipses}
    absent = tuple(name for name, path in paths.items() if not path.is_file())
    if len(absent) == len(paths) and not keep_absent:
        raise DataError(f"none of the {len(paths)} listed images is under {pictures}; unpack originalPics.tar.gz there")
    loaded = tuple(
        FddbImage(listed[name], name, path, _size(path), ellipses[name])
        for name, path in paths.items()
        if keep_absent or path.is_file()
    )
    report = FddbReport(
        folds=tuple(found),
        listed=len(listed),
        loaded=len(loaded),
        absent=absent,
        unannotated=unannotated,
        faces=sum(map(len, loaded)),
        without_faces=sum(len(image) == 0 for image in loaded),
    )
    return FddbDataset(root, loaded, report)


def ellipse_boxes(ellipses: Floats) -> Floats:
    """The upright rectangles (N, 4), xyxy, that just hold ``ellipses`` (N, 5)."""
    major, minor, angle, x, y = ellipses.T
    half_width = np.hypot(major * np.cos(angle), minor * np.sin(angle))
    half_height = np.hypot(major * np.sin(angle), minor * np.cos(angle))
    return np.stack((x - half_width, y - half_height, x + half_width, y + half_height), axis=1)


def read_ellipses(path: Path) -> dict[str, Floats]:
    """An ellipse list as name -> (N, 5), in the file's order.

    Raises:
        DataError: with the file and the image whose entry is malformed, or has a radius that is not above 0.
    """
    entries = {name: table[:, :5] for name, table in read_entries(path, (5, 6)).items()}
    for name, table in entries.items():
        if (table[:, :2] <= 0).any():
            raise DataError(f"{path}: {name!r} has an ellipse with a radius that is not above 0")
    return entries


def read_entries(path: Path, columns: Sequence[int]) -> dict[str, Floats]:
    """FDDB's text format: a name, a number of faces, one line of numbers per face; name -> (N, columns).

    Every face of a file has as many columns, one of ``columns``; an image without faces gets the first of them.

    Raises:
        DataError: a malformed entry, or numbers that are not finite.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    entries: dict[str, Floats] = {}
    at = 0
    while at < len(lines):
        name = lines[at]
        try:
            count = int(lines[at + 1])
            rows = [[float(v) for v in line.split()] for line in lines[at + 2 : at + 2 + count]]
            table = np.array(rows, dtype=np.float64).reshape(len(rows), -1) if rows else np.zeros((0, columns[0]))
        except (IndexError, ValueError) as error:
            said = f"{path}: the entry of {short(repr(name), 80)} is malformed: {short(error)}"
            raise DataError(f"{said}; valid is a name, a count, then a line of numbers for each face") from None
        if name in entries or count < 0 or len(table) < count or table.shape[1] not in columns:
            raise DataError(
                f"{path}: {short(repr(name), 80)} is there twice, or announces {count} faces and holds "
                f"{table.shape[0]} lines of {table.shape[1]} numbers (valid: {' or '.join(map(str, columns))})"
            )
        if not np.isfinite(table).all():
            raise DataError(f"{path}: {short(repr(name), 80)} holds NaN or infinity; every number must be finite")
        entries[name] = table
        at += 2 + count
    return entries


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except FileNotFoundError:
        return 0, 0
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is damaged or cut off: {error}") from error
