"""Page 1: can noise hide a crowd?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lipcore.detectors import load_detector
from lipcore.paths import ROOT
from lipcore.report.claims import CLAIMS, claim_table
from lipcore.report.page import Chart, Makes, Markup, Page, Table, committed
from lipcore.report.verdict_table import verdict_tables
from lipcore.studies.benchmarks.overview import steps_figure
from lipcore.studies.noise import crowd


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Opens the page, which is of the full run alone, but for its photograph."""
    path = ROOT / "results" / "full" / "wider_attack.json"
    return Page("paper", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def slider(page: Page) -> Markup:
    """A crowd before and after."""
    methods = ("lip-a", "imp", "imp-i", "lp")
    scene = crowd.scene_for(page.images)
    return Markup(crowd.slider(load_detector(page.detector), scene, methods, epsilon=2), sources=())


def steps(page: Page) -> Chart:
    """From the whole-image attack to LIP, step by step."""
    title = "WIDER FACE, medium faces"
    drawn = partial(steps_figure, page.rows, page.results["reported"], epsilon=2.0, subsets=["medium"], title=title)
    return Chart(
        drawn(),
        "One thing changes from step to step. On CenterFace and HR-mini the jump is from IMP to IMP-I, where the loss "
        "changes and nothing is cropped; on RetinaFace and SSD-MobileNet it is small, and Tiny YOLO loses all faces.",
        "Share of faces hidden by IMP, IMP-I, LP, LIP-A and LIP-H on each detector, with intervals. CenterFace rises "
        "by a half from IMP to IMP-I, HR-mini by a third, RetinaFace hardly; IMP-I, LP and LIP-A lie on one height, "
        "and LIP-H falls below.",
        drawn(narrow=True),
    )


def claims(page: Page) -> list[Table]:
    """Which claims hold, and every verdict with its effect."""
    judged = committed("verdicts")
    table = claim_table(judged["rows"])
    caption = "Every claim, step by step: the word, and the effect on each detector, in points where it has no unit."
    every = verdict_tables([claim.id for claim in CLAIMS], kinds=(True,))(page)
    return [
        Table(table, caption, fold="", sources=(judged,)),
        *(replace(verdicts, fold="Every verdict with its effect") for verdicts in every),
    ]


FIGURES: dict[str, Makes] = {"slider": slider, "steps": steps}
TABLES: dict[str, Makes] = {"claims": claims}
