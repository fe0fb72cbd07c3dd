"""Why: receptive fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.datasets.photographs import photos
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Responses
from lipcore.receptive_field import gradient_map
from lipcore.report.page import Chart, Makes, NotMeasured, Page, Table
from lipcore.report.style import detector_name
from lipcore.report.verdict_table import verdict_tables
from lipcore.studies.base.study import Run
from lipcore.studies.receptive_fields.figures import (
    erf_figure,
    erf_table,
    fields_figure,
    gradient_figure,
    overlap_figure,
    support_figure,
)
from lipcore.studies.receptive_fields.study import Fields, ReceptiveFields


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures the fields of the detector under study and of those beside it, and opens the chapter."""
    path, fields = ReceptiveFields().fields(Run(profile=profile, detector=detector))
    return Page(
        "receptive_fields", path, FIGURES, TABLES, profile=profile, detector=detector, images=images, measured=fields
    )


def sides(page: Page) -> Chart:
    """All detectors and templates."""
    return Chart(
        fields_figure(page.rows),
        "Effective and theoretical receptive fields of every detector and template. Sides in pixels on a logarithmic "
        "scale.",
        "Sides of effective and theoretical receptive fields of every detector and template on a logarithmic scale.",
        fields_figure(page.rows, narrow=True),
    )


def gradients(page: Page) -> Iterator[Chart]:
    """One response's gradient, for each detector."""
    for name, own in page.measured.items():
        title = detector_name(name) if len(own.erf) == 1 else f"{detector_name(name)}, {own.middle.template}"
        yield Chart(
            erf_figure(title, own.middle, own.trf[own.middle.template]),
            f"{title}: mean gradient of a response over {own.middle.n} calibration images, the Gaussian fitted to it, "
            "and both summed over rows.",
            f"{title}: a response's mean gradient as a bright blob, the Gaussian fitted to it, and both summed over "
            "rows; squares mark 50 and 90 % of the mass and the theoretical field.",
            fold="What this build measured by itself, on few images",
            sources=(),
        )


@dataclass(frozen=True)
class Attacked:
    """An image and what would be attacked on it."""

    fields: Fields
    image: Tensor
    responses: Responses
    instances: list[Instance]


def attacked(page: Page) -> Attacked:
    """The reader's first photograph, or a grid of nine faces, with what the detector under study finds.

    Raises:
        NotMeasured: it finds nothing.
    """
    first: Fields = next(iter(page.measured.values()))
    image = next(photos(page.images))[1] if page.images else Grid(faces=9, distance=80).draw(0).image
    with torch.no_grad():
        responses = first.detector(image)
    instances = find_instances(first.detector, responses, Matching())
    if not instances:
        raise NotMeasured(f"Not shown: {detector_name(first.detector.name)} finds no face on this image.")
    return Attacked(first, image, responses, instances)


def face(page: Page) -> Chart:
    """The gradient of one face."""
    of = attacked(page)
    one = of.instances[0]
    gradient = gradient_map(of.fields.detector, of.image, int(one.targets[0]))
    return Chart(
        gradient_figure(of.image, one.box, gradient),
        f"The most confident detection of {detector_name(of.fields.detector.name)} and its gradient, as the square "
        "root of its size.",
        "An image with one detection, and that detection's gradient: brightest on the face, fading outwards.",
        sources=(),
    )


def crops(page: Page) -> Chart:
    """The crops of all faces."""
    of = attacked(page)
    targets = [i.targets for i in of.instances]
    supports = Extent().supports(of.fields.detector, of.image, of.responses, of.instances, targets, of.fields.erf)
    return Chart(
        support_figure(of.image, supports, torch.stack([i.box for i in of.instances])),
        "The detections, and their crops laid over one another.",
        "An image with faces, and the crops of all of them laid over one another, brighter where more overlap.",
        sources=(),
    )


def overlap(page: Page) -> Chart:
    """How far neighbours' squares overlap."""
    return Chart(
        overlap_figure(page.rows),
        "Share of a face's 90 % square that its neighbour's square covers, for 40 px faces.",
        "Share of a face's crop that its neighbour's covers, falling with the distance between them.",
    )


def every(page: Page) -> Table:
    """All detectors and templates in numbers."""
    return Table(
        erf_table(page.rows),
        "Receptive fields of every detector and template. Sides in pixels; in percent: the gradient's mass in a square "
        "of that side.",
    )


FIGURES: dict[str, Makes] = {
    "sides": sides,
    "gradients": gradients,
    "face": face,
    "crops": crops,
    "overlap": overlap,
}
TABLES: dict[str, Makes] = {"fields": every, "verdicts": verdict_tables(["C3"])}
