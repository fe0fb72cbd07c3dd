"""The update rules: FGSM (Goodfellow et al. 2015) and I-FGSM (Kurakin et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lipcore.errors import OptionError, UnknownName


@dataclass(frozen=True, kw_only=True)
class Update:
    """How far a direction is followed, all in units of 0..255.

    Attributes:
        name: as results name it.
        epsilon: radius of the L-infinity ball around the clean image, >= 0; a saved image is rounded to whole numbers,
            so a fraction of it is then rounded too.
        alpha: length of a step, >= 0.
        steps: number of steps, >= 1.
    """

    name: str
    epsilon: float
    alpha: float
    steps: int

    def __post_init__(self) -> None:
        for key in ("epsilon", "alpha"):
            _check_length(key, getattr(self, key))
        if self.steps < 1:
            raise OptionError(f"steps is {self.steps}; valid is a whole number >= 1")


def _check_length(key: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise OptionError(f"{key} is {value}; valid is a number >= 0, in grey levels of 0..255")


def fgsm(epsilon: float) -> Update:
    """One step of epsilon, in grey levels of 0..255."""
    return Update(name="fgsm", epsilon=epsilon, alpha=epsilon, steps=1)


def i_fgsm(epsilon: float) -> Update:
    """Steps of 1 grey level of 0..255, N = ceil(min(epsilon + 4, 1.25 epsilon)) (Kurakin et al. 2016, section 2.2)."""
    _check_length("epsilon", epsilon)
    return Update(name="i-fgsm", epsilon=epsilon, alpha=1.0, steps=max(1, math.ceil(min(epsilon + 4, 1.25 * epsilon))))


UPDATES: dict[str, Callable[[float], Update]] = {"fgsm": fgsm, "i-fgsm": i_fgsm}


def update_rule(name: str, epsilon: float) -> Update:
    """The update rule of that name at ``epsilon``.

    Raises:
        UnknownName: there is none; the message lists those there are.
        OptionError: ``epsilon`` is negative or not finite.
    """
    if name.lower() not in UPDATES:
        raise UnknownName("update rule", name, UPDATES)
    return UPDATES[name.lower()](epsilon)
