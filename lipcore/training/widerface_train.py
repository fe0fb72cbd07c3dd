"""Training crops from ``widerface_train_small``: 830 images of WIDER FACE's train split, shrunk to at most 480 px.

Crop number ``i`` is a function of (seed, i) alone, so a run resumes where it stopped and workers need no state.
Augmentations of HR: scale, random crop, flip, colour. Further ones, because the study draws small grey faces on flat
grounds and photographs: grey-scale, blur by down- and upsampling, and *pasted patches*: squares cut around training
faces, and around no face, shrunk and drawn with hard edges. No image of LFW is used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lipcore.errors import DataError

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Rng = np.random.Generator

FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.HAMMING)


@dataclass(frozen=True)
class Photo:
    """One decoded image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy in pixels.
        invalid: (N,) bool: WIDER's own mark for a face that nobody need find.
    """

    pixels: Pixels
    boxes: Floats
    invalid: NDArray[np.bool_]


@dataclass(frozen=True)
class Crop:
    """One training image.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        faces: (N, 4) xyxy: faces to be found.
        ignored: (M, 4) xyxy: places that are neither face nor background.
    """

    pixels: Pixels
    faces: Floats
    ignored: Floats


def load_photos(folder: Path) -> list[Photo]:
    """Every image of ``folder/annotations.jsonl``, decoded.

    Raises:
        DataError: the list or an image is missing or malformed.
    """
    listing = folder / "annotations.jsonl"
    if not listing.is_file():
        raise DataError(f"no annotations.jsonl in {folder}; expected the layout of widerface_train_small")
    photos = []
    for number, line in enumerate(listing.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            boxes = np.asarray(row["boxes_xywh"], dtype=np.float64).reshape(-1, 4)
            invalid = np.asarray(row["invalid"], dtype=bool)
            with Image.open(folder / row["file"]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"{listing}, line {number}: {error}") from error
        if len(invalid) != len(boxes):
            raise DataError(f"{listing}, line {number}: {len(boxes)} boxes but {len(invalid)} marks 'invalid'")
        boxes[:, 2:] += boxes[:, :2]
        photos.append(Photo(pixels, boxes, invalid | (boxes[:, 2:] - boxes[:, :2] < 1).any(axis=1)))
    if not photos:
        raise DataError(f"{listing} lists no image")
    return photos


def load_backgrounds(folder: Path) -> list[Photo]:
    """The images of a folder in COCO's format (``instances.json``, ``images/``) that show no person, without a box.

    Raises:
        DataError: the list or an image is missing or malformed.
    """
    listing = folder / "instances.json"
    try:
        listed = json.loads(listing.read_text())
        person = next(c["id"] for c in listed["categories"] if c["name"] == "person")
        peopled = {a["image_id"] for a in listed["annotations"] if a["category_id"] == person}
        photos = []
        for row in listed["images"]:
            if row["id"] not in peopled:
                with Image.open(folder / "images" / row["file_name"]) as image:
                    pixels = np.asarray(image.convert("RGB"))
                photos.append(Photo(pixels, np.empty((0, 4)), np.empty(0, dtype=bool)))
    except (ValueError, KeyError, OSError, StopIteration) as error:
        raise DataError(f"{listing} is not a readable list in COCO's format: {error!r}") from error
    return photos


class Crops:
    """A map-style dataset of endless length: ``crops[i]`` is a :class:`Crop` made from (seed, i).

    Args:
        photos: the decoded images.
        side: of a crop, in pixels.
        seed: of everything random.
        low, high: range in pixels of the faces' longer side that the templates cover; smaller faces are ignored.
        grids: share of crops that are patches on a flat ground.
        pasted: share of the other crops that get patches pasted in.
    """

    def __init__(
        self, photos: list[Photo], side: int, seed: int, low: float, high: float, grids: float, pasted: float
    ) -> None:
        self.photos, self.side, self.seed = photos, side, seed
        self.low, self.high, self.grids, self.pasted = low, high, grids, pasted
        sides = [(p.boxes[:, 2:] - p.boxes[:, :2]).max(axis=1) for p in photos]
        # Faces that still show something when they are shrunk to a patch.
        self.portraits = [(i, j) for i, p in enumerate(photos) for j in np.flatnonzero((sides[i] >= 22) & ~p.invalid)]

    def __getitem__(self, index: int) -> Crop:
        rng = np.random.default_rng((self.seed, index))
        if rng.random() < self.grids:
            pixels = np.empty((self.side, self.side, 3), np.uint8)
            ground = rng.normal(128, 8) if rng.random() < 0.6 else rng.uniform(0, 255, 3 if rng.random() < 0.5 else 1)
            pixels[:] = np.clip(ground, 0, 255)
            crop = Crop(pixels, np.empty((0, 4)), np.empty((0, 4)))
            crop = self.paste(crop, int(rng.integers(1, 17)), rng)
        else:
            crop = self.cut(rng)
            if rng.random() < self.pasted:
                crop = self.paste(crop, int(rng.integers(1, 5)), rng)
        return colour(crop, rng)

    def cut(self, rng: Rng) -> Crop:
        """A rescaled crop of one photo, flipped half of the time."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        longer = (photo.boxes[:, 2:] - photo.boxes[:, :2]).max(axis=1, initial=0)
        usable = np.flatnonzero(~photo.invalid & (longer >= 6))
        focus = int(rng.choice(usable)) if len(usable) and rng.random() < 0.8 else -1
        if focus >= 0 and rng.random() < 0.5:  # bring one face to a size drawn evenly over the templates' range
            wanted = np.exp(rng.uniform(np.log(self.low), np.log(self.high)))
            scale = float(np.clip(wanted / longer[focus], 0.35, 3.0))
        else:  # HR's scales with some jitter, the smallest less often: these photos are small already
            scale = float(rng.choice((0.5, 1.0, 2.0), p=(0.14, 0.43, 0.43)) * np.exp(rng.uniform(-0.25, 0.25)))
        height, width = photo.pixels.shape[:2]
        window = self.side / scale  # the crop's side in the photo's pixels
        x0, y0 = (self._start(length, window, rng) for length in (width, height))
        if focus >= 0:
            x1, y1, x2, y2 = photo.boxes[focus]
            x0 = self._start_around(x1, x2, width, window, rng)
            y0 = self._start_around(y1, y2, height, window, rng)
        pixels = view(photo.pixels, x0, y0, window, self.side, rng)
        boxes = (photo.boxes - [x0, y0, x0, y0]) * scale
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
            boxes = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [self.side, 0, self.side, 0]
        return self.sort(pixels, boxes, photo.invalid)

    @staticmethod
    def _start(length: float, window: float, rng: Rng) -> float:
        """Where a window starts: anywhere inside, or around all of a photo that is smaller."""
        return float(rng.uniform(min(0.0, length - window), max(0.0, length - window)))

    @staticmethod
    def _start_around(low: float, high: float, length: float, window: float, rng: Rng) -> float:
        """Where a window that holds low..high starts; it leaves the photo no more than it must."""
        first, last = sorted((high - window, low))
        lowest, highest = sorted((0.0, length - window))
        a, b = max(first, lowest), min(last, highest)
        return float(rng.uniform(a, b)) if a < b else min(max((first + last) / 2, lowest), highest)

    def sort(self, pixels: Pixels, boxes: Floats, invalid: NDArray[np.bool_]) -> Crop:
        """Faces to find and places to ignore: invalid, too small, too large, or more than a third outside."""
        visible = boxes.clip(0, self.side)
        shown = (visible[:, 2:] - visible[:, :2]).prod(axis=1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).clip(1e-9)
        longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        touched = shown > 0
        face = touched & ~invalid & (shown / area > 2 / 3) & (longer >= 0.7 * self.low) & (longer <= 1.4 * self.high)
        return Crop(pixels, boxes[face], visible[touched & ~face])

    def paste(self, crop: Crop, count: int, rng: Rng) -> Crop:
        """Draws up to ``count`` square patches where nothing is yet; about a third of them hold no face."""
        pixels = crop.pixels.copy()
        faces = list(crop.faces)
        taken = np.concatenate((crop.faces, crop.ignored))
        size = rng.uniform(24, 96)
        for _ in range(count):
            side = int(np.clip(size * np.exp(rng.uniform(-0.15, 0.15)), 20, min(110, self.side // 2)))
            x, y = rng.integers(0, self.side - side, 2)
            square = np.array([x, y, x + side, y + side], dtype=np.float64)
            if len(taken) and overlaps(square, taken):
                continue
            cut = self.patch(side, rng)
            if cut is None:
                continue
            patch, box = cut
            pixels[y : y + side, x : x + side] = patch
            taken = np.concatenate((taken, square[None]))
            if box is not None:
                faces.append(box + np.array([x, y, x, y]))
        return Crop(pixels, np.asarray(faces).reshape(-1, 4), crop.ignored)

    def patch(self, side: int, rng: Rng) -> tuple[Pixels, Floats | None] | None:
        """A square cut from a photo, shrunk to 18-48 px and drawn at ``side`` px, with its face's box in it."""
        wants_face = rng.random() < 0.67
        if wants_face:
            i, j = self.portraits[int(rng.integers(len(self.portraits)))]
            photo, box = self.photos[i], self.photos[i].boxes[j]
            length = (box[3] - box[1]) * rng.uniform(1.0, 1.4)
            x0, y0 = (box[:2] + box[2:]) / 2 - length / 2 + rng.uniform(-0.08, 0.08, 2) * length
        else:
            photo = self.photos[int(rng.integers(len(self.photos)))]
            length = rng.uniform(24, 120)
            x0, y0 = (rng.uniform(0, max(1.0, n - length)) for n in photo.pixels.shape[1::-1])
        height, width = photo.pixels.shape[:2]
        if x0 < 0 or y0 < 0 or x0 + length > width or y0 + length > height:
            return None
        square = np.array([x0, y0, x0 + length, y0 + length])
        if not wants_face and len(photo.boxes) and overlaps(square, photo.boxes):
            return None
        small = min(int(rng.integers(18, 49)), side)
        image = Image.fromarray(photo.pixels).resize((small, small), Image.Resampling.BILINEAR, box=tuple(square))
        if rng.random() < 0.8:
            image = image.convert("L").convert("RGB")
        pixels = np.asarray(image.resize((side, side), FILTERS[int(rng.integers(2))]))
        mirrored = rng.random() < 0.5
        if mirrored:
            pixels = pixels[:, ::-1]
        if not wants_face:
            return pixels, None
        found = (box - [x0, y0, x0, y0]) * side / length
        if mirrored:
            found = found[[2, 1, 0, 3]] * [-1, 1, -1, 1] + [side, 0, side, 0]
        return pixels, found


def overlaps(square: Floats, boxes: Floats) -> bool:
    """Whether ``square`` (4,) touches any of ``boxes`` (N, 4)."""
    return bool(((np.minimum(square[2:], boxes[:, 2:]) - np.maximum(square[:2], boxes[:, :2])) > 0).all(axis=1).any())


def view(pixels: Pixels, x0: float, y0: float, window: float, side: int, rng: Rng) -> Pixels:
    """The square of ``window`` px at (x0, y0), resampled to ``side`` px; grey where the photo ends."""
    height, width = pixels.shape[:2]
    scale = side / window
    canvas = np.full((side, side, 3), int(rng.uniform(90, 150)), np.uint8)
    left, top = max(0.0, x0), max(0.0, y0)
    right, bottom = min(float(width), x0 + window), min(float(height), y0 + window)
    a, b = round((left - x0) * scale), round((top - y0) * scale)
    c, d = min(side, max(a + 1, round((right - x0) * scale))), min(side, max(b + 1, round((bottom - y0) * scale)))
    way = FILTERS[int(rng.integers(len(FILTERS)))]
    canvas[b:d, a:c] = np.asarray(Image.fromarray(pixels).resize((c - a, d - b), way, box=(left, top, right, bottom)))
    return canvas


def colour(crop: Crop, rng: Rng) -> Crop:
    """Blur, saturation or grey, contrast, brightness and a tint, each with its own probability."""
    pixels = crop.pixels
    if rng.random() < 0.12:
        side = len(pixels)
        small = int(side / rng.uniform(1.2, 2.2))
        image = Image.fromarray(np.ascontiguousarray(pixels)).resize((small, small), Image.Resampling.BILINEAR)
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    x = pixels.astype(np.float32)
    saturation = 0.0 if rng.random() < 0.15 else rng.uniform(0.5, 1.4) if rng.random() < 0.5 else 1.0
    if saturation != 1:
        grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
        x = grey + np.float32(saturation) * (x - grey)
    if rng.random() < 0.7:
        gain = rng.uniform(0.65, 1.35) * (rng.uniform(0.92, 1.08, 3) if rng.random() < 0.5 else 1.0)
        x = x * np.float32(gain) + np.float32(rng.uniform(-30, 30))
    return Crop(np.clip(x, 0, 255).astype(np.uint8), crop.faces, crop.ignored)
