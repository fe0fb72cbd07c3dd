"""Does this protect my photograph?"""

from __future__ import annotations

from collections.abc import Iterator

from lipcore.report.page import Chart, Makes, Page, Table, committed
from lipcore.results import frame
from lipcore.studies.base.study import Run
from lipcore.studies.protect.figures import combinations, heat_map, strengths, who_sees
from lipcore.studies.protect.study import Protect


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    path = Protect().run(Run(profile=profile, detector=detector))
    return Page("protect", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def hidden(page: Page) -> Chart:
    """The answer in one map."""
    return Chart(
        heat_map(page.rows),
        "Faces hidden from the detector that looks, in percent, over all detectors: whom the noise was made against, "
        "and what happened to the file. A face counts that the detector finds on the clean photograph after the same "
        "treatment. In brackets: how many that are, on the file itself; each counts once for every detector that looks "
        "and every noise.",
        "Heat map: rows say whom the noise was made against, columns what happened to the file; each cell is the share "
        "of faces hidden.",
        heat_map(page.rows, narrow=True),
    )


def on_wider(page: Page) -> Chart:
    """The same map on WIDER FACE."""
    measured = committed("protect_wider")
    return Chart(
        heat_map(frame(measured), "LP"),
        "The same on WIDER FACE, medium faces, with LP, which is what the command makes.",
        "Heat map of WIDER FACE: rows say whom the noise was made against, columns what happened to the file; each "
        "cell is the share of faces hidden.",
        heat_map(frame(measured), "LP", narrow=True),
        sources=(measured,),
    )


def who_sees_wider(page: Page) -> Table:
    """Who still sees the faces of WIDER FACE."""
    measured = committed("protect_wider")
    return Table(
        who_sees(frame(measured)),
        "Faces of WIDER FACE hidden by LP, in percent, and in brackets of how many that the detector finds: the file "
        "as it was written.",
        fold="",
        sources=(measured,),
    )


def detectors(page: Page) -> Iterator[Table]:
    """Who still sees the faces."""
    ways = {
        "none": ("", "the file as it was written"),
        "jpeg 75": ("After a JPEG of quality 75", "sent as a JPEG of quality 75"),
        "half size": ("After shrinking to half the size", "shrunk to half its size and back"),
    }
    for treatment, (fold, words) in ways.items():
        caption = f"Faces hidden, in percent, and in brackets of how many that the detector finds: {words}."
        yield Table(who_sees(page.rows, treatment), caption, fold=fold)


def epsilons(page: Page) -> Table:
    """As light as it takes."""
    return Table(strengths(page.rows), "Noise until nothing is found, and noise of a fixed epsilon.")


def weights(page: Page) -> Table:
    """How several detectors become one direction."""
    return Table(combinations(page.rows), "Faces hidden from each of the detectors attacked together, in percent.")


FIGURES: dict[str, Makes] = {"hidden": hidden, "wider": on_wider}
TABLES: dict[str, Makes] = {"detectors": detectors, "wider": who_sees_wider, "epsilons": epsilons, "weights": weights}
