"""COCO (Lin et al. 2014) in its official layout: one JSON file of annotations, one folder of images.

::

    ROOT/annotations/instances_val2017.json    ROOT/val2017/<file_name>
    ROOT/instances.json                        ROOT/images/<file_name>       (sets of one's own)

A box is ``x, y, width, height`` in the file and ``x1, y1, x2, y2`` here, in pixels. The loader works on any part of the
images and reports what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lipcore.datasets.coco_format import read_instances
from lipcore.datasets.wider import read_pixels
from lipcore.errors import DataError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Where the annotations and their images may lie.
LAYOUTS = (("annotations/instances_val2017.json", "val2017"), ("instances.json", "images"))


@dataclass(frozen=True, eq=False)
class CocoImage:
    """One image with its annotation; the pixels are read when asked for.

    Attributes:
        number: its id.
        path: the file.
        size: (height, width) in pixels.
        boxes: (N, 4) xyxy in pixels.
        crowd: (N,) whether a box stands for a crowd, which nobody need find.
    """

    number: int
    path: Path
    size: tuple[int, int]
    boxes: Floats = field(repr=False)
    crowd: Flags = field(repr=False)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def read(self) -> NDArray[np.uint8]:
        """The pixels (H, W, 3), RGB in 0..255.

        Raises:
            DataError: the file is damaged, or not of the size annotated.
        """
        pixels = read_pixels(self.path)
        if pixels.shape[:2] != self.size:
            raise DataError(f"{self.path} is {pixels.shape[1]} x {pixels.shape[0]} px, annotated as {self.size[::-1]}")
        return pixels


@dataclass(frozen=True)
class Report:
    """What the loader met.

    Attributes:
        images: that are there.
        objects: annotated on them.
        absent: annotated images that are not there.
        degenerate: boxes without extent, which are left out.
    """

    images: int
    objects: int
    absent: int
    degenerate: int

    def __str__(self) -> str:
        there = f"{self.images} images with {self.objects} objects"
        return f"{there}; {self.absent} annotated images absent, {self.degenerate} boxes without extent left out"


class CocoDataset(Sequence[CocoImage]):
    """The images that are there, in the order of their ids.

    Attributes:
        annotations: the JSON file.
        report: what the loader met.
    """

    def __init__(self, annotations: Path, images: Iterable[CocoImage], report: Report) -> None:
        self.annotations, self.report = annotations, report
        self._images = sorted(images, key=lambda image: image.number)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> CocoImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[CocoImage]: ...
    def __getitem__(self, index: int | slice) -> CocoImage | list[CocoImage]:
        return self._images[index]


def load_coco(root: Path) -> CocoDataset:
    """The set in ``root``.

    Raises:
        DataError: there are no annotations, they are malformed, or none of their images is there.
    """
    for listing, folder in LAYOUTS:
        if (root / listing).is_file():
            return _load(root / listing, root / folder)
    raise DataError(f"{root} holds no COCO annotations; expected one of {', '.join(a for a, _ in LAYOUTS)} in it")


def _load(listing: Path, folder: Path) -> CocoDataset:
    known = read_instances(listing)
    found, absent, degenerate = [], 0, sum(known.degenerate.values())
    for number, image in known.images.items():
        name, size = image.get("file_name"), (image.get("height"), image.get("width"))
        if not isinstance(name, str) or not name or not all(isinstance(v, int) and v > 0 for v in size):
            raise DataError(f"{listing}: image {number} needs file_name, height and width; found {name!r} and {size}")
        path = folder / name
        if not path.is_file():
            absent += 1
            continue
        boxes = known.boxes[number].copy()
        boxes[:, 2:] += boxes[:, :2]
        found.append(CocoImage(number, path, (int(image["height"]), int(image["width"])), boxes, known.crowd[number]))
    if not found:
        raise DataError(f"none of the {len(known.images)} images that {listing} lists is in {folder}")
    return CocoDataset(listing, found, Report(len(found), sum(len(i.boxes) for i in found), absent, degenerate))


def write_coco(root: Path, images: Iterable[tuple[str, NDArray[np.uint8], Floats]]) -> Path:
    """Writes generated images in COCO's official layout, all boxes of one category.

    Args:
        root: the folder; made if missing.
        images: file name, pixels (H, W, 3), boxes (N, 4) xyxy in pixels.

    Returns:
        ``root``.
    """
    listing, folder = (root / part for part in LAYOUTS[0])
    for place in (listing.parent, folder):
        place.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for number, (name, pixels, boxes) in enumerate(images, start=1):
        Image.fromarray(pixels).save(folder / name)
        height, width = pixels.shape[:2]
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        for x1, y1, x2, y2 in boxes.tolist():
            row = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            content["annotations"].append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    listing.write_text(json.dumps(content), encoding="utf8")
    return root
