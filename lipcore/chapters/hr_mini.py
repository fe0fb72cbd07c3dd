"""Appendix: how HR-mini was made."""

from __future__ import annotations

from lipcore.detectors.hr_mini import HRMini
from lipcore.report.page import Chart, Makes, Page, Table
from lipcore.studies.base.study import Run
from lipcore.studies.detectors.figures import (
    example_figure,
    examples,
    learning_figure,
    precision_table,
    recall_table,
    template_figure,
)
from lipcore.studies.detectors.hr_mini_eval import HRMiniEval
from lipcore.studies.detectors.hr_mini_table import TRAINING_LOG, training_log


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter; it is about HR-mini, whatever ``detector`` is."""
    path = HRMiniEval().run(Run(profile=profile))
    return Page("hr_mini", path, FIGURES, TABLES, profile=profile, images=images, measured=HRMini())


def learning(page: Page) -> Chart:
    """How it learned."""
    return Chart(
        learning_figure(training_log(TRAINING_LOG) if TRAINING_LOG.is_file() else []),
        "Learning curves of HR-mini, a point every five minutes. Average precision at one scale, score-sorted, faces "
        "from 10 px.",
        "Learning curves of HR-mini: the loss on boxes falls, average precision and recall on held-out photographs "
        "rise to the end.",
        sources=(),
    )


def templates(page: Page) -> Chart:
    """Its templates."""
    return Chart(
        template_figure(page.measured.sizes),
        "The templates of HR-mini, width x height in pixels: around one centre, and side by side.",
        "Rectangles of the templates of HR-mini from the smallest to the largest, around one centre and side by side.",
        sources=(),
    )


def found(page: Page) -> Chart:
    """What it finds and what it misses."""
    shown = examples(page.measured)
    return Chart(
        example_figure(page.measured, shown),
        "Detections of HR-mini at probability 0.5 and one scale: yellow true, red false, white dashes missed.",
        "A portrait and two generated crowds with yellow boxes around the faces that HR-mini finds: nearly all of "
        "them.",
        example_figure(page.measured, shown, narrow=True),
        sources=(),
    )


def precision(page: Page) -> Table:
    """Average precision."""
    return Table(
        precision_table(page.rows),
        "Average precision of HR-mini, in percent, with 95 % intervals over images.",
    )


def recall(page: Page) -> Table:
    """Recall of drawn faces."""
    return Table(
        recall_table(page.rows),
        "Recall of LFW faces drawn in grids, in percent, at probability 0.5, IoU 0.5 and one scale, with 95 % "
        "intervals over images.",
    )


FIGURES: dict[str, Makes] = {"found": found, "learning": learning, "templates": templates}
TABLES: dict[str, Makes] = {"precision": precision, "recall": recall}
