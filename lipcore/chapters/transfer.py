"""Noise on other detectors."""

from __future__ import annotations

from functools import partial

from lipcore.report.page import OWN, Chart, Makes, Page, Table
from lipcore.results import frame
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks.attack_figures import transfer_figure, transfer_table
from lipcore.studies.benchmarks.transfer import Transfer


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    path = Transfer().run(Run(profile=profile, detector=detector))
    return Page("transfer", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def maps(page: Page) -> Chart:
    """Noise made on each detector against faces hidden from each."""
    there = set(page.rows["treatment"])
    treatments = [t for t in ("none", "jpeg 75", "half size") if t in there]
    drawn = partial(transfer_figure, page.rows, _subset(page), "lip-a", treatments)
    return Chart(
        drawn(),
        "As it is, after JPEG at quality 75, and after shrinking to half size and back. Faces count that the target "
        "finds on the clean image after the same treatment.",
        "Three maps of noise made on each detector against faces hidden from each: dark on the diagonal, pale "
        "elsewhere, paler after JPEG and shrinking.",
        drawn(narrow=True),
    )


def every(page: Page) -> Table:
    """Every perturbation and treatment."""
    subset = _subset(page)
    faces = f"WIDER FACE's {subset} faces" if subset == "medium" else f"{subset} faces"
    return Table(
        transfer_table(page.rows, subset),
        f"Faces hidden, in percent, of {faces}, epsilon {page.rows['epsilon'].max():g}, {page.rows['n'].max()} "
        "images; small: 95 % intervals over images.",
        fold="Every perturbation and treatment",
    )


def own(page: Page) -> Table:
    """What this build measured."""
    rows = frame(page.own)
    return Table(
        transfer_table(rows, rows["subset"].iloc[-1]),
        "Faces hidden, in percent.",
        fold=OWN,
        sources=(page.own,),
    )


def _subset(page: Page) -> str:
    """Of which faces: a quick run has no subsets of WIDER FACE."""
    return "medium" if (page.rows["subset"] == "medium").any() else str(page.rows["subset"].iloc[0])


FIGURES: dict[str, Makes] = {"maps": maps}
TABLES: dict[str, Makes] = {"every": every, "own": own}
