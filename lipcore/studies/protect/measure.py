"""One photograph, hidden from some detectors, then looked at by all of them after what happens to a shared file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipcore.attacks.hiding import Hidden, Hiding
from lipcore.attacks.targets import Matching
from lipcore.detectors.base import Detector
from lipcore.errors import NoFaceFound
from lipcore.images import quantise
from lipcore.metrics.success import found, visibility
from lipcore.treatments import TREATMENTS

#: The source of a clean photograph, and what stands between the names of several sources.
NONE, AND = "none", "+"
UNTIL = "until hidden"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a record depends on besides its unit and its detectors.

    Attributes:
        method: the perturbation.
        tau: probability from which a detection counts.
        iou: overlap with a face that a detection needs to be its own.
    """

    method: str = "lip-a"
    tau: float = 0.5
    iou: float = 0.5


@dataclass(frozen=True)
class Noise:
    """One way to hide a photograph.

    Attributes:
        sources: the detectors it is made on; none for the clean photograph.
        strength: :data:`UNTIL` or ``"epsilon N"``; "" for the clean photograph.
        combine: how several directions are weighted; see :class:`Hiding`.
    """

    sources: tuple[str, ...] = ()
    strength: str = ""
    combine: str = "mass"

    @property
    def entries(self) -> dict[str, str]:
        """What a record says of it."""
        return {"detector": AND.join(self.sources) or NONE, "strength": self.strength, "combine": self.combine}


CLEAN = Noise()


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph of whatever dataset.

    Attributes:
        name: as records name it.
        faces: (N, 4) xyxy in pixels, those that count.
        read: gives the pixels (H, W, 3), RGB in 0..255.
    """

    name: str
    faces: NDArray[np.float64] = field(repr=False)
    read: Callable[[], NDArray[np.uint8]] = field(repr=False)


def made(settings: Settings, noise: Noise, detectors: Mapping[str, Detector], image: Tensor) -> Hidden | None:
    """The photograph (1, 3, H, W) with that noise; None where its sources find no face."""
    hiding = Hiding(
        perturbation=settings.method,
        combine=noise.combine,  # type: ignore[arg-type]
        matching=Matching(tau_attack=settings.tau),
    )
    if noise.strength != UNTIL:
        epsilon = float(noise.strength.removeprefix("epsilon "))
        hiding = Hiding(
            perturbation=hiding.perturbation,
            combine=hiding.combine,
            matching=hiding.matching,
            ladder=(epsilon,),
            until_hidden=False,
        )
    try:
        return hiding([detectors[name] for name in noise.sources], image)
    except NoFaceFound:
        return None


def measured(
    settings: Settings, noise: Noise, photo: Photo, detectors: Mapping[str, Detector], targets: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """For each target what it finds of the photograph with that noise, after each treatment.

    ``faces`` has for each treatment a string with a 1 for each counted face that is found; ``count`` the number of
    detections, those of no counted face too. What making the noise took is among the first target's seconds.
    """
    start = time.perf_counter()
    device = next(iter(detectors.values())).device
    image = torch.from_numpy(photo.read().copy()).permute(2, 0, 1)[None].float().to(device)
    truth = torch.from_numpy(photo.faces)
    hidden = made(settings, noise, detectors, image) if noise.sources else None
    saved = image if hidden is None else quantise(hidden.image)
    change = visibility(image, saved)
    shared = {
        "epsilon": 0.0 if hidden is None else hidden.epsilon,
        "steps": 0 if hidden is None else hidden.steps,
        "l2": round(change.l2, 4),
        "touched": round(change.touched, 4),
    }
    for target in targets:
        seen = {name: detectors[target].detect(treat(saved), settings.tau)[0] for name, treat in TREATMENTS.items()}
        faces = {
            name: "".join(str(int(f)) for f in found(truth, each.boxes.cpu().double(), settings.iou))
            for name, each in seen.items()
        }
        count = {name: len(each) for name, each in seen.items()}
        yield shared | {"faces": faces, "count": count, "seconds": round(time.perf_counter() - start, 2)}
        start = time.perf_counter()
