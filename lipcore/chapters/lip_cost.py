"""What LIP costs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching, find_instances
from lipcore.detectors import load_detector
from lipcore.graph.rules import UnsupportedOperation
from lipcore.report.page import Chart, Exhibit, Makes, Markup, NotMeasured, Page, Table, committed
from lipcore.report.style import detector_name
from lipcore.results import frame, shown_and_own
from lipcore.studies.base.study import Run
from lipcore.studies.cost.colouring import colour
from lipcore.studies.cost.figures import (
    colouring_figure,
    cost_figure,
    cost_table,
    layers_figure,
    memory_table,
    model_figure,
    peers_figure,
    peers_table,
    speedups_table,
    sweep_figure,
    tolerance_table,
)
from lipcore.studies.cost.lip_cost import Cell, LipCost
from lipcore.studies.cost.lip_speedups import ALLOCATOR
from lipcore.studies.cost.lip_tolerance import Tolerance
from lipcore.studies.cost.timing import Case, layers_of

#: A square of 120 px in the pictures, instead of the measured ERF: rectangles can be told apart, detectors compared.
FIXED = Extent(rule="fixed", value=120)


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    run = Run(profile=profile, detector=detector)
    tolerance, _ = shown_and_own(Tolerance().run(run))
    return Page("lip_cost", LipCost().run(run), FIGURES, TABLES, profile=profile, detector=detector, measured=tolerance)


def seconds(page: Page) -> Chart:
    """Seconds a step."""
    return Chart(
        cost_figure(page.rows),
        "Seconds a step against the number of faces, medians of turns.",
        "Seconds a step against the number of faces: one pass for each face rises steeply, the windows far less, IMP "
        "hardly.",
        cost_figure(page.rows, narrow=True),
    )


def model(page: Page) -> Chart:
    """Beside the cost model."""
    return Chart(
        model_figure(page.rows),
        "Measured ratio of a step to IMP's against what the cost model says, every cell of every detector. Bars: 95 % "
        "intervals over turns.",
        "Measured ratios against those of the cost model: near the line that the model draws, and mostly above it.",
    )


def memory(page: Page) -> Chart:
    """Memory of a step."""
    return Chart(
        cost_figure(page.rows, "peak_mb", "MB a step"),
        "Peak memory of a step against the number of faces; the naive loop's is that of two of its passes.",
        "Peak memory of a step against the number of faces, for IMP, the naive loop and the windows.",
    )


def _case(name: str, cell: Cell) -> Case:
    """Grids of faces as a detector finds them, those nearest to the middle first.

    Raises:
        NotMeasured: it finds none.
    """
    detector = load_detector(name)
    image = cell.draw(40)
    with torch.no_grad():
        responses = detector(image)
    found = find_instances(detector, responses, Matching())
    if not found:
        raise NotMeasured(f"Not shown: {detector_name(name)} finds no face on this grid.")
    found.sort(key=lambda i: float((i.box - image.shape[2] / 2).square().sum()))
    targets = [i.targets for i in found]
    return Case(detector, image, targets, FIXED.supports(detector, image, responses, found, targets))


def windows(page: Page) -> Chart:
    """One face's windows in some layers."""
    case = _case(page.detector, Cell(9, 704))
    try:
        layers = layers_of(case)
    except UnsupportedOperation as error:
        raise NotMeasured(f"Not shown: {error}.") from error
    return Chart(
        layers_figure(case.image, layers, case.supports[0]),
        "One face's windows, from the coarsest maps to the finest: e_i (yellow), the cone of its targets (blue, "
        "dashed), and the window, where the cone meets the reach of e_i (green). Each is the last convolution of its "
        "stride on the way down.",
        "One face's windows in some layers: its crop, the cone of its targets, and the rectangle where they meet.",
        sources=(),
    )


def colouring(page: Page) -> Chart:
    """Faces that could share a pass."""
    panels = []
    try:
        for name in dict.fromkeys((page.detector, "pnet")):
            case = _case(name, Cell(16, 704))
            panels.append((detector_name(name), case.image, case.supports, colour(case)))
    except UnsupportedOperation as error:
        raise NotMeasured(f"Not shown: {error}.") from error
    said = "; ".join(f"{name}: {coloured.passes} passes" for name, *_, coloured in panels)
    return Chart(
        colouring_figure(panels),
        "Faces that could share a backward pass, in one colour.",
        f"Faces on a grid with their crops, in as many colours as there must be passes. {said}.",
        sources=(),
    )


def suite(page: Page) -> Chart:
    """The benchmark suite."""
    bench = committed("lip_bench")
    return Chart(
        sweep_figure(frame(bench)),
        "Seconds a step in the benchmark suite.",
        "Seconds a step against faces, pixels, batch size and threads, for each detector.",
        sources=(bench,),
    )


def suite_memory(page: Page) -> Chart:
    """The benchmark suite's memory."""
    bench = committed("lip_bench")
    return Chart(
        sweep_figure(frame(bench), "peak_mb", "MB a step"),
        "Peak memory of a step in the benchmark suite.",
        "Peak memory of a step against faces, pixels, batch size and threads, for each detector.",
        sources=(bench,),
    )


def peers(page: Page) -> Chart:
    """Beside other libraries."""
    measured = committed("lip_peers")
    return Chart(
        peers_figure(frame(measured)),
        "Success against time, each point one attack on all images. Bars: 95 % intervals of success.",
        "Success against seconds an image for each library's attack, by epsilon, and the passes alone as a line.",
        sources=(measured,),
    )


def cells(page: Page) -> Iterator[Table]:
    """Every cell."""
    scaled = " *: some of the backward passes were timed, and scaled to all." if page.rows["scaled"].any() else ""
    for name in dict.fromkeys(page.rows["detector"]):
        yield Table(
            cost_table(page.rows, name),
            f"{detector_name(name)}, every cell. Small: 95 % intervals over turns.{scaled}",
        )


def gpu(page: Page) -> Iterator[Table]:
    """The same on a GPU."""
    measured = committed("lip_cost_cuda")
    rows = frame(measured)
    for name in dict.fromkeys(rows["detector"]):
        caption = f"{detector_name(name)} on {rows['machine'].iloc[0]}, every cell. Small: 95 % intervals over turns."
        yield Table(cost_table(rows, name), caption, sources=(measured,))


def large(page: Page) -> Table:
    """Memory on a large photograph."""
    measured = committed("lip_speedups")
    return Table(
        memory_table(frame(measured)), "Peak memory of one step on a large photograph, in MB.", sources=(measured,)
    )


def tolerance(page: Page) -> Table:
    """What a tolerance costs in success."""
    return Table(
        tolerance_table(frame(page.measured)),
        "Success exact and with a tolerance, and the largest leak found; 95 % intervals over images.",
        sources=(page.measured,),
    )


def speedups(page: Page) -> Iterator[Exhibit]:
    """What torch and the system offer."""
    measured = committed("lip_speedups")
    yield Table(
        speedups_table(frame(measured)),
        "Processor time of each variant over that of the detector as shipped, with 95 % intervals over turns.",
        sources=(measured,),
    )
    setting = " ".join(f"{name}={value}" for name, value in ALLOCATOR.items())
    yield Markup(f"<p>The allocator's setting, before Python starts: <code>{setting}</code></p>", sources=(measured,))


def libraries(page: Page) -> Table:
    """Every attack of the libraries."""
    measured = committed("lip_peers")
    return Table(
        peers_table(frame(measured)),
        "Success and time of each library's attack; small: 95 % intervals over images.",
        sources=(measured,),
    )


FIGURES: dict[str, Makes] = {
    "seconds": seconds,
    "windows": windows,
    "model": model,
    "colouring": colouring,
    "memory": memory,
    "suite": suite,
    "suite memory": suite_memory,
    "peers": peers,
}
TABLES: dict[str, Makes] = {
    "cells": cells,
    "GPU": gpu,
    "large photograph": large,
    "tolerance": tolerance,
    "speedups": speedups,
    "libraries": libraries,
}
