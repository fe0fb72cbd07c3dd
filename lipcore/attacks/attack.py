"""An attack on one image: a perturbation followed by an update rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcore.attacks.crop import Extent, Support, whole_image
from lipcore.attacks.gradients import EXACT, Shortcut, find_shortcut
from lipcore.attacks.memory import CHECKED_PIXELS, check_memory
from lipcore.attacks.presets import Perturbation, preset
from lipcore.attacks.targets import Instance, Matching, find_instances, match_targets
from lipcore.attacks.updates import Update
from lipcore.detectors.base import Detector, check_images
from lipcore.errors import ImageError, NoFaceFound, OptionError
from lipcore.receptive_field import Erf


@dataclass(frozen=True)
class Attacked:
    """What an attack did to one image.

    Attributes:
        image: (1, 3, H, W) float, within epsilon of the clean image and within 0..255.
        instances: the faces that were attacked.
        supports: their e_i (the whole image where nothing was cropped).
        losses: the summed loss of the instances' targets before each step and after the last, ``steps + 1`` numbers;
            empty unless asked for.
        shortcut: what LIP's steps left out, with the leak measured on the clean image; nothing unless a tolerance was
            given.
    """

    image: Tensor
    instances: list[Instance]
    supports: list[Support] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    shortcut: Shortcut = EXACT


@dataclass(frozen=True)
class Attack:
    """A perturbation and an update rule, on images in 0..255: X_{t+1} = clip(X_t - alpha * sign(R_t)).

    Attributes:
        perturbation: what R is; a :class:`Perturbation` or a preset's name.
        update: epsilon, alpha and the number of steps.
        matching: which proposals stand for a face (A10-A12).
        extent: how e_i is sized (A4).
        seed: of the random-sign control.
        tolerance: 0 computes LIP exactly. Otherwise its steps may leave out gradient worth this share of the
            direction's absolute mass, measured on the clean image, to be cheaper where faces are many.

    Examples:
        >>> from lipcore.attacks.updates import i_fgsm
        >>> from lipcore.detectors import load_detector
        >>> from lipcore.datasets.photographs import astronaut
        >>> attack = Attack("lip-a", i_fgsm(4))
        >>> detector = load_detector("centerface")
        >>> image = astronaut()
        >>> attacked = attack(detector, image)
        >>> float((attacked.image - image).abs().max())
        4.0
        >>> len(detector.detect(attacked.image)[0])
        0
    """

    perturbation: Perturbation | str
    update: Update
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)
    seed: int = 0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"tolerance is {self.tolerance}; valid is a share of the direction in [0, 1)")
        if isinstance(self.perturbation, str):
            object.__setattr__(self, "perturbation", preset(self.perturbation))

    def __call__(
        self,
        detector: Detector,
        image: Tensor,
        *,
        instances: Sequence[Instance] | None = None,
        erf: Erf | None = None,
        trace: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> Attacked:
        """Attacks one image; the detector is not changed.

        Args:
            detector: the detector under attack.
            image: (1, 3, H, W) float RGB in 0..255.
            instances: the faces to attack; by default all that the detector finds on ``image``.
            erf: the detector's measured receptive field; by default :func:`lipcore.known_fields.erf_of` it.
            trace: also record the loss at each step (one more forward pass a step).
            on_step: called with the number of steps done.

        Raises:
            ImageError: not a valid image, or more than one.
            MemoryShort: an image of many megapixels that does not fit the memory at hand.
            NoFaceFound: the perturbation needs a face and the detector finds none.
            FloatingPointError: the direction is not finite.
        """
        perturbation = preset(self.perturbation) if isinstance(self.perturbation, str) else self.perturbation
        check_images(image, min_side=detector.min_side)
        if image.shape[0] != 1:
            raise ImageError(f"the image has batch size {image.shape[0]}; attack one image at a time")
        if image[0, 0].numel() > CHECKED_PIXELS:
            check_memory(detector, *image.shape[2:])
        with torch.no_grad():
            responses = detector(image)
        if instances is None:
            instances = find_instances(detector, responses, self.matching)
        if perturbation.needs_instances and not instances:
            raise NoFaceFound(
                f"{detector.name} finds no face with probability >= {self.matching.tau_attack:g}, and "
                f"{perturbation.name} attacks faces; lower tau_attack, or use imp, which attacks every response"
            )
        targets = [perturbation.choose(i.targets) for i in instances]
        height, width = image.shape[2:]
        if perturbation.crop == "erf":
            supports = self.extent.supports(detector, image, responses, instances, targets, erf)
        else:
            supports = [whole_image(height, width, image.device)] * len(instances)
        generator = torch.Generator().manual_seed(self.seed)
        x, losses = image.detach().clone(), []
        shortcut = EXACT
        if self.tolerance > 0 and perturbation.instances == "separate":
            shortcut = find_shortcut(detector, image, targets, supports, self.tolerance)
        for step in range(self.update.steps):
            if self.matching.rematch and step:
                targets = self._rematched(detector, x, instances, targets, perturbation)
            if trace:
                losses.append(instance_loss(detector, x, targets))
            direction = perturbation.direction(detector, x, targets, supports, generator, shortcut)
            if not torch.isfinite(direction).all():
                raise FloatingPointError(f"the gradient of {detector.name} is not finite at step {step}")
            x = self.update.step(x, image, direction)
            if on_step is not None:
                on_step(step + 1)
        if trace:
            losses.append(instance_loss(detector, x, targets))
        return Attacked(x, list(instances), supports, losses, shortcut)

    def _rematched(
        self,
        detector: Detector,
        x: Tensor,
        instances: Sequence[Instance],
        before: list[Tensor],
        perturbation: Perturbation,
    ) -> list[Tensor]:
        """The targets on the image as it is now; an instance that has none left keeps those it had."""
        with torch.no_grad():
            responses = detector(x)
        found = match_targets(responses, torch.stack([i.box for i in instances]), self.matching) if instances else []
        return [perturbation.choose(new) if len(new) else old for new, old in zip(found, before, strict=True)]


def instance_loss(detector: Detector, image: Tensor, targets: Sequence[Tensor]) -> float:
    """The summed loss of the targets on ``image``."""
    if not targets:
        return 0.0
    with torch.no_grad():
        logits = detector(image).logits[0]
    return float(torch.nn.functional.softplus(logits[torch.cat(list(targets))]).sum())
