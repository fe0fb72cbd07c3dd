"""Synthetic images made of real faces: grids of known number and distance, and crowds on photographs.

The faces are the first 100 patches of scikit-image's LFW subset: 25 x 25 pixels, grey, distinct people. The first 90
are drawn for experiments, the last 10 only to calibrate receptive fields, so that no experiment sees a face or an
image that a crop was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from lipcore.boxes import iou_matrix
from lipcore.datasets.photographs import background
from lipcore.errors import OptionError, UnknownName

#: Faces used in experiments, and faces used for calibration only.
EVALUATION_FACES = 90
CALIBRATION_FACES = 10
#: Ground truth of a pasted patch is its rectangle less this share of its side on each of the four sides: an LFW patch
#: shows a little more than the face that detectors box.
INSET = 0.08
MID_GREY = 127.0
CANVAS = 704


@dataclass(frozen=True)
class Scene:
    """An image with the ground truth of its faces.

    Attributes:
        name: says how it was made.
        image: (1, 3, H, W) float, whole numbers in 0..255.
        boxes: (N, 4) ground truth, xyxy in pixels.
    """

    name: str
    image: Tensor
    boxes: Tensor


def people(faces: int, seed: int | torch.Generator) -> list[int]:
    """Whose faces (0..89) a grid shows, in reading order; with one seed those are the first of every larger grid."""
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    return list(torch.randperm(EVALUATION_FACES, generator=generator)[:faces].tolist())


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A square grid of faces on one fixed canvas (assumptions A7 and A14).

    Attributes:
        faces: how many; a square number of at most 90 (distinct) faces.
        distance: pixels between the edges of neighbouring patches, or between their centres (``measure``).
        face_side: side of a patch in pixels.
        canvas: side of the image in pixels; the same for every cell of a table, or the canvas is a confounder.
        measure: ``"edge"`` or ``"centre"``.
        background: ``"grey"`` or ``"photograph"``.
        identical: draw one face for the whole grid instead of distinct ones.
        jitter: the grid's middle is moved by up to so many pixels either way, drawn anew for every image.

    Raises:
        OptionError: a number that is not square, too many faces, or a grid that does not fit the canvas.
    """

    faces: int
    distance: int
    face_side: int = 40
    canvas: int = CANVAS
    measure: Literal["edge", "centre"] = "edge"
    background: Literal["grey", "photograph"] = "grey"
    identical: bool = False
    jitter: int = 16

    def __post_init__(self) -> None:
        side = math.isqrt(max(self.faces, 0))
        if self.faces < 1 or side * side != self.faces or self.faces > EVALUATION_FACES:
            raise OptionError(f"faces is {self.faces}; valid are square numbers from 1 to 81")
        for field, values in (("measure", ("edge", "centre")), ("background", ("grey", "photograph"))):
            if getattr(self, field) not in values:
                raise UnknownName(field, getattr(self, field), values)
        if self.face_side < 8 or self.jitter < 0 or self.pitch < self.face_side:
            raise OptionError(
                f"face_side {self.face_side}, distance {self.distance} and jitter {self.jitter} are in pixels: "
                "face_side must be at least 8, the others not negative, and patches must not overlap"
            )
        if self.extent + 2 * self.jitter > self.canvas:
            raise OptionError(
                f"{self.faces} faces of {self.face_side} px at distance {self.distance} need {self.extent} px and "
                f"{self.jitter} px of jitter on each side, more than the canvas of {self.canvas} px"
            )

    @property
    def pitch(self) -> int:
        """Pixels from one patch to the next."""
        return self.distance + (self.face_side if self.measure == "edge" else 0)

    @property
    def extent(self) -> int:
        """Side in pixels of the whole grid."""
        return (math.isqrt(self.faces) - 1) * self.pitch + self.face_side

    def draw(self, seed: int) -> Scene:
        """Image number ``seed`` of this cell: which faces, in which order, and where the grid lies."""
        generator = torch.Generator().manual_seed(seed)
        order = people(self.faces, generator)
        if self.identical:
            order = order[:1] * self.faces
        shift = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=generator)
        image = (
            background(seed, self.canvas, self.canvas)
            if self.background == "photograph"
            else torch.full((1, 3, self.canvas, self.canvas), MID_GREY)
        )
        per_row = math.isqrt(self.faces)
        start = (self.canvas - self.extent) // 2 + shift
        boxes = []
        for i, face in enumerate(order):
            x = int(start[0]) + i % per_row * self.pitch
            y = int(start[1]) + i // per_row * self.pitch
            boxes.append(paste(image, face, x, y, self.face_side))
        return Scene(f"grid-{self.faces}-{self.distance}-{seed}", image, torch.tensor(boxes))


@dataclass(frozen=True, kw_only=True)
class Unequal:
    """One small face amid eight large ones, in a 3 x 3 grid on grey.

    Attributes:
        small, large: sides of the patches in pixels.
        pitch: pixels between the centres of neighbouring faces.
        canvas: side of the image in pixels.
        jitter: the grid's middle is moved by up to so many pixels either way, drawn anew for every image.

    Raises:
        ValueError: patches that overlap, or a grid that does not fit the canvas.
    """

    small: int = 32
    large: int = 96
    pitch: int = 144
    canvas: int = 576
    jitter: int = 16

    #: The small face's number among the nine.
    SMALL: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if not 8 <= self.small <= self.large <= self.pitch:
            raise ValueError(
                f"small {self.small}, large {self.large} and pitch {self.pitch} are in pixels: a patch has at least 8, "
                "small is at most large, and patches must not overlap"
            )
        if 2 * self.pitch + self.large + 2 * self.jitter > self.canvas:
            raise ValueError(
                f"faces of {self.large} px, {self.pitch} px from centre to centre, and {self.jitter} px of jitter on "
                f"each side do not fit the canvas of {self.canvas} px"
            )

    def draw(self, seed: int) -> Scene:
        """Image number ``seed``: whose faces, and where the grid lies."""
        generator = torch.Generator().manual_seed(seed)
        order = people(9, generator)
        shift = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=generator).tolist()
        image = torch.full((1, 3, self.canvas, self.canvas), MID_GREY)
        boxes = []
        for i, face in enumerate(order):
            side = self.small if i == self.SMALL else self.large
            x, y = (self.canvas // 2 + shift[k] + ((i % 3, i // 3)[k] - 1) * self.pitch - side // 2 for k in (0, 1))
            boxes.append(paste(image, face, x, y, side))
        return Scene(f"unequal-{self.small}-{self.large}-{self.pitch}-{seed}", image, torch.tensor(boxes))


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Faces of varied size, scattered on a photograph without touching.

    Attributes:
        faces: (fewest, most) faces; fewer where no room is found.
        face_side: (smallest, largest) patch in pixels, drawn log-uniformly.
        height: of the image in pixels.
        width: of the image in pixels.
        gap: fewest pixels between patches.
    """

    faces: tuple[int, int] = (4, 20)
    face_side: tuple[int, int] = (32, 96)
    height: int = 480
    width: int = 640
    gap: int = 4

    def draw(self, seed: int) -> Scene:
        """Crowd number ``seed``, which also chooses the photograph."""
        generator = torch.Generator().manual_seed(seed)
        image = background(seed, self.height, self.width)
        wanted = int(torch.randint(self.faces[0], self.faces[1] + 1, (1,), generator=generator))
        order = torch.randperm(EVALUATION_FACES, generator=generator)[:wanted].tolist()
        low, high = (math.log(s) for s in self.face_side)
        taken = torch.empty(0, 4)
        boxes = []
        for face in order:
            for _ in range(50):
                u = torch.rand(3, generator=generator).tolist()
                side = round(math.exp(low + u[0] * (high - low)))
                x, y = round(u[1] * (self.width - side)), round(u[2] * (self.height - side))
                place = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
                margin = torch.tensor([-self.gap, -self.gap, self.gap, self.gap])
                if not (iou_matrix(place + margin, taken) > 0).any():
                    taken = torch.cat((taken, place))
                    boxes.append(paste(image, face, x, y, side))
                    break
        return Scene(f"crowd-{seed}", image, torch.tensor(boxes))


def calibration_images(n: int, *, face_side: float | None = None, canvas: int = CANVAS) -> Iterator[Tensor]:
    """Seeded images with one calibration face in the very middle, on grey and on photographs in turn.

    Args:
        n: how many.
        face_side: side of the face in pixels; by default drawn log-uniformly from 24..96 for each image.
        canvas: side of the image in pixels.

    Yields:
        (1, 3, canvas, canvas) float, whole numbers in 0..255.
    """
    generator = torch.Generator().manual_seed(2018)
    for i in range(n):
        drawn = math.exp(math.log(24) + float(torch.rand(1, generator=generator)) * math.log(4))
        side = round(face_side if face_side is not None else drawn)
        image = background(i // 2, canvas, canvas) if i % 2 else torch.full((1, 3, canvas, canvas), MID_GREY)
        corner = (canvas - side) // 2
        paste(image, EVALUATION_FACES + i % CALIBRATION_FACES, corner, corner, side)
        yield image


def paste(image: Tensor, face: int, x: int, y: int, side: int) -> tuple[float, float, float, float]:
    """Draws face number ``face`` into ``image`` (1, 3, H, W), its corner at (x, y); returns its ground-truth box."""
    image[:, :, y : y + side, x : x + side] = resized_face(face, side)
    inset = INSET * side
    return (x + inset, y + inset, x + side - inset, y + side - inset)


@cache
def resized_face(face: int, side: int) -> Tensor:
    """Face number ``face`` (0..99) as (side, side) whole numbers in 0..255."""
    patch = _faces()[face][None, None]
    scaled = F.interpolate(patch, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return scaled[0, 0].round().clamp(0, 255)


@cache
def _faces() -> Tensor:
    return torch.from_numpy(data.lfw_subset()[: EVALUATION_FACES + CALIBRATION_FACES]).float() * 255
