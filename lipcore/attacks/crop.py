"""The crop e_i of each face: how large it is (assumption A4), which pixels it holds, and its 0/1 mask C_ei."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lipcore.attacks.targets import Instance
from lipcore.detectors.base import Detector, Responses
from lipcore.errors import OptionError, UnknownName
from lipcore.known_fields import erf_of
from lipcore.receptive_field import MASSES, Erf, TemplateErf, gradient_map, mass_side


@dataclass(frozen=True)
class Support:
    """The pixels of e_i: a window of the image and a mask inside it (C_ei is 1 there, 0 elsewhere).

    Attributes:
        top, left: the window's first row and column.
        mask: (h, w) bool.
    """

    top: int
    left: int
    mask: Tensor

    @property
    def rows(self) -> slice:
        """The window's rows, to index an image."""
        return slice(self.top, self.top + self.mask.shape[0])

    @property
    def cols(self) -> slice:
        """The window's columns, to index an image."""
        return slice(self.left, self.left + self.mask.shape[1])


def squares(centres: Tensor, sides: Sequence[int], height: int, width: int) -> Support:
    """The union of centred squares, clipped to the image.

    Args:
        centres: (T, 2) x, y in pixels (a pixel's own centre is at its index + 0.5).
        sides: T sides in pixels.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        OptionError: a side that is not positive.
    """
    if min(sides) <= 0:
        raise OptionError(f"the sides of e_i are {sorted(set(sides))}; valid are positive numbers of pixels")
    side = torch.tensor(sides, dtype=torch.float64)
    corner = (centres.cpu().double() - side[:, None] / 2).round().long()
    limit = torch.tensor([width, height])
    first = torch.minimum(corner.clamp_min(0), limit - 1)
    last = torch.maximum(torch.minimum(corner + side[:, None].long(), limit), first + 1)
    left, top = first.amin(0).tolist()
    right, bottom = last.amax(0).tolist()
    mask = torch.zeros(bottom - top, right - left, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(first.tolist(), last.tolist(), strict=True):
        mask[y0 - top : y1 - top, x0 - left : x1 - left] = True
    return Support(top, left, mask.to(centres.device))


def whole_image(height: int, width: int, device: torch.device | None = None) -> Support:
    """The support that crops nothing."""
    return Support(0, 0, torch.ones(height, width, dtype=torch.bool, device=device))


def union(supports: Sequence[Support], image: Tensor) -> Tensor:
    """The 0/1 mask (H, W) of all e_i together, in the image's dtype."""
    mask = torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
    for support in supports:
        mask[support.rows, support.cols] |= support.mask
    return mask.to(image.dtype)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How large e_i is (assumption A4) and where its squares lie.

    Attributes:
        rule: ``"mass"``: at every target's centre the square that holds ``value`` of its template's gradient, measured
            on calibration images; ``"box"``: that square once, at the centre of the instance's box; ``"instance"``: as
            ``"mass"``, measured on this instance's own gradient on the clean image; ``"gaussian"``: the square that
            holds ``value`` of the fitted Gaussian; ``"fixed"``: a square of ``value`` pixels.
        value: a share in (0, 1], or pixels for ``"fixed"``; where a rule reads the tabulated masses, one of
            0.5, 0.75, 0.9, 0.95, 0.99.
    """

    rule: Literal["mass", "box", "instance", "gaussian", "fixed"] = "mass"
    value: float = 0.9

    def __post_init__(self) -> None:
        rules = ("mass", "box", "instance", "gaussian", "fixed")
        if self.rule not in rules:
            raise UnknownName("extent rule", self.rule, rules)
        if self.rule in ("mass", "box") and self.value not in MASSES:
            raise OptionError(f"value is {self.value}; for rule {self.rule!r} valid are {', '.join(map(str, MASSES))}")
        if self.rule == "fixed" and not self.value >= 1:
            raise OptionError(f"value is {self.value}; for rule 'fixed' valid is a number of pixels >= 1")
        if self.rule in ("instance", "gaussian") and not 0 < self.value < 1:
            raise OptionError(f"value is {self.value}; for rule {self.rule!r} valid is a share in (0, 1)")

    def side(self, template: TemplateErf) -> int:
        """The side in pixels of the square of a template."""
        if self.rule == "fixed":
            return int(self.value)
        if self.rule == "gaussian":
            return max(1, round(template.fit.side(self.value)))
        return template.sides[self.value]

    def supports(
        self,
        detector: Detector,
        image: Tensor,
        responses: Responses,
        instances: Sequence[Instance],
        targets: Sequence[Tensor],
        erf: Erf | None = None,
    ) -> list[Support]:
        """e_i of every instance: the union of the squares of its targets, clipped to the image.

        Args:
            detector: the detector under attack.
            image: (1, 3, H, W), clean.
            responses: its response map of ``image``.
            instances: the faces.
            targets: for each instance, the responses attacked.
            erf: the measured ERF; by default :func:`lipcore.known_fields.erf_of` the detector.
        """
        height, width = image.shape[2:]
        if erf is None and self.rule not in ("fixed", "instance"):
            erf = erf_of(detector)
        found = []
        for instance, own in zip(instances, targets, strict=True):
            centres = responses.centres[own]
            if self.rule == "instance":
                highest = int(own[0])
                centre = responses.centres[highest].tolist()
                side = mass_side(gradient_map(detector, image, highest).cpu().numpy(), centre, self.value)
                sides = [side] * len(own)
            elif erf is None:
                sides = [int(self.value)] * len(own)
            else:
                sides = [self.side(erf[t]) for t in responses.templates[own].tolist()]
            if self.rule == "box":
                centres, sides = (instance.box[:2] + instance.box[2:])[None] / 2, sides[:1]
            found.append(squares(centres, sides, height, width))
        return found
