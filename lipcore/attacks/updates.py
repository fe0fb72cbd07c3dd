"""The update rules: FGSM (Goodfellow et al. 2015), I-FGSM (Kurakin et al. 2016), and steps on an L2 budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

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

    def step(self, x: Tensor, clean: Tensor, direction: Tensor) -> Tensor:
        """X_{t+1} = clip(X_t - alpha * sign(R_t)), within epsilon of ``clean`` and within 0..255; all (1, 3, H, W)."""
        low, high = (clean - self.epsilon).clamp_min(0), (clean + self.epsilon).clamp_max(255)
        return (x - self.alpha * direction.sign()).clamp(low, high)


@dataclass(frozen=True, kw_only=True)
class L2Steps(Update):
    """Steps along R itself, each of L2 length ``alpha``, within an L2 ball (Madry et al. 2018).

    A sign moves every pixel alike; here a pixel moves as much as it matters, and none where R is 0. By PSNR the noise
    is as visible as any other of length ``budget``.

    Attributes:
        budget: radius of the L2 ball around the clean image, in grey levels over all values together, >= 0.
    """

    budget: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_length("budget", self.budget)

    def step(self, x: Tensor, clean: Tensor, direction: Tensor) -> Tensor:
        """X_{t+1} = clip(X_t - alpha * R_t / |R_t|_2), within ``budget`` of ``clean`` and within 0..255."""
        moved = x - self.alpha * direction / direction.norm().clamp_min(1e-30) - clean
        inside = (self.budget / moved.norm().clamp_min(1e-30)).clamp(max=1)
        stepped: Tensor = (clean + moved * inside).clamp(0, 255)
        return stepped


def l2_steps(budget: float, steps: int = 10) -> L2Steps:
    """Steps within an L2 length of ``budget``, in grey levels of 0..255 over all values together.

    Each is 2.5 times the budget over their number, so that the ball's edge is reached whichever way they turn.

    Raises:
        OptionError: the budget is negative or not finite, or there is less than one step.
    """
    _check_length("budget", budget)
    return L2Steps(name="l2", epsilon=255.0, alpha=2.5 * budget / steps, steps=steps, budget=budget)


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
