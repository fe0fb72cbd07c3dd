"""Does interference exist? Grids of faces, by their number and distance."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from lipcore.known_fields import shipped_side
from lipcore.report.page import OWN, Chart, Makes, Markup, Page, Table, committed
from lipcore.report.style import detector_name
from lipcore.report.verdict_table import verdict_tables
from lipcore.results import frame, results_path, shown_and_own
from lipcore.studies.base.study import Run
from lipcore.studies.better_lip.figures import decision_table
from lipcore.studies.interference.config import POSTER_CELLS, PROFILES
from lipcore.studies.interference.figures import (
    cells_figure,
    distance_figure,
    epsilon_figure,
    faces_figure,
    grid_figure,
    ipi_figure,
    ipi_table,
)
from lipcore.studies.interference.study import Interference
from lipcore.studies.neighbours.figures import coefficient_figure, gain_table, hidden_by_all, success_figure
from lipcore.studies.reach.figures import reach_figure
from lipcore.studies.receptive_fields.study import sides
from lipcore.studies.unequal_faces.figures import small_table
from lipcore.studies.within_image.figures import coefficient_rows, unmeasured, where_it_ends
from lipcore.studies.within_image.study import full

#: The epsilons that are measured on the whole grid.
BOTH = (4.0, 2.0)
#: Those in the table of the poster's cells.
POSTER_EPSILONS = (*BOTH, 1.0)
#: Those whose faces were attacked alone.
SIDES = ("hr-mini", "centerface", "pnet")


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    path = Interference().run(Run(profile=profile, detector=detector))
    return Page("interference", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def ends(page: Page) -> Chart:
    """Where interference ends: every detector, alone against all."""
    within, earlier = committed("within_image"), committed("interference")
    found = coefficient_rows(within, {name: shipped_side(name) for name in SIDES}, earlier)
    return Chart(
        where_it_ends(found),
        "Of the fall in logit that an attack on one face alone achieves, the share that is lost when all are attacked "
        "(IMP-I). Filled: measured within the image, by rules written first; hollow: the first grids, seen before the "
        "rules. Larger points: more faces; shapes: epsilon, set a little apart. Dotted: a side of the receptive field. "
        "Bars: 95 % intervals over images and people.",
        "Interference coefficient against the distance in sides of the effective receptive field. On HR-mini it falls "
        "as faces stand farther apart, to nearly zero beyond one side; on CenterFace it falls from a third of a "
        "side to nearly nothing at one side; on P-Net it is zero.",
        where_it_ends(found, narrow=True),
        sources=(within, earlier),
    )


def reach(page: Page) -> Chart:
    """The experiment on the cause: one detector with three reaches."""
    measured = committed("reach")
    return Chart(
        reach_figure(measured),
        "HR-mini with a short, an even and a long reach: the share of a face's fall in logit that is lost when all "
        "nine are attacked (IMP-I, epsilon 2), by distance between edges, and between centres in sides of its own "
        "field. Dotted: where interference has ended by the rule. Bars: 95 % intervals over grids and people.",
        "Interference coefficient against distance for three HR-minis that differ in their reach alone.",
        reach_figure(measured, narrow=True),
        sources=(measured,),
    )


def photographs(page: Page) -> Chart:
    """The coefficient within photographs."""
    measured = committed("within_photo")
    return Chart(
        coefficient_figure(frame(measured)),
        "The same within photographs of crowds: up to six faces of each, attacked alone and among all, by the distance "
        "of their nearest neighbour. Bars: 95 % intervals over photographs.",
        "Interference coefficient within photographs of crowds by the distance of a face's nearest neighbour.",
        sources=(measured,),
    )


def neighbours(page: Page) -> Chart:
    """Success on photographs by the neighbour's distance."""
    measured = committed("neighbours")
    rows = frame(measured)
    gone = " and ".join(map(detector_name, hidden_by_all(rows)))
    return Chart(
        success_figure(rows),
        "Attack success on photographs by the distance of a face's nearest neighbour, where IMP-I hides nearest to "
        "half. Bars: 95 % intervals over photographs. Faces in different bins are different faces."
        + (f" Left out: {gone}, where every method hides nearly all faces at every distance." if gone else ""),
        "Attack success of IMP, IMP-I, LP and LIP-A by the distance of a face's nearest neighbour, on crowds and WIDER "
        "FACE; IMP-I, LP and LIP-A lie on one another at every distance.",
        success_figure(rows, narrow=True),
        sources=(measured,),
    )


def distance(page: Page) -> Chart:
    """Interference against distance in receptive fields."""
    fields, _ = shown_and_own(results_path("receptive_fields", page.profile))
    known = sides(fields["rows"])
    studied = {name: known[name] for name in detectors(page) if name in known}
    return Chart(
        distance_figure(page.rows, studied, BOTH),
        "Interference coefficient against the distance in sides of the 90 % square (in brackets). Every cell of the "
        "grid; a larger point has more faces, and a line joins cells of the same number.",
        "Interference coefficient against distance in receptive-field sides: under IMP-I it falls to nearly zero at "
        "about one side, under IMP it stays.",
        sources=(page.results, fields),
    )


def cells(page: Page) -> Chart:
    """What the grids look like."""
    return Chart(
        cells_figure(PROFILES[page.profile](page.detector)),
        "The first image of each of the poster's five cells.",
        "The five grids of the poster: 1 face, 9 faces at 40, 160 and 240 px, and 64 faces at 40 px, on grey.",
        sources=(),
    )


def success(page: Page) -> Chart:
    """Attack success in the poster's cells."""
    return Chart(
        ipi_figure(_of_poster(page.rows, BOTH), page.results["reported"]),
        "Attack success by number of faces and distance. Crosses: the poster's, on HR. Bars: 95 % intervals, clustered "
        "by image.",
        "Attack success of every perturbation in the poster's five cells, by detector and epsilon, with the poster's "
        "values as crosses.",
    )


def grid(page: Page) -> Chart:
    """Attack success on the whole grid."""
    first = detectors(page)[0]
    return Chart(
        grid_figure(page.rows, first, BOTH),
        f"Attack success (%) against {detector_name(first)} on the whole grid of faces and distances.",
        "Maps of attack success by number of faces and distance; it falls to the right of many, close faces.",
    )


def faces(page: Page) -> Chart:
    """Attack success against the number of faces."""
    return Chart(
        faces_figure(page.rows, detectors(page)[0], 40),
        "Attack success against the number of faces at 40 px. Bands: 95 % intervals.",
        "Attack success against the number of faces at 40 px: it falls with the number under IMP and less under the "
        "others.",
    )


def epsilon(page: Page) -> Chart:
    """Attack success against the strength."""
    return Chart(
        epsilon_figure(page.rows, detectors(page)[0], POSTER_CELLS),
        "Attack success against epsilon on the poster's cells. Bands: 95 % intervals.",
        "Attack success against epsilon in the poster's cells: all perturbations rise to 100 %.",
    )


def fall(page: Page) -> Chart:
    """How far the logits fall."""
    return Chart(
        ipi_figure(_of_poster(page.rows, BOTH), page.results["reported"], "logit_drop"),
        "Mean fall of a face's highest logit. Bars: 95 % intervals, clustered by image.",
        "Mean fall of a face's highest logit under every perturbation in the poster's cells.",
    )


def coefficient(page: Page) -> Chart:
    """The interference coefficient in the poster's cells."""
    return Chart(
        ipi_figure(_of_poster(page.rows, BOTH[:1]), page.results["reported"], "interference"),
        "Interference coefficient of each perturbation on the poster's cells, epsilon 4, against IMP-I on one face "
        "alone. For IMP-I, LP and LIP-A, above zero, others disturb a face's attack; IMP's and LP-W's hold the "
        "background's part too, and LIP-H's that it attacks a face's highest response alone.",
        "Interference coefficient of every perturbation in the poster's cells at epsilon 4; IMP's is largest.",
    )


def coefficient_grid(page: Page) -> Chart:
    """The interference coefficient on the whole grid."""
    first = detectors(page)[0]
    return Chart(
        grid_figure(page.rows, first, BOTH[:1], "interference"),
        f"Interference coefficient of every perturbation against {detector_name(first)} on the whole grid, epsilon 4.",
        "Maps of the interference coefficient of every perturbation by number of faces and distance.",
    )


def success_table(page: Page) -> Iterator[Table]:
    """Attack success in the poster's cells, a table for each detector."""
    for name in detectors(page):
        table = ipi_table(_of_poster(page.rows, POSTER_EPSILONS), page.results["reported"], name, POSTER_EPSILONS)
        yield Table(
            table,
            f"{detector_name(name)}: faces lost, in percent of those found before, I-FGSM; small: 95 % intervals. n: "
            "images, after the † those of the values marked so.",
        )


def unequal(page: Page) -> Table:
    """A small face among large ones."""
    measured = committed("unequal_faces")
    return Table(
        small_table(measured), "One small face amid eight large ones, with 95 % intervals.", sources=(measured,)
    )


def neighbours_table(page: Page) -> Table:
    """What methods differ by on the same faces, by the neighbour's distance."""
    measured = committed("neighbours")
    return Table(
        gain_table(frame(measured)),
        "Methods on the same faces, by the nearest neighbour's distance. In points: more faces hidden by the first of "
        "two; distance in sides of the receptive field; small: faces and 95 % intervals; the same: both hide the same "
        "faces. What LIP-A gains where neighbours are near is what separating buys.",
        sources=(measured,),
    )


def better(page: Page) -> Table:
    """LIP-W, LIP-V and the L2 budget, and what becomes of them."""
    judged = committed("verdicts")
    return Table(
        decision_table(judged["rows"]),
        "Success of the first less that of the second, in points with 95 % intervals. By the rule written before: a "
        "preset if above zero in one of the three and below zero in none.",
        sources=(judged,),
    )


def unmeasured_cells(page: Page) -> Markup:
    """What of the cells within images was planned and is not there."""
    within = committed("within_image")
    fold = "Cells of the grids within the image that were planned and not measured"
    return Markup(unmeasured(full(), within["rows"]), fold=fold, sources=(within,))


def own(page: Page) -> Iterator[Table]:
    """What this build measured."""
    rows = _of_poster(frame(page.own))
    for name in dict.fromkeys(rows["detector"]):
        strengths = sorted(set(rows["epsilon"]), reverse=True)
        yield Table(
            ipi_table(rows, page.results["reported"], name, strengths),
            f"{detector_name(name)}: faces lost, in percent, on few images.",
            fold=OWN,
            sources=(page.own,),
        )


def detectors(page: Page) -> list[str]:
    """The names of the detectors, the one under study first."""
    return list(page.results["provenance"]["detectors"])


def _of_poster(rows: pd.DataFrame, epsilons: tuple[float, ...] = ()) -> pd.DataFrame:
    """The rows of the poster's five cells."""
    chosen = rows[[cell in POSTER_CELLS for cell in zip(rows["faces"], rows["distance"], strict=True)]]
    return chosen[chosen["epsilon"].isin(epsilons)] if epsilons else chosen


FIGURES: dict[str, Makes] = {
    "ends": ends,
    "reach": reach,
    "photographs": photographs,
    "neighbours": neighbours,
    "distance": distance,
    "cells": cells,
    "success": success,
    "grid": grid,
    "faces": faces,
    "epsilon": epsilon,
    "fall": fall,
    "coefficient": coefficient,
    "coefficient grid": coefficient_grid,
}
TABLES: dict[str, Makes] = {
    "success": success_table,
    "neighbours": neighbours_table,
    "unequal": unequal,
    "better": better,
    "verdicts": verdict_tables(["C1", "C2", "C4", "C8"], dataset="grids"),
    "unmeasured": unmeasured_cells,
    "own": own,
}
