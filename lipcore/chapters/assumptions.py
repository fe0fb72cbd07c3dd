"""Assumptions: what the poster leaves open."""

from __future__ import annotations

from collections.abc import Iterator

from lipcore.report.page import OWN, Chart, Makes, Page, Table
from lipcore.report.style import detector_name, in_order
from lipcore.results import frame
from lipcore.studies.assumptions.figures import ablation_table, changes_figure
from lipcore.studies.assumptions.study import Assumptions
from lipcore.studies.base.study import Run


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    path = Assumptions().run(Run(profile=profile, detector=detector))
    return Page("assumptions", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def changes(page: Page) -> Iterator[Chart]:
    """How success moves when one answer is changed."""
    first, *others = in_order(page.results["provenance"]["detectors"])
    for name in (first, *others):
        figure, said = changes_figure(page.rows, name)
        caption = f"{detector_name(name)}: changes of attack success in points; filled: the three that matter."
        narrow, _ = changes_figure(page.rows, name, narrow=True)
        yield Chart(figure, caption, said, narrow, fold="" if name == first else f"The same on {detector_name(name)}")


def every(page: Page) -> Table:
    """Every variant."""
    return Table(
        ablation_table(page.rows),
        "Attack success and mean fall of a face's highest logit; bold: the book's default. 95 % intervals over images.",
        fold="Every variant",
    )


def own(page: Page) -> Table:
    """What this build measured."""
    return Table(
        ablation_table(frame(page.own)),
        "Attack success and mean fall of a face's highest logit; bold: the book's default.",
        fold=OWN,
        sources=(page.own,),
    )


FIGURES: dict[str, Makes] = {"changes": changes}
TABLES: dict[str, Makes] = {"every": every, "own": own}
