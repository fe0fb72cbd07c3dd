"""What a perturbation is made of: the loss's scope, the crop, the treatment of instances, and the targets.

The poster's names, and the two controls between them, are presets of these four independent choices:

======  =============  ============  =========  =======
preset  loss over      crop          instances  targets
======  =============  ============  =========  =======
imp     the whole map  none          joint      n/a
lp-w    the whole map  union of e_i  joint      n/a
imp-i   the instances  none          joint      all
lp      the instances  union of e_i  joint      all
lip-a   the instances  e_i           separate   all
lip-h   the instances  e_i           separate   highest
lp-h    the instances  union of e_i  joint      highest
random  nothing        none          n/a        n/a
======  =============  ============  =========  =======
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lipcore.attacks.crop import Support, union
from lipcore.attacks.gradients import EXACT, Forward, Shortcut, cropped_sum, joint_gradient
from lipcore.detectors.base import Detector
from lipcore.errors import OptionError, UnknownName


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One way to turn the gradients of a detector into a direction.

    Attributes:
        name: as results name it.
        loss: every response of the image (``"map"``), the instances' targets (``"instances"``), or no loss at all:
            random signs (``"random"``).
        crop: keep the whole gradient (``"none"``) or only what lies in e_i (``"erf"``).
        instances: one gradient of the summed loss (``"joint"``) or one for each instance (``"separate"``).
        targets: all of T_i, or its highest-scoring one (``"highest"``).

    Raises:
        OptionError: a combination with no meaning: separate instances of a loss over the whole map, or random signs
            cropped or separate.
    """

    name: str
    loss: Literal["map", "instances", "random"]
    crop: Literal["none", "erf"] = "none"
    instances: Literal["joint", "separate"] = "joint"
    targets: Literal["all", "highest"] = "all"

    def __post_init__(self) -> None:
        valid = {
            "loss": ("map", "instances", "random"),
            "crop": ("none", "erf"),
            "instances": ("joint", "separate"),
            "targets": ("all", "highest"),
        }
        for field, values in valid.items():
            if getattr(self, field) not in values:
                raise UnknownName(field, getattr(self, field), values)
        if self.loss == "map" and self.instances == "separate":
            raise OptionError("a loss over the whole map has no separate instances; take loss='instances'")
        if self.loss == "random" and (self.crop, self.instances) != ("none", "joint"):
            raise OptionError("random signs have no loss to crop or to separate; take loss='instances'")

    @property
    def needs_instances(self) -> bool:
        """Whether the direction is nothing at all on an image without a face."""
        return self.loss == "instances" or self.crop == "erf"

    def choose(self, targets: Tensor) -> Tensor:
        """Those of an instance's ``targets`` (highest first) that this perturbation attacks."""
        return targets[:1] if self.targets == "highest" else targets

    def direction(
        self,
        detector: Detector,
        image: Tensor,
        targets: Sequence[Tensor],
        supports: Sequence[Support],
        generator: torch.Generator,
        shortcut: Shortcut = EXACT,
        recorded: Forward | None = None,
    ) -> Tensor:
        """R, the direction whose sign the attack steps against.

        Args:
            detector: the detector under attack.
            image: (1, 3, H, W) float RGB in 0..255, as it is at this step.
            targets: for each instance, the response indices to attack.
            supports: for each instance, e_i (the whole image where nothing is cropped).
            generator: used by random signs only.
            shortcut: what separate instances may leave out; by default nothing.
            recorded: the forward pass of ``image``, where it is at hand: it saves one.

        Returns:
            (1, 3, H, W).
        """
        if self.loss == "random":
            # One draw for all steps, or the steps would undo one another: the control uses the whole epsilon.
            state = generator.get_state()
            signs = torch.randint(0, 2, image.shape, generator=generator, dtype=torch.int8)
            generator.set_state(state)
            return (signs * 2 - 1).to(image)
        if self.instances == "separate":
            return cropped_sum(detector, image, targets, supports, shortcut, recorded)
        aimed = None if self.loss == "map" else torch.cat(list(targets))
        gradient = joint_gradient(detector, image, aimed, recorded)
        return gradient * union(supports, image) if self.crop == "erf" else gradient


IMP = Perturbation(name="imp", loss="map")
LP_W = Perturbation(name="lp-w", loss="map", crop="erf")
IMP_I = Perturbation(name="imp-i", loss="instances")
LP = Perturbation(name="lp", loss="instances", crop="erf")
LIP_A = Perturbation(name="lip-a", loss="instances", crop="erf", instances="separate")
LIP_H = Perturbation(name="lip-h", loss="instances", crop="erf", instances="separate", targets="highest")
RANDOM = Perturbation(name="random", loss="random")

#: LIP-H's targets without its separation, which tells the two apart.
LP_H = Perturbation(name="lp-h", loss="instances", crop="erf", targets="highest")

#: What every study runs.
PRESETS = {p.name: p for p in (IMP, LP_W, IMP_I, LP, LIP_A, LIP_H, RANDOM)}
#: What single studies run besides.
ABLATIONS = {p.name: p for p in (LP_H,)}


def preset(name: str) -> Perturbation:
    """The preset of that name, in any case.

    Raises:
        UnknownName: there is none; the message lists those there are.
    """
    known = PRESETS | ABLATIONS
    if name.lower() not in known:
        raise UnknownName("perturbation", name, known)
    return known[name.lower()]
