"""One photograph: read, its faces hidden, written, and the written file looked at again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lipcore.attacks.hiding import Hidden, Hiding
from lipcore.detectors import tiles
from lipcore.detectors.base import Detections, Detector
from lipcore.images import check_output, load_image, save_image
from lipcore.metrics.success import Visibility, visibility

#: What became of a photograph: no face is found on the written file; some are; none was to begin with; the output was
#: there already; it could not be done.
Status = Literal["hidden", "found", "no face", "kept", "failed"]


@dataclass(frozen=True)
class Seen:
    """What one detector finds: boxes xyxy in pixels of the upright photograph, with the probability behind them.

    Attributes:
        before: how many faces on the photograph.
        after: the faces still found on the written file, five numbers each.
    """

    before: int
    after: list[list[float]]


@dataclass(frozen=True)
class Outcome:
    """What became of one photograph; every number is measured on the written file, read again.

    Attributes:
        photo: the file.
        output: the file written, or that was there; "" where there is none.
        status: see :data:`Status`.
        seen: of each detector attacked.
        epsilon: the radius at which the attack ended, in grey levels of 0..255.
        steps: how many it took.
        tiles: in how many parts the photograph was worked at.
        size: width and height in pixels.
        change: how far the file is from the photograph.
        seconds: of reading, hiding, writing and measuring.
        message: why it failed.
    """

    photo: str
    output: str = ""
    status: Status = "failed"
    seen: dict[str, Seen] = field(default_factory=dict)
    epsilon: float = 0.0
    steps: int = 0
    tiles: int = 1
    size: tuple[int, int] = (0, 0)
    change: Visibility | None = None
    seconds: float = 0.0
    message: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; an infinite PSNR (nothing was changed) is null."""
        content = asdict(self)
        if self.change is not None and math.isinf(self.change.psnr):
            content["change"]["psnr"] = None
        return content


def hide(
    photo: Path,
    output: Path,
    hiding: Hiding,
    detectors: Mapping[str, Detector],
    on_step: Callable[[int], None] | None = None,
) -> Outcome:
    """Hides the faces of ``photo`` from ``detectors`` and writes ``output``, whole or not at all.

    Raises:
        LipcoreError: the photograph cannot be read, holds no face that a detector finds, or the output cannot be
            written.
    """
    start = time.perf_counter()
    original = load_image(photo)
    check_output(output, original)
    models = list(detectors.values())
    device = models[0].device
    hidden = hiding(models, original.pixels.to(device), on_step=on_step)
    save_image(output, hidden.image, like=original)
    saved = load_image(output).pixels
    threshold = hiding.matching.tau_attack
    after = [tiles.detect(model, saved.to(device), threshold) for model in models]
    return Outcome(
        str(photo),
        str(output),
        "found" if any(map(len, after)) else "hidden",
        {name: Seen(len(b), listed(a)) for name, b, a in zip(detectors, hidden.before, after, strict=True)},
        hidden.epsilon,
        hidden.steps,
        hidden.tiles,
        (saved.shape[3], saved.shape[2]),
        visibility(original.pixels, saved),
        round(time.perf_counter() - start, 2),
    )


def listed(found: Detections) -> list[list[float]]:
    """Boxes with their probability behind, rounded for people."""
    return [
        [*(round(v, 1) for v in box), round(score, 3)]
        for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True)
    ]


__all__ = ["Hidden", "Outcome", "Seen", "Status", "hide", "listed"]
