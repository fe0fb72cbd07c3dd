"""Training scenes from ``coco_train_small``: 371 images of COCO, shrunk to at most 448 px.

Scene number ``i`` is a function of (seed, i) alone. A scene is one photo, or four beside each other (a mosaic), each
rescaled, cropped, and flipped half of the time; then the colours change as in :mod:`lipcore.training.widerface_train`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lipcore.datasets.coco import Flags, Floats, load_coco
from lipcore.training.widerface_train import Crop, Photo, Pixels, Rng, colour, view


def load_photos(folder: Path) -> list[Photo]:
    """Every image of the COCO set in ``folder``, decoded; crowds are marked as invalid.

    Raises:
        DataError: the annotations or an image are missing or malformed.
    """
    return [Photo(image.read(), image.boxes, image.crowd) for image in load_coco(folder)]


class Scenes:
    """A map-style dataset of endless length: ``scenes[i]`` is a :class:`Crop` made from (seed, i).

    Args:
        photos: the decoded images.
        side: of a scene, in pixels.
        seed: of everything random.
        mosaics: share of scenes that are four photos.
        smallest: objects whose longer side is under so many pixels are neither sought nor background.
    """

    def __init__(self, photos: list[Photo], side: int, seed: int, mosaics: float, smallest: float) -> None:
        self.photos, self.side, self.seed = photos, side, seed
        self.mosaics, self.smallest = mosaics, smallest

    def __getitem__(self, index: int) -> Crop:
        rng = np.random.default_rng((self.seed, index))
        if rng.random() >= self.mosaics:
            return colour(self.cut(self.side, np.exp(rng.uniform(np.log(0.6), np.log(1.9))), rng), rng)
        half = self.side // 2
        crops = [self.cut(half, np.exp(rng.uniform(np.log(0.6), np.log(1.4))), rng) for _ in range(4)]
        shifts = [np.tile((x, y), 2) for y in (0, half) for x in (0, half)]
        rows = [np.concatenate([c.pixels for c in crops[i : i + 2]], axis=1) for i in (0, 2)]
        faces, ignored = (
            np.concatenate([getattr(c, kind) + shift for c, shift in zip(crops, shifts, strict=True)])
            for kind in ("faces", "ignored")
        )
        return colour(Crop(np.concatenate(rows), faces, ignored), rng)

    def cut(self, side: int, zoom: float, rng: Rng) -> Crop:
        """A square of ``side`` px of one photo, whose longer side would be ``zoom`` times that."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        height, width = photo.pixels.shape[:2]
        scale = zoom * side / max(height, width)
        window = side / scale
        x0, y0 = (float(rng.uniform(min(0.0, n - window), max(0.0, n - window))) for n in (width, height))
        pixels = view(photo.pixels, x0, y0, window, side, rng)
        boxes = (photo.boxes - [x0, y0, x0, y0]) * scale
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
            boxes = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [side, 0, side, 0]
        return self.sort(pixels, boxes, photo.invalid, side)

    def sort(self, pixels: Pixels, boxes: Floats, crowd: Flags, side: int) -> Crop:
        """Objects to find, cut at the border, and places to ignore: crowds, the too small, the mostly hidden."""
        visible = boxes.clip(0, side)
        sides = visible[:, 2:] - visible[:, :2]
        shown = sides.prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).clip(1e-9)
        touched = (sides > 1).all(axis=1)
        sought = touched & ~crowd & (shown > 0.4) & (sides.max(axis=1, initial=0) >= self.smallest)
        return Crop(pixels, visible[sought], visible[touched & ~sought])
