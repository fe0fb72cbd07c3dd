"""What the noise looks like, on crowds that may be shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lipcore.detectors import Detector
from lipcore.report.page import OWN, Makes, Markup, Page, Table, committed
from lipcore.report.pictures import captioned
from lipcore.report.style import detector_name, in_order
from lipcore.results import frame
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks.attack_figures import visible_rows
from lipcore.studies.noise import crowd
from lipcore.studies.noise.figures import noise_pictures, visibility_table
from lipcore.studies.noise.study import Noise, Shown


@dataclass(frozen=True)
class Attacked:
    """What this build attacked: images under each perturbation."""

    detector: Detector
    shown: list[Shown]

    @property
    def first(self) -> str:
        """The name of the first image on which a face is found."""
        return next(s.scene.name for s in self.shown if s.perturbation)


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Attacks some photographs and opens the chapter."""
    run = Run(profile=profile, detector=detector, data=Path(images) if images else None)
    path, shown = Noise().shown(run)
    measured = Attacked(run.load(detector), shown)
    return Page("noise", path, FIGURES, TABLES, profile=profile, detector=detector, images=images, measured=measured)


def noise(page: Page) -> Markup:
    """One photograph clean and attacked, beside its noise."""
    of: Attacked = page.measured
    kept = [s for s in of.shown if s.scene.name == of.first and s.perturbation in ("", "imp", "imp-i", "lip-a")]
    source = "" if page.images else f" <small>{crowd.credit(of.first)}</small>"
    caption = (
        f"Epsilon {page.results['config']['epsilon']:g}. What {detector_name(of.detector.name)} finds: yellow boxes "
        f"are right, red ones wrong, white ones faces. Beside it the noise, 16 times as strong; grey is none.{source}"
    )
    return Markup(captioned(noise_pictures(kept), caption), sources=())


def slider(page: Page) -> Markup:
    """The same photograph before and after, at three strengths."""
    of: Attacked = page.measured
    scene = crowd.scene_for(page.images) if page.images else crowd.scene_of(of.first)
    return Markup(crowd.slider(of.detector, scene, ("lip-a", "imp"), epsilon=(4, 2, 1)), sources=())


def visibility(page: Page) -> Iterator[Table]:
    """All crowds in numbers."""
    crowds = committed("crowds")
    rows = frame(crowds)
    for epsilon, fold in ((2.0, ""), (4.0, "The same at epsilon 4")):
        for name in in_order(rows["detector"]):
            chosen = visible_rows(rows, detector=name, update="i-fgsm", epsilon=epsilon)
            of = f"{chosen['n'].max()} photographs of crowds, I-FGSM at epsilon {epsilon:g}"
            if len(chosen):
                caption = f"{detector_name(name)} on {of}."
                yield Table(visibility_table(chosen), caption, fold=fold, sources=(crowds,))


def own(page: Page) -> Table:
    """What this build measured."""
    name = detector_name(page.measured.detector.name)
    return Table(
        visibility_table(page.rows),
        f"{name} at epsilon {page.results['config']['epsilon']:g}, by this build.",
        fold=OWN,
    )


FIGURES: dict[str, Makes] = {"noise": noise, "slider": slider}
TABLES: dict[str, Makes] = {"visibility": visibility, "own": own}
