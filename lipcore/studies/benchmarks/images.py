"""The images of a benchmark as attack runs see them: pixels, which faces count, and how a detection fits a face.

What a record keeps of the ground truth is no annotation: how many faces an image has, how high they are, in which
subset they count, and which detection fits which. From that, every table is computed again without the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcore.datasets.crowds import CrowdPhoto, load_crowds
from lipcore.datasets.fddb import FddbImage, load_fddb
from lipcore.datasets.locations import find_dataset
from lipcore.datasets.synthetic import Crowd
from lipcore.datasets.wider import SUBSETS, WiderImage, load_wider, write_wider
from lipcore.errors import DataError, UnknownName
from lipcore.metrics.fddb import region_ious
from lipcore.metrics.wider_boxes import best_face, iou_plus_one
from lipcore.paths import ROOT

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Image = TypeVar("Image", WiderImage, FddbImage, CrowdPhoto)

#: name -> experiment, as its results are called.
DATASETS = {
    "wider": "wider_attack",
    "fddb": "fddb_attack",
    "crowds": "crowds",
    "few crowds": "wider_attack",
    "generated": "wider_attack",
}
#: Faces on generated crowds are few and the image is small, so that a laptop attacks one in some seconds.
CROWD = Crowd(height=320, width=416, faces=(3, 6), face_side=(32, 88))
CROWDS = 3
#: Crowds of a quick run.
FEW = 2
#: The overlap from which a detection fits a face.
IOU = 0.5


class Item(Protocol):
    """An image of a benchmark.

    Attributes:
        one_to_one: whether the benchmark matches detections and faces one to one.
    """

    one_to_one: ClassVar[bool]

    @property
    def name(self) -> str:
        """As records name it."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def heights(self) -> Floats:
        """(N,) heights of its faces in pixels."""

    @property
    def kept(self) -> Mapping[str, Flags]:
        """Subset -> (N,) whether each face counts there."""

    def read(self) -> NDArray[np.uint8]:
        """The pixels (H, W, 3), RGB in 0..255."""

    def overlaps(self, boxes: Floats) -> Floats:
        """IoU (K, N) of ``boxes`` (K, 4), xyxy in pixels, with the faces."""

    def official(self, boxes: Floats) -> Floats:
        """The same as the benchmark's tool rounds it."""


@dataclass(frozen=True, eq=False)
class _Annotated(Generic[Image]):
    """What items have in common, whatever the dataset: a file, its pixels, and upright boxes.

    Attributes:
        image: of the dataset.
    """

    image: Image

    @property
    def path(self) -> Path:
        """Its file."""
        return self.image.path

    @property
    def heights(self) -> Floats:
        """(N,) of the annotated boxes, of ellipses those around them, at the size at which the image is read."""
        return self.image.boxes[:, 3] - self.image.boxes[:, 1]

    def read(self) -> NDArray[np.uint8]:
        """The pixels (H, W, 3)."""
        return self.image.read()


@dataclass(frozen=True, eq=False)
class WiderItem(_Annotated[WiderImage]):
    """An image of WIDER FACE; IoU counts both border pixels."""

    one_to_one: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """``event/name``."""
        return "/".join(self.image.key)

    @property
    def kept(self) -> Mapping[str, Flags]:
        """Of easy, medium and hard.

        Raises:
            DataError: the evaluation lists are not at hand.
        """
        if not self.image.kept:
            raise DataError(f"{self.name} is in no evaluation list; unpack eval_tools.zip beside the images")
        return {subset: self.image.kept[subset] for subset in SUBSETS}

    def overlaps(self, boxes: Floats) -> Floats:
        """IoU (K, N) with the annotated boxes."""
        return iou_plus_one(boxes, self.image.boxes)

    def official(self, boxes: Floats) -> Floats:
        """The same in the tool's integers."""
        return iou_plus_one(boxes, self.image.boxes, whole=self.image.whole)


@dataclass(frozen=True, eq=False)
class FddbItem(_Annotated[FddbImage]):
    """An image of FDDB; IoU is that of a rectangle with an ellipse, both as pixels."""

    one_to_one: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As the folds list it."""
        return self.image.name

    @property
    def kept(self) -> Mapping[str, Flags]:
        """All faces count."""
        return {"all": np.ones(len(self.image), dtype=np.bool_)}

    def overlaps(self, boxes: Floats) -> Floats:
        """IoU (K, N) with the ellipses."""
        found = np.hstack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]))
        return region_ious(self.image.ellipses, found, self.image.size, self.name).T

    official = overlaps


@dataclass(frozen=True, eq=False)
class CrowdItem(_Annotated[CrowdPhoto]):
    """A crowd that may be shown; scored as WIDER FACE is, with its faces to be ignored."""

    one_to_one: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its file's name without the ending."""
        return self.image.name

    @property
    def kept(self) -> Mapping[str, Flags]:
        """All that are not to be ignored."""
        return {"all": self.image.counted}

    def overlaps(self, boxes: Floats) -> Floats:
        """IoU (K, N) with the boxes."""
        return iou_plus_one(boxes, self.image.boxes)

    official = overlaps


@dataclass(frozen=True)
class Fit:
    """How the detections of an image fit its faces.

    Attributes:
        best: (K,) the face that each detection overlaps most (the first of equals), -1 below IoU 0.5.
        official: (K,) the same as the benchmark's tool rounds it, which its average precision takes.
        faces: (N,) the highest logit of the detections that overlap each face by at least 0.5, None without any.
        overlaps: the pairs that overlap at all, each as (detection, face, IoU).
    """

    best: NDArray[np.int64]
    official: NDArray[np.int64]
    faces: list[float | None]
    overlaps: list[tuple[int, int, float]] = field(repr=False)


def fit(item: Item, found: Floats) -> Fit:
    """Matches detections ``found`` (K, 5), xyxy and logit, with the faces of ``item``."""
    n = len(item.heights)
    if n == 0 or len(found) == 0:
        none = np.full(len(found), -1)
        return Fit(none, none, [None] * n, [])
    overlaps = item.overlaps(found[:, :4])
    highest = np.where(overlaps >= IOU, found[:, 4:], -np.inf).max(axis=0)
    faces = [round(v, 3) if np.isfinite(v) else None for v in highest.tolist()]
    pairs = [(int(k), int(j), round(float(overlaps[k, j]), 4)) for k, j in zip(*overlaps.nonzero(), strict=True)]
    return Fit(best_face(overlaps), best_face(item.official(found[:, :4])), faces, pairs)


def pixels(item: Item) -> Tensor:
    """An image of a benchmark, (1, 3, H, W) float RGB in 0..255."""
    return torch.from_numpy(item.read().copy()).permute(2, 0, 1)[None].float()


def truth(item: Item) -> dict[str, Any]:
    """What the record of a clean image keeps of its ground truth: heights, and for each subset one 0 or 1 a face."""
    kept = {subset: "".join("01"[int(flag)] for flag in flags) for subset, flags in item.kept.items()}
    return {"heights": [round(h, 1) for h in item.heights.tolist()], "kept": kept, "file": _sha256(item.path)}


def load_items(dataset: str, given: Path | None = None, *, name: str = "crowds") -> dict[str, Item]:
    """The images of a dataset by name.

    Args:
        dataset: one of :data:`DATASETS`; ``"few crowds"`` are the two with the fewest faces, ``"generated"`` are
            drawn and written in the layout of WIDER FACE first.
        given: its folder; by default where LIPCORE_DATA says.
        name: of the generated folder, which is written anew: no two studies that run at once may share it.

    Raises:
        UnknownName: no such dataset.
        DataError: it is not at hand; the message says how to get it.
    """
    if dataset not in DATASETS:
        raise UnknownName("dataset", dataset, DATASETS)
    items: list[Item] = []
    if dataset == "fddb":
        items += [FddbItem(image) for image in load_fddb(find_dataset("fddb", given))]
    elif dataset == "crowds":
        items += [CrowdItem(photo) for photo in load_crowds(given)]
    elif dataset == "few crowds":
        items += [CrowdItem(photo) for photo in sorted(load_crowds(given), key=len)[:FEW]]
    elif dataset == "generated":
        root = given or ROOT / "data" / "generated" / name
        items += [WiderItem(i) for i in write_wider(root, "val", (CROWD.draw(seed) for seed in range(CROWDS)))]
    else:
        items += [WiderItem(image) for image in load_wider(find_dataset("widerface", given))]
    return {item.name: item for item in items}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
