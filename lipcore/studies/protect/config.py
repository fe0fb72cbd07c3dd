"""Which noise is made on which photographs, and who looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lipcore.datasets.crowds import CrowdPhoto, load_crowds
from lipcore.studies.protect.measure import CLEAN, UNTIL, Noise, Settings


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        detectors: each is attacked alone, with all others, and left out; and each looks at every photograph.
        photos: how many of the crowds.
        epsilon: of the fixed noise, in grey levels.
        alone: the one whose noise is also made until nothing is found.
        left_out: make the noise on all detectors but one, each in turn.
        combinations: further ways to weight the directions of all.
        settings: of every record.
    """

    detectors: tuple[str, ...]
    photos: int
    epsilon: float = 8.0
    alone: str = "centerface"
    left_out: bool = True
    combinations: tuple[str, ...] = ("first",)
    settings: Settings = field(default_factory=Settings)

    def noises(self) -> Iterator[Noise]:
        """Every kind of noise, what matters most first."""
        fixed = f"epsilon {self.epsilon:g}"
        yield CLEAN
        yield from (Noise((name,), fixed) for name in self.detectors)
        yield Noise(self.detectors, fixed)
        yield Noise((self.alone,), UNTIL)
        yield Noise(self.detectors, UNTIL)
        if self.left_out:
            for name in self.detectors:
                yield Noise(tuple(d for d in self.detectors if d != name), fixed)
        yield from (Noise(self.detectors, fixed, combine) for combine in self.combinations)

    def crowds(self) -> list[CrowdPhoto]:
        """The photographs, that of the fewest faces first: what a photograph takes grows with them."""
        return sorted(load_crowds(), key=len)[: self.photos]


#: The full profile takes about five minutes of one core for each photograph, the quick one twenty seconds.
PROFILES = {
    "quick": Config(detectors=("centerface", "hr-mini"), photos=1, combinations=()),
    "full": Config(detectors=("centerface", "retinaface", "hr-mini", "ssd-mobilenet", "tiny-yolo"), photos=24),
}
