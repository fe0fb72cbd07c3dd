"""The official evaluation lists of WIDER FACE: which faces count as easy, medium and hard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lipcore.datasets.mat_files import try_mat_files
from lipcore.datasets.wider_format import (
    SUBSETS,
    Flags,
    Floats,
    ImageKey,
    boxes_of,
    check_name,
    kept_flags,
    read_cells,
)
from lipcore.errors import DataError


@dataclass(frozen=True, eq=False)
class WiderGroundTruth:
    """The official evaluation lists: every annotated box, and which of them count in each subset.

    Attributes:
        boxes: image -> (N, 4) xyxy in pixels, x2 = x + w.
        kept: subset -> image -> (N,) flags; a face that is not kept is ignored, not a mistake.
        listed: the images of the complete lists; more than those of ``boxes`` for a part of them.
        whole: whether the lists hold the boxes as integers, as the official ones do; the tool then rounds.
    """

    boxes: Mapping[ImageKey, Floats] = field(repr=False)
    kept: Mapping[str, Mapping[ImageKey, Flags]] = field(repr=False)
    listed: frozenset[ImageKey] = field(repr=False)
    whole: bool = False

    @property
    def partial(self) -> bool:
        """Whether these are only some of the listed images."""
        return len(self.boxes) < len(self.listed)

    def n_faces(self, subset: str) -> int:
        """The faces that count in ``subset``.

        Raises:
            UnknownName: no such subset.
        """
        return sum(int(flags.sum()) for flags in self.kept[check_name("subset", subset, SUBSETS)].values())

    def only(self, images: Iterable[ImageKey]) -> WiderGroundTruth:
        """The ground truth of these images alone, in the lists' order.

        Raises:
            DataError: an image is not in the lists.
        """
        wanted = set(images)
        if unknown := sorted(wanted - self.boxes.keys()):
            raise DataError(f"{len(unknown)} images are not in the evaluation lists, the first {'/'.join(unknown[0])}")
        keys = [key for key in self.boxes if key in wanted]
        kept = {subset: {key: flags[key] for key in keys} for subset, flags in self.kept.items()}
        return WiderGroundTruth({key: self.boxes[key] for key in keys}, kept, self.listed, self.whole)


def load_ground_truth(folder: str | Path, split: str = "val") -> WiderGroundTruth:
    """Reads the four evaluation lists ``wider_{face,easy,medium,hard}_<split>.mat``.

    Args:
        folder: the folder with the files, or the dataset's root (then ``eval_tools/ground_truth`` in it).
        split: the ending of the files' names; the official ones are of ``"val"``.

    Raises:
        DataError: a file is missing or malformed, or the lists disagree about the images.
    """
    folder = Path(folder)
    if (folder / "eval_tools" / "ground_truth").is_dir():
        folder = folder / "eval_tools" / "ground_truth"
    names = {key: folder / f"wider_{key}_{split}.mat" for key in ("face", *SUBSETS)}
    if missing := [path.name for path in names.values() if not path.is_file()]:
        raise DataError(f"no {', '.join(missing)} in {folder}; they come in the archive eval_tools.zip of WIDER FACE")
    try_mat_files(names.values())
    cells = read_cells(names["face"], "face_bbx_list")
    boxes = {key: boxes_of(names["face"], key, value) for key, value in cells.items()}
    kept: dict[str, dict[ImageKey, Flags]] = {}
    for subset in SUBSETS:
        lists = read_cells(names[subset], "gt_list")
        if list(lists) != list(boxes):
            raise DataError(f"{names[subset].name} lists other images than wider_face_{split}.mat")
        kept[subset] = {key: kept_flags(names[subset], key, value, len(boxes[key])) for key, value in lists.items()}
    whole = all(np.issubdtype(value.dtype, np.integer) for value in cells.values() if value.size)
    return WiderGroundTruth(boxes, kept, frozenset(boxes), whole)
