"""Large images in tiles: what does not fit memory as a whole is looked at part by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcore.boxes import nms
from lipcore.detectors.base import Detections, Detector

#: Pixels that a detector looks at in one pass without gradients; CenterFace takes about 3 GB for them.
MOST_PIXELS = 16_000_000
MARGIN = 512
#: Windows begin at multiples of this, as coarse as the grids of responses are, so that a tile has those of the whole.
GRID = 64


@dataclass(frozen=True)
class Tile:
    """A part of an image with its surroundings, in pixels.

    Attributes:
        core: x1, y1, x2, y2 in pixels of the window; the cores of all tiles fill the image.
        rows, cols: of the window in the image.
    """

    core: tuple[int, int, int, int]
    rows: slice
    cols: slice

    @property
    def window(self) -> tuple[slice, slice, slice, slice]:
        """To index an image (B, 3, H, W)."""
        return (slice(None), slice(None), self.rows, self.cols)

    def holds(self, box: Tensor) -> bool:
        """Whether the middle of ``box`` ((4,), pixels of the window) is in the core; the image's edges hold all."""
        x, y = ((box[:2] + box[2:]) / 2).tolist()
        x1, y1, x2, y2 = self.core
        return bool(x1 <= x < x2 and y1 <= y < y2)


def tiles(height: int, width: int, most: int, margin: int) -> list[Tile]:
    """The tiles of an image: one where it has at most ``most`` pixels, else as few as have windows of no more.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        most: pixels in a window.
        margin: how far a window reaches beyond its core, in pixels, where the image does.
    """
    if height * width <= most:
        return [_tile(0, 0, height, width, 0, height, width)]
    side = (math.isqrt(most) - 2 * margin) // GRID * GRID
    if side < GRID:
        raise ValueError(f"windows of {most} pixels have no room for margins of {margin}")
    return [
        _tile(y, x, side, side, margin, height, width) for y in range(0, height, side) for x in range(0, width, side)
    ]


def _tile(y: int, x: int, rows: int, cols: int, margin: int, height: int, width: int) -> Tile:
    margin = -(-margin // GRID) * GRID
    top, left = max(0, y - margin), max(0, x - margin)
    bottom, right = min(height, y + rows + margin), min(width, x + cols + margin)
    # A face whose middle is outside the image belongs to the tile at that edge.
    far = 1 << 30
    core = (
        x - left if x else -far,
        y - top if y else -far,
        x + cols - left if x + cols < width else far,
        y + rows - top if y + rows < height else far,
    )
    return Tile(core, slice(top, bottom), slice(left, right))


@torch.no_grad()
def detect(detector: Detector, image: Tensor, threshold: float = 0.5, most: int = MOST_PIXELS) -> Detections:
    """:meth:`Detector.detect` of one image of any size, in tiles where it has more than ``most`` pixels.

    Args:
        detector: any detector.
        image: (1, 3, H, W) float RGB in 0..255.
        threshold: probability in [0, 1].
        most: pixels looked at in one pass.

    Returns:
        The detections, best first; where there are several tiles their ``responses`` are -1, as no map holds them all.
    """
    height, width = image.shape[2:]
    parts = tiles(height, width, most, MARGIN)
    if len(parts) == 1:
        return detector.detect(image, threshold)[0]
    return joined(parts, [detector.detect(image[tile.window], threshold)[0] for tile in parts], detector.nms_iou)


def joined(parts: Sequence[Tile], found: Sequence[Detections], iou: float) -> Detections:
    """What was found in each tile's window as detections of the whole image, each by the tile whose core holds it.

    A face on a seam may be found from both sides, its middle a little to the left and a little to the right; the weaker
    of two that overlap by more than ``iou`` is dropped.
    """
    boxes, scores = [], []
    for tile, each in zip(parts, found, strict=True):
        own = [i for i, box in enumerate(each.boxes) if tile.holds(box)]
        boxes.append(each.boxes[own] + each.boxes.new_tensor([tile.cols.start, tile.rows.start] * 2))
        scores.append(each.scores[own])
    every, score = torch.cat(boxes), torch.cat(scores)
    kept = nms(every, score, iou)
    return Detections(every[kept], score[kept], torch.full_like(kept, -1))
