"""A detector small enough to check by hand, and images it finds faces in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.detectors import Detector, Responses

STRIDE = 4
FACE = 16


class Toy(Detector):
    """Two convolutions with a tanh between them, stride 4: finds bright squares of 16 px on dark ground.

    Smooth everywhere, so finite differences of its loss converge; its TRF is 5 + 2 * 4 = 13 px. Neighbouring cells'
    boxes overlap by more than a half, so an instance has several targets.
    """

    name = "toy"
    min_side = 8

    def __init__(self, templates: tuple[str, ...] = ("face",)) -> None:
        super().__init__()
        self.templates = templates
        self.conv1 = nn.Conv2d(3, 6, 5, stride=STRIDE, padding=2)
        self.conv2 = nn.Conv2d(6, len(templates), 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            noise = torch.randn(self.conv1.weight.shape, generator=generator)
            self.conv1.weight.copy_((1 + noise) / 75 * 3)
            self.conv1.bias.fill_(-1.2)
            noise = torch.rand(self.conv2.weight.shape, generator=generator)
            self.conv2.weight.copy_(0.3 * noise)
            self.conv2.bias.fill_(-4.0)
        self.freeze()

    def respond(self, images: Tensor) -> Responses:
        logits = self.conv2(torch.tanh(self.conv1(images / 255)))
        batch, templates, rows, cols = logits.shape
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        centres = (torch.stack((x, y), -1).reshape(-1, 2) * STRIDE + 0.5).to(images).repeat(templates, 1)
        boxes = torch.cat((centres - FACE / 2, centres + FACE / 2), 1).expand(batch, -1, 4)
        return Responses(logits.flatten(1), boxes, centres, torch.arange(templates).repeat_interleave(rows * cols))


def make(weights: str | None = None) -> Toy:
    """The toy as ``load_detector("toys:make")`` makes it."""
    return Toy()


def unsure(weights: str | Path | None = None) -> Toy:
    """The toy, no longer so sure of a bright square that little noise changes nothing; the weights are its bias."""
    toy = Toy()
    with torch.no_grad():
        toy.conv2.bias.fill_(-7.7 if weights is None else float(Path(weights).read_text()))
    return toy


def make_nothing() -> str:
    """A factory that makes no detector."""
    return "no detector"


def bright(
    corners: list[tuple[int, int]], height: int = 64, width: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A dark noisy image (1, 3, height, width), whole numbers, with a bright square at each corner (x, y)."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 40, (1, 3, height, width), generator=generator)
    for x, y in corners:
        square = torch.randint(190, 256, (1, 3, FACE, FACE), generator=generator)
        image[:, :, y : y + FACE, x : x + FACE] = square
    return image.to(dtype)


#: Four faces, their squares apart by more than the toy's TRF, or by less.
FAR = [(4, 4), (44, 4), (4, 44), (44, 44)]
NEAR = [(10, 10), (30, 10), (10, 30), (30, 30)]


def instances_of(detector: Toy, image: Tensor, matching: Matching | None = None) -> list[Instance]:
    """What attacks would attack."""
    return find_instances(detector, detector(image), matching or Matching())
