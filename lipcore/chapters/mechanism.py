"""What weakens IMP? The parts of its direction at a face."""

from __future__ import annotations

from lipcore.detectors import load_detector
from lipcore.report.page import Chart, Makes, Page, Table
from lipcore.studies.base.study import Run
from lipcore.studies.mechanism.figures import (
    efficiency_figure,
    flip_figure,
    order_table,
    part_figure,
    saturation_figure,
    sign_figure,
    tau_table,
)
from lipcore.studies.mechanism.split import PROFILES
from lipcore.studies.mechanism.study import Mechanism


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    path = Mechanism().run(Run(profile=profile, detector=detector))
    return Page("mechanism", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def parts(page: Page) -> Chart:
    """Who makes the gradient at a face."""
    return Chart(
        part_figure(page.rows),
        "Shares of the summed absolute gradients inside a face's crop, before each step of I-FGSM at epsilon 4, "
        "means over the faces looked at.",
        "Stacked bars of whose gradient lies inside a face's crop at each step: under IMP the background's share "
        "grows, under IMP-I there is none.",
        part_figure(page.rows, narrow=True),
    )


def flips(page: Page) -> Chart:
    """Who decides the sign."""
    return Chart(
        flip_figure(page.rows),
        "Share of the values in a face's crop at which the sign of R is not that of the face's own gradient. At 50 %, "
        "R says nothing about this face. Bands: 95 % intervals.",
        "Share of values in a face's crop whose sign is not the face's own, against the step, by cause.",
    )


def signs(page: Page) -> Chart:
    """Where on one face the sign is whose."""
    return Chart(
        sign_figure(load_detector(page.detector), PROFILES[page.profile], (9, 40)),
        "One face and its crop, each pixel coloured by the part that decides the sign of R there, on the clean image.",
        "One face of nine, and its crop under IMP and IMP-I, each pixel coloured by the part that decides the sign.",
        sources=(),
    )


def efficiency(page: Page) -> Chart:
    """What a step is worth to one face."""
    return Chart(
        efficiency_figure(page.rows),
        "First-order efficiency of a step for one face's own loss, on the clean image. Bars: 95 % intervals, clustered "
        "by image.",
        "What a step of each perturbation is worth to one face, in percent of the best step for it.",
    )


def saturation(page: Page) -> Chart:
    """How a face's weight in the loss fades."""
    return Chart(
        saturation_figure(page.rows),
        "Mean probability of a face's targets after each step, which is the mean weight of their gradients in the "
        "loss.",
        "Mean probability of a face's targets after each step; it falls to nearly zero under IMP-I and stays higher "
        "under IMP.",
    )


def order(page: Page) -> Table:
    """What one tiny step does to the summed loss."""
    return Table(
        order_table(page.rows),
        "Fall of the summed loss of all faces in one step of 0.01 grey levels, in percent of the best possible, and on "
        "how many images each inequality holds.",
    )


def tau(page: Page) -> Table:
    """Success by the threshold."""
    return Table(
        tau_table(page.rows),
        "Faces lost, in percent of those found on the clean image at the same tau, with 95 % intervals.",
    )


FIGURES: dict[str, Makes] = {
    "parts": parts,
    "flips": flips,
    "signs": signs,
    "efficiency": efficiency,
    "saturation": saturation,
}
TABLES: dict[str, Makes] = {"order": order, "tau": tau}
