"""WIDER FACE: the poster's central table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from lipcore.report.page import OWN, Chart, Makes, Page, Table, committed
from lipcore.report.style import detector_name, in_order
from lipcore.report.verdict_table import verdict_tables
from lipcore.results import frame
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks.attack_figures import (
    attack_caption,
    attack_table,
    bins_figure,
    found_table,
    strength_figure,
    visible_rows,
)
from lipcore.studies.benchmarks.overview import steps_figure
from lipcore.studies.benchmarks.wider_attack import WiderAttack
from lipcore.studies.noise.figures import visibility_table
from lipcore.studies.visibility.figures import LABELS, visibility_figure


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    path = WiderAttack().run(Run(profile=profile, detector=detector))
    return Page("wider_face", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def attacked(page: Page) -> str:
    """What was attacked, in words: a quick run has no WIDER FACE."""
    return "WIDER FACE" if page.results["profile"] == "full" else "crowds"


def strength(page: Page) -> float:
    """The epsilon at which methods differ, or the largest there is."""
    return 2.0 if (page.rows["epsilon"] == 2).any() else float(page.rows["epsilon"].max())


def steps(page: Page) -> Chart:
    """From the whole-image attack to LIP, step by step, on all sets of faces."""
    known = set(page.rows["subset"])
    subsets = [s for s in ("easy", "medium", "hard", "all") if s in known]
    drawn = partial(
        steps_figure,
        page.rows,
        page.results["reported"],
        epsilon=strength(page),
        subsets=subsets,
        title=attacked(page),
    )
    return Chart(
        drawn(),
        "One thing changes from step to step: the loss, which covers the faces alone from IMP-I on; the crop, from LP "
        "on; each face by itself, in LIP-A; one target a face, in LIP-H. Bars: 95 % intervals over images. In "
        "brackets: the images with at least one such face that the detector finds. Crosses: the poster's values, whose "
        "step from IMP to LP CenterFace makes, by the loss alone (IMP-I); those to LIP-A and LIP-H it does not.",
        "Share of faces hidden by IMP, IMP-I, LP, LIP-A and LIP-H, a panel for easy, medium and hard faces, a line for "
        "each detector, and the poster's four values. In all panels the lines of CenterFace and HR-mini climb from IMP "
        "to IMP-I and are level from there to LIP-A; SSD-MobileNet's and RetinaFace's are nearly level all along, Tiny "
        "YOLO's at 100 %.",
        drawn(narrow=True),
    )


def strengths(page: Page) -> Iterator[Chart]:
    """Against the strength of the noise."""
    images = page.rows[page.rows["metric"] == "asr"].groupby("epsilon")["n"].max()
    counts = ", ".join(f"{n} at {epsilon:g}" for epsilon, n in images.items())
    yield Chart(
        strength_figure(page.rows, "i-fgsm"),
        f"I-FGSM at each epsilon. Bars: 95 % intervals over images (at most {counts}).",
        "Attack success of every perturbation against epsilon, by detector and subset; all come near 100 % at 8.",
    )
    if (page.rows["update"] == "fgsm").any():
        yield Chart(
            strength_figure(page.rows, "fgsm"),
            "One step (FGSM) at each epsilon. Bars: 95 % intervals over images.",
            "Attack success of every perturbation with one step against epsilon, by detector and subset.",
            fold="The same with one step (FGSM)",
        )


def bins(page: Page) -> Chart:
    """Which faces are lost."""
    return Chart(
        bins_figure(page.rows, "i-fgsm", strength(page)),
        f"Attack success at epsilon {strength(page):g} by a face's height, and by the number of faces that count in "
        "its image.",
        "Attack success by a face's height and by the number of faces of its image, for each detector and "
        "perturbation.",
    )


def equally_visible(page: Page) -> Iterator[Chart]:
    """Success against how visible the noise is, on photographs and grids."""
    measured = committed("visibility")
    for metric, label in LABELS.items():
        yield Chart(
            visibility_figure(frame(measured), metric),
            f"Attack success against {label.partition(' (')[0]}; a point for each epsilon, by its shape; LP is "
            "broad, as LIP-A lies on it. All points of a panel are of the same images, counted are those that "
            "have a face to hide. Bands: 95 % intervals over images.",
            f"Attack success against {label.partition(' (')[0]} for IMP, IMP-I, LP and LIP-A on each detector: LP and "
            "LIP-A lie on one another, above IMP-I, and that above IMP.",
            visibility_figure(frame(measured), metric, narrow=True) if metric == "psnr" else None,
            fold="" if metric == "psnr" else f"The same against {label.partition(' (')[0]}",
            sources=(measured,),
        )


def at_strength(page: Page) -> Iterator[Table]:
    """Beside the poster's."""
    yield from _tables(page, strength(page))


def at_eight(page: Page) -> Iterator[Table]:
    """Where nearly every attack succeeds."""
    yield from _tables(page, 8.0, fold="Tables at epsilon 8")


def _tables(page: Page, epsilon: float, fold: str = "") -> Iterator[Table]:
    for name in in_order(page.rows["detector"]):
        at: dict[str, Any] = {"detector": name, "update": "i-fgsm", "epsilon": epsilon}
        table = attack_table(page.rows, page.results["reported"], **at)
        if len(table):
            yield Table(table, attack_caption(page.rows, of=attacked(page), **at), fold=fold)


def found(page: Page) -> Table:
    """How many faces there are to lose."""
    return Table(
        found_table(page.rows, "i-fgsm", 8.0), f"Faces found on the clean images of {attacked(page)}, in percent."
    )


def visibility(page: Page) -> Iterator[Table]:
    """How far the images change."""
    for name in in_order(page.rows["detector"]):
        rows = visible_rows(page.rows, detector=name, update="i-fgsm", epsilon=8.0)
        if rows.empty:
            continue
        yield Table(
            visibility_table(rows),
            f"{detector_name(name)} at epsilon 8: attack success and how far the attacked images are from the clean "
            "ones.",
        )


def own(page: Page) -> Table:
    """What this build measured."""
    rows = frame(page.own)
    at: dict[str, Any] = {
        "detector": rows["detector"].iloc[0],
        "update": "i-fgsm",
        "epsilon": float(rows["epsilon"].max()),
    }
    return Table(
        attack_table(rows, [], **at),
        attack_caption(rows, of="crowds", **at),
        fold=OWN,
        sources=(page.own,),
    )


FIGURES: dict[str, Makes] = {
    "steps": steps,
    "strengths": strengths,
    "bins": bins,
    "equal visibility": equally_visible,
}
TABLES: dict[str, Makes] = {
    "success": at_strength,
    "epsilon 8": at_eight,
    "found": found,
    "visibility": visibility,
    "verdicts": verdict_tables(["C5", "C4", "C8", "C7"], dataset="WIDER FACE"),
    "own": own,
}
