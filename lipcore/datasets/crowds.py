"""Photographs of crowds that may be shown: 24 of COCO val2017 under CC BY 2.0, which the project carries.

The faces are those that two detectors, CenterFace and RetinaFace, both find at one of two scales (probability 0.3),
looked through by a person; what one of them finds alone is neither asked for nor held against anybody. So the ground
truth leans towards these two: it serves to count what an attack hides, not to compare detectors on clean images.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lipcore.datasets.wider import read_pixels
from lipcore.errors import DataError, UnknownName
from lipcore.paths import DATA

#: Where the photographs are.
FOLDER = DATA / "crowds"
#: Photographs that are read larger than they are stored: the faces of the stadium are 6 to 10 px high there.
SCALES = {"000000203931": 2}


@dataclass(frozen=True, eq=False)
class CrowdPhoto:
    """One photograph with its faces; the pixels are read when asked for.

    Attributes:
        name: the file's name without its ending.
        path: the file.
        boxes: (N, 4) xyxy in pixels of the image as :meth:`read` gives it.
        counted: (N,) whether a face counts; the others are ignored, neither asked for nor false positives.
        size: (height, width) of the image as :meth:`read` gives it.
        scale: how much larger than the file that is.
        source: the address of the photograph.
        licence: its licence's short name.
        licence_url: the licence's text.
    """

    name: str
    path: Path
    boxes: NDArray[np.float64] = field(repr=False)
    counted: NDArray[np.bool_] = field(repr=False)
    size: tuple[int, int]
    scale: int
    source: str
    licence: str
    licence_url: str

    def __len__(self) -> int:
        """The number of faces that count."""
        return int(self.counted.sum())

    @property
    def attribution(self) -> str:
        """What must stand beside the photograph wherever it is shown."""
        photo = self.source.rsplit("/", 1)[-1].split("_")[0]
        return f"Photograph {photo} on Flickr (COCO {int(self.name)}), {self.licence}"

    @property
    def pixels(self) -> Tensor:
        """(1, 3, H, W) float RGB, whole numbers in 0..255, read now; errors as of :meth:`read`."""
        return torch.from_numpy(self.read()).permute(2, 0, 1)[None].float()

    def read(self) -> NDArray[np.uint8]:
        """The pixels (H, W, 3), RGB in 0..255.

        Raises:
            DataError: the file is absent, damaged, or of another size than its annotation says.
        """
        pixels = read_pixels(self.path)
        height, width = self.size
        if pixels.shape[0] * self.scale != height or pixels.shape[1] * self.scale != width:
            raise DataError(f"{self.path} is {pixels.shape[1]} x {pixels.shape[0]} px, not as its annotation says")
        if self.scale == 1:
            return pixels
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def load_crowds(folder: str | Path | None = None) -> list[CrowdPhoto]:
    """The photographs in the order of their names.

    Args:
        folder: holds ``images/``, ``annotations.jsonl`` and ``sources.csv``; the project's own by default.

    Raises:
        DataError: a file is missing or damaged, or a photograph has no source that it could be shown under.
    """
    folder = FOLDER if folder is None else Path(folder)
    annotations, sources = folder / "annotations.jsonl", folder / "sources.csv"
    for path in (annotations, sources):
        if not path.is_file():
            raise DataError(f"no file {path}; a folder of crowds holds images/, annotations.jsonl and sources.csv")
    with sources.open(newline="", encoding="utf8") as file:
        known = {row["file"]: row for row in csv.DictReader(file)}
    found = []
    for number, line in enumerate(annotations.read_text(encoding="utf8").splitlines(), start=1):
        try:
            found.append(_photo(folder, json.loads(line), known))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"line {number} of {annotations} cannot be read: {error!r}") from error
    return sorted(found, key=lambda photo: photo.name)


def load_crowd(name: str, folder: str | Path | None = None) -> CrowdPhoto:
    """One photograph by its name, such as ``"000000203931"``.

    Raises:
        UnknownName: there is none of that name; the message lists those there are.
        DataError: as :func:`load_crowds`.
    """
    photos = {photo.name: photo for photo in load_crowds(folder)}
    if name not in photos:
        raise UnknownName("crowd", name, photos)
    return photos[name]


def _photo(folder: Path, entry: dict[str, Any], sources: dict[str, dict[str, str]]) -> CrowdPhoto:
    path = folder / "images" / entry["file"]
    if not path.is_file():
        raise DataError(f"no file {path}, which annotations.jsonl names")
    if path.name not in sources:
        raise DataError(f"{folder / 'sources.csv'} has no line for {path.name}: without a source it may not be shown")
    source = sources[path.name]
    scale = SCALES.get(path.stem, 1)
    boxes = np.array(entry["boxes_xywh"], dtype=np.float64).reshape(-1, 4)
    ignored = np.array(entry["ignore"], dtype=np.bool_)
    if len(ignored) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes and {len(ignored)} marks")
    corners = np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:])) * scale
    size = (int(entry["height"]) * scale, int(entry["width"]) * scale)
    return CrowdPhoto(
        path.stem, path, corners, ~ignored, size, scale, source["source"], source["licence"], source["licence_url"]
    )
