"""Which noise is made on which photographs, and who looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lipcore.studies.protect.measure import CLEAN, UNTIL, Noise, Settings


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        detectors: each is attacked alone and with all others, and each looks at every photograph.
        photos: how many photographs.
        epsilon: of the fixed noise, in grey levels.
        alone: the one whose noise is also made until nothing is found, as is that of all; empty: neither is.
        left_out: make the noise on all detectors but one too; on each photograph the next one is left out.
        combinations: further ways to weight the directions of all.
        compared: on how many photographs.
        settings: of every record.
    """

    detectors: tuple[str, ...]
    photos: int
    epsilon: float = 8.0
    alone: str = "centerface"
    left_out: bool = True
    combinations: tuple[str, ...] = ("first",)
    compared: int = 8
    settings: Settings = field(default_factory=Settings)

    def noises(self, place: int) -> Iterator[tuple[Noise, tuple[str, ...]]]:
        """Every kind of noise that the photograph at ``place`` gets, and who looks at it; what matters most first.

        Noise against four of five costs as much as four alone: five times that on each photograph would be half of all
        work. Each photograph is looked at by one that was left out, all in turn.
        """
        fixed = f"epsilon {self.epsilon:g}"
        everyone = self.detectors
        yield CLEAN, everyone
        yield from ((Noise((name,), fixed), everyone) for name in everyone)
        yield Noise(everyone, fixed), everyone
        if self.left_out:
            stranger = everyone[place % len(everyone)]
            yield Noise(tuple(name for name in everyone if name != stranger), fixed), (stranger,)
        if self.alone:
            yield Noise((self.alone,), UNTIL), (self.alone,)
            yield Noise(everyone, UNTIL), everyone
        if place < self.compared:
            yield from ((Noise(everyone, fixed, combine), everyone) for combine in self.combinations)


EVERYONE = ("centerface", "retinaface", "hr-mini", "ssd-mobilenet", "tiny-yolo")
#: The full profile takes about a minute and a half of one core for each photograph, the quick one twenty seconds.
PROFILES = {
    "quick": Config(detectors=("centerface", "hr-mini"), photos=1, combinations=()),
    "full": Config(detectors=EVERYONE, photos=24),
}
#: On WIDER FACE, whose images are three times as large as the crowds, the command's own noise, LP, of one epsilon.
WIDER = {
    "full": Config(detectors=EVERYONE, photos=41, alone="", combinations=(), settings=Settings(method="lp")),
}
