"""Hiding faces as lightly as it takes, from one detector or from several at once.

The steps are those of I-FGSM with alpha = 1, but epsilon climbs a ladder: each rung ends after as many steps in all as
I-FGSM takes for its epsilon, and nothing follows the first step after which no detector finds a face. On whole grey
levels the image at every step is the image as it would be saved, so that is what "finds" is asked of.

Against several detectors R is the sum of their directions. A gradient's size says nothing across detectors (one's
logits are steeper than another's), so each is divided by its L1 mass first: R = sum_d R_d / |R_d|_1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lipcore import memory
from lipcore.attacks.crop import Extent, Support, whole_image
from lipcore.attacks.gradients import Forward, forward
from lipcore.attacks.memory import step_bytes
from lipcore.attacks.presets import Perturbation, preset
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.attacks.updates import Update, update_rule
from lipcore.boxes import iou_matrix
from lipcore.detectors.base import Detections, Detector, check_images
from lipcore.detectors.tiles import Tile, joined, tiles
from lipcore.errors import ImageError, NoFaceFound, OptionError, UnknownName

#: The epsilons tried, in grey levels.
LADDER = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
#: Bytes that a step may take; an image that would need more is attacked tile by tile. With the photograph itself and
#: what is found on it as a whole, one of 12 megapixels then stays below 4 GB.
MOST_BYTES = 2_000_000_000
#: How far a tile's surroundings reach, in pixels: further than from a face to the border of its e_i.
MARGIN = 256
#: No tile is smaller, margins included, and no smaller image is asked about.
LEAST_PIXELS = 768 * 768
#: How the directions of several detectors become one.
COMBINATIONS = ("mass", "first", "sum")


@dataclass(frozen=True)
class Hidden:
    """What hiding did to an image.

    Attributes:
        image: (1, 3, H, W) float, within ``epsilon`` of the clean image and within 0..255.
        epsilon: of the last step; the largest over the tiles.
        steps: how many were made; the most over the tiles.
        tiles: how many the image was attacked in.
        before: the faces that each detector finds on the clean image; their ``responses`` are -1.
    """

    image: Tensor
    epsilon: float
    steps: int
    tiles: int
    before: tuple[Detections, ...]


@dataclass
class Aim:
    """What one detector's part of R is aimed at; it changes from step to step.

    Attributes:
        boxes: of each instance, (4,) xyxy in pixels.
        targets: of each instance, the responses attacked.
        supports: of each instance, e_i.
    """

    boxes: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    supports: list[Support] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Hiding:
    """An attack on one or several detectors that may stop where it has hidden every face.

    Attributes:
        perturbation: what each detector's R_d is; a :class:`Perturbation` or a preset's name.
        ladder: rising epsilons in grey levels of 0..255; one alone is the fixed epsilon.
        until_hidden: stop at the first step after which no face is found, and aim anew at what is found on the way:
            at a face that is found again, and at one that has appeared. The epsilons must be whole.
        update: ``"i-fgsm"``, or ``"fgsm"`` with a fixed epsilon.
        combine: how directions are weighted: by the inverse of their L1 mass at each step (``"mass"``) or at the first
            step (``"first"``), or not at all (``"sum"``).
        matching: which proposals stand for a face; its ``tau_attack`` says what is found.
        extent: how e_i is sized.
        seed: of the random-sign control.

    Examples:
        >>> from lipcore import load_detector
        >>> from lipcore.datasets.photographs import astronaut
        >>> detectors = [load_detector("centerface"), load_detector("hr-mini")]
        >>> hidden = Hiding()(detectors, astronaut())
        >>> [len(d.detect(hidden.image)[0]) for d in detectors]
        [0, 0]
    """

    perturbation: Perturbation | str = "lp"
    ladder: tuple[float, ...] = LADDER
    until_hidden: bool = True
    update: str = "i-fgsm"
    combine: Literal["mass", "first", "sum"] = "mass"
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.perturbation, str):
            object.__setattr__(self, "perturbation", preset(self.perturbation))
        if self.combine not in COMBINATIONS:
            raise UnknownName("combination", self.combine, COMBINATIONS)
        if not self.ladder or list(self.ladder) != sorted(set(self.ladder)):
            raise OptionError(f"the ladder is {self.ladder}; valid are rising numbers, in grey levels of 0..255")
        rules = [update_rule(self.update, epsilon) for epsilon in self.ladder]
        if len(rules) > 1 and self.update.lower() != "i-fgsm":
            raise OptionError(f"{self.update} is one step of one epsilon; give that epsilon, or take i-fgsm")
        if self.until_hidden and any(epsilon % 1 for epsilon in self.ladder):
            raise OptionError(f"epsilon is {self.ladder[-1]:g}; until no face is found, valid are whole grey levels")

    @property
    def steps(self) -> int:
        """At most so many are made."""
        return update_rule(self.update, self.ladder[-1]).steps

    def __call__(
        self, detectors: Sequence[Detector], image: Tensor, *, on_step: Callable[[int], None] | None = None
    ) -> Hidden:
        """Attacks one image; the detectors are not changed.

        Args:
            detectors: one or more, on the image's device.
            image: (1, 3, H, W) float RGB in 0..255.
            on_step: called with the number of steps done, of each tile.

        Raises:
            ImageError: not a valid image, or more than one.
            MemoryShort: not even a tile fits the memory at hand.
            NoFaceFound: the perturbation needs a face and no detector finds one.
            FloatingPointError: a direction is not finite.
        """
        check_images(image, min_side=max(d.min_side for d in detectors))
        if image.shape[0] != 1:
            raise ImageError(f"the image has batch size {image.shape[0]}; attack one image at a time")
        x = image.detach().clone()
        height, width = image.shape[2:]
        parts = tiles(height, width, _window(detectors, height * width), MARGIN)
        done = []
        for tile in parts:
            done.append(self._hide(detectors, image[tile.window], x[tile.window], tile, on_step))
            x[tile.window] = done[-1].image
            if len(parts) > 1:
                memory.release()
        before = tuple(
            joined(parts, found, detector.nms_iou)
            for detector, *found in zip(detectors, *(part.before for part in done), strict=True)
        )
        if self._perturbation.needs_instances and not any(map(len, before)):
            raise NoFaceFound(
                f"{' and '.join(d.name for d in detectors)} finds no face with probability >= "
                f"{self.matching.tau_attack:g}, and {self._perturbation.name} attacks faces; lower the threshold, or "
                "use imp, which attacks every response"
            )
        return Hidden(x, max(d.epsilon for d in done), max(d.steps for d in done), len(parts), before)

    @property
    def _perturbation(self) -> Perturbation:
        assert isinstance(self.perturbation, Perturbation)
        return self.perturbation

    def _rules(self) -> Iterator[Update]:
        """The rule of each step: a rung ends after as many steps in all as its own epsilon takes."""
        done = 0
        for epsilon in self.ladder:
            rule = update_rule(self.update, epsilon)
            for _ in range(rule.steps - done):
                yield rule
            done = max(done, rule.steps)

    def _hide(
        self,
        detectors: Sequence[Detector],
        clean: Tensor,
        start: Tensor,
        tile: Tile,
        on_step: Callable[[int], None] | None,
    ) -> Hidden:
        """Attacks the faces whose middle lies in the tile's core.

        Args:
            detectors: see :meth:`__call__`.
            clean: the tile's window of the clean image.
            start: the same as the tiles before left it; what they did in the margins stays.
            tile: says which faces are its own.
            on_step: called with the number of steps done.
        """
        x = start
        aims = [Aim() for _ in detectors]
        generator = torch.Generator().manual_seed(self.seed)
        weights: list[float] = []
        before: tuple[Detections, ...] = ()
        epsilon, steps = 0.0, 0
        for rule in self._rules():
            passes = [forward(detector, x) for detector in detectors]
            found = [
                [i for i in find_instances(d, p.responses, self.matching) if tile.holds(i.box)]
                for d, p in zip(detectors, passes, strict=True)
            ]
            before = before or tuple(_detections(instances, clean) for instances in found)
            if self._done(found, steps):
                break
            if steps == 0 or self.until_hidden:
                for aim, detector, now, instances in zip(aims, detectors, passes, found, strict=True):
                    self._aim(aim, detector, now, instances)
            directions = [
                self._direction(aim, detector, now, generator)
                for aim, detector, now in zip(aims, detectors, passes, strict=True)
            ]
            if self.combine == "mass" or not weights:
                weights = self._weights(directions)
            direction = sum(d * w for d, w in zip(directions, weights, strict=True))
            assert isinstance(direction, Tensor)
            low = torch.minimum((clean - rule.epsilon).clamp_min(0), start)
            high = torch.maximum((clean + rule.epsilon).clamp_max(255), start)
            x = torch.clamp(x - rule.alpha * direction.sign(), low, high)
            epsilon, steps = rule.epsilon, steps + 1
            if on_step:
                on_step(steps)
        return Hidden(x, epsilon, steps, 1, before)

    def _done(self, found: Sequence[Sequence[Instance]], steps: int) -> bool:
        """Whether nothing is left to do: no face, where faces are attacked or have been hidden."""
        asked = self.until_hidden if steps else self._perturbation.needs_instances
        return asked and not any(found)

    def _aim(self, aim: Aim, detector: Detector, now: Forward, instances: Sequence[Instance]) -> None:
        """Aims at what is found now: in place of what stood for the same face before, or as well."""
        height, width = now.image.shape[2:]
        targets = [self._perturbation.choose(i.targets) for i in instances]
        if self._perturbation.crop == "erf":
            supports = self.extent.supports(detector, now.image, now.responses, instances, targets)
        else:
            supports = [whole_image(height, width, now.image.device)] * len(instances)
        old = len(aim.boxes)
        for instance, own, support in zip(instances, targets, supports, strict=True):
            overlap = iou_matrix(instance.box[None], torch.stack(aim.boxes[:old]))[0] if old else torch.zeros(1)
            if float(overlap.max()) >= self.matching.iou:
                same = int(overlap.argmax())
                aim.targets[same], aim.supports[same] = own, support
            else:
                aim.boxes.append(instance.box)
                aim.targets.append(own)
                aim.supports.append(support)

    def _direction(self, aim: Aim, detector: Detector, now: Forward, generator: torch.Generator) -> Tensor:
        """One detector's R_d; zero where it has nothing to attack."""
        if self._perturbation.needs_instances and not aim.boxes:
            return torch.zeros_like(now.image)
        found = self._perturbation.direction(detector, now.image, aim.targets, aim.supports, generator, recorded=now)
        if not torch.isfinite(found).all():
            raise FloatingPointError(f"the gradient of {detector.name} is not finite")
        return found.detach()

    def _weights(self, directions: Sequence[Tensor]) -> list[float]:
        if self.combine == "sum" or len(directions) == 1:
            return [1.0] * len(directions)
        masses = [float(d.abs().sum(dtype=torch.float64)) for d in directions]
        return [1 / mass if mass > 0 else 0.0 for mass in masses]


def _window(detectors: Sequence[Detector], pixels: int) -> int:
    """How many of an image's ``pixels`` are attacked at a time.

    Raises:
        MemoryShort: so many do not fit the memory at hand.
    """
    if pixels <= LEAST_PIXELS:
        return pixels
    side = math.isqrt(LEAST_PIXELS)
    each = sum(step_bytes(detector, side, side) for detector in detectors) / LEAST_PIXELS
    most = min(pixels, max(LEAST_PIXELS, round(MOST_BYTES / each)))
    what = f"a step of the attack on {' and '.join(d.name for d in detectors)}"
    remedy = "attack fewer detectors at once, or make the image smaller"
    memory.require(round(most * each), what, remedy, detectors[0].device)
    return most


def _detections(instances: Sequence[Instance], image: Tensor) -> Detections:
    boxes = torch.stack([i.box for i in instances]) if instances else image.new_zeros(0, 4)
    return Detections(boxes, image.new_tensor([i.score for i in instances]), torch.full((len(boxes),), -1))
