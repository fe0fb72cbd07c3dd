"""What is measured on grids of faces: the cells, the perturbations, and the profiles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching
from lipcore.datasets.synthetic import Grid
from lipcore.results import DetectorInfo, digest

EXPERIMENT = "interference"
#: The poster's five cells, (faces, distance).
POSTER_CELLS = ((1, 40), (9, 40), (9, 160), (9, 240), (64, 40))
KEY = ("config", "detector", "faces", "distance", "epsilon", "perturbation", "image")
JOINT = ("random", "imp", "lp-w", "imp-i", "lp")
SEPARATE = ("lip-a", "lip-h")
#: Numbers of faces, and distances between them in pixels, whose every pair that fits the canvas is in the full profile.
FACES = (1, 4, 9, 16, 25, 36, 49, 64, 81)
DISTANCES = (40, 80, 120, 160, 200, 240)
#: Stands beside every detector: its receptive field is too small for faces to meet in it.
CONTROL = "pnet"
#: Faces of an image that are also attacked alone, for the interference coefficient.
ALONE = 3


@dataclass(frozen=True)
class Part:
    """Cells measured alike.

    Attributes:
        detector: its name.
        cells: (faces, distance) pairs.
        perturbations: presets' names; ``"alone"`` attacks up to three faces of an image one by one with IMP-I.
        epsilons: in grey levels.
        images: how many images in each cell; seeds 0, 1, ...
    """

    detector: str
    cells: tuple[tuple[int, int], ...]
    perturbations: tuple[str, ...]
    epsilons: tuple[float, ...] = (4.0,)
    images: int = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured, in the order in which it is run, and every assumption behind it.

    Attributes:
        parts: run one after the other.
        update: the update rule's name.
        tau, iou: when a face counts as found (A6).
        face_side, canvas, background, identical, measure: of the grids (A7, A14).
        matching: A10, A11 and A12.
        extent: A4.
    """

    parts: tuple[Part, ...]
    update: str = "i-fgsm"
    tau: float = 0.5
    iou: float = 0.5
    face_side: int = 40
    canvas: int = 704
    background: str = "grey"
    identical: bool = False
    measure: str = "edge"
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)

    def grid(self, faces: int, distance: int) -> Grid:
        """The grid of one cell.

        Raises:
            ValueError: it does not fit the canvas.
        """
        return Grid(
            faces=faces,
            distance=distance,
            face_side=self.face_side,
            canvas=self.canvas,
            measure=self.measure,  # type: ignore[arg-type]
            background=self.background,  # type: ignore[arg-type]
            identical=self.identical,
        )

    def fingerprint(self, info: DetectorInfo) -> str:
        """Changes with all that a record of a detector depends on besides its own unit."""
        return digest([replace(self, parts=()), info.sha256, info.options])


def quick(detector: str) -> Config:
    """For a laptop: few images, since a step on this canvas costs 0.3 s on one core with CenterFace."""
    parts = [
        Part(detector, POSTER_CELLS[:1], (*JOINT, *SEPARATE), images=1),
        Part(detector, POSTER_CELLS[1:], JOINT, images=1),
        Part(detector, POSTER_CELLS[1:2], ("lip-a", "alone"), images=1),
    ]
    if detector != CONTROL:
        parts += [
            Part(CONTROL, POSTER_CELLS, JOINT, images=1),
            Part(CONTROL, POSTER_CELLS[:2], (*SEPARATE, "alone"), images=1),
        ]
    return Config(parts=tuple(parts))


def grid_cells(config: Config) -> list[tuple[int, int]]:
    """Every (faces, distance) of the study that fits the canvas, besides the poster's; one face has one distance."""
    cells = []
    for faces in FACES[1:]:
        for distance in DISTANCES:
            try:
                config.grid(faces, distance)
            except ValueError:
                continue
            if (faces, distance) not in POSTER_CELLS:
                cells.append((faces, distance))
    return cells


def full(detector: str) -> Config:
    """In order of importance: the poster's cells, the grid, epsilon 2, the other detectors, the other epsilons; then
    more images of the poster's cells at epsilon 2, and of one face wherever there are fewer than thirty; last, as many
    images with LIP as with the others.

    Each cell has at least six images and thirty faces.
    """
    every = (*JOINT, *SEPARATE, "alone")
    grid = grid_cells(Config(parts=()))
    parts = [
        Part(detector, POSTER_CELLS, JOINT, images=30),
        Part(detector, POSTER_CELLS, (*SEPARATE, "alone"), images=6),
        Part(detector, POSTER_CELLS[:4], (*SEPARATE, "alone"), images=30),
        *(Part(detector, (cell,), every, images=max(6, -(-30 // cell[0]))) for cell in grid),
        Part(detector, POSTER_CELLS[:1], every, epsilons=(2.0,), images=30),
        Part(detector, POSTER_CELLS[1:], every, epsilons=(2.0,), images=6),
        *(Part(detector, (cell,), every, epsilons=(2.0,), images=max(6, -(-30 // cell[0]))) for cell in grid),
    ]
    others = [name for name in ("centerface", CONTROL) if name != detector]
    for name in others:
        images = 30 if name == CONTROL else 6
        parts += [
            Part(name, POSTER_CELLS, JOINT, images=30),
            Part(name, POSTER_CELLS[:4], (*SEPARATE, "alone"), images=images),
            Part(name, POSTER_CELLS[4:], (*SEPARATE, "alone"), images=6),
        ]
    parts.append(Part(detector, POSTER_CELLS, (*JOINT, *SEPARATE), epsilons=(1.0, 8.0, 16.0), images=6))
    parts += [Part(name, POSTER_CELLS, (*JOINT, *SEPARATE), epsilons=(2.0, 1.0), images=6) for name in others]
    parts.append(Part(detector, POSTER_CELLS[1:4], (*JOINT, "lip-a"), epsilons=(2.0,), images=30))
    parts.append(Part(detector, POSTER_CELLS[4:], JOINT, epsilons=(2.0,), images=30))
    parts.append(Part(detector, POSTER_CELLS[:1], (*JOINT, *SEPARATE), epsilons=(1.0, 8.0, 16.0), images=30))
    for name in others:
        parts.append(Part(name, POSTER_CELLS[:1], (*SEPARATE, "alone"), images=30))
        parts.append(Part(name, POSTER_CELLS[:1], (*JOINT, *SEPARATE), epsilons=(2.0, 1.0), images=30))
    parts += [
        Part(detector, POSTER_CELLS[4:], SEPARATE, images=30),
        Part(detector, POSTER_CELLS[1:], SEPARATE, epsilons=(2.0,), images=30),
    ]
    return Config(parts=tuple(dict.fromkeys(parts)))


PROFILES = {"quick": quick, "full": full}
