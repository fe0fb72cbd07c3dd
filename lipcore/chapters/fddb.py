"""FDDB, of which the poster prints no number."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from lipcore.paths import ROOT
from lipcore.report.page import Chart, Makes, Page, Table
from lipcore.report.style import in_order
from lipcore.report.verdict_table import verdict_tables
from lipcore.studies.base.records import Records
from lipcore.studies.benchmarks.attack_figures import attack_caption, attack_table, roc_figure
from lipcore.studies.benchmarks.attack_tables import Strength, shots
from lipcore.studies.benchmarks.overview import steps_figure
from lipcore.studies.benchmarks.wider_attack import PERTURBATIONS, FddbAttack

PATH = ROOT / "results" / "full" / "fddb_attack.json"


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Opens the chapter, which is of the full run alone."""
    return Page("fddb", PATH, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def steps(page: Page) -> Chart:
    """From the whole-image attack to LIP, step by step."""
    drawn = partial(steps_figure, page.rows, [], epsilon=2.0, subsets=["all"], title="FDDB")
    return Chart(
        drawn(),
        "One thing changes from step to step. Bars: 95 % intervals over images. In brackets: the images with at least "
        "one face that the detector finds.",
        "Share of FDDB's faces hidden by IMP, IMP-I, LP, LIP-A and LIP-H on each detector.",
        drawn(narrow=True),
    )


def curves(page: Page) -> Chart:
    """The official curves."""
    current = page.results["config"]["records"]
    records = [
        r
        for r in Records(PATH.with_suffix(".records.jsonl"), FddbAttack.key)
        if r["config"] == current.get(r["detector"])
    ]
    found = shots(records, PERTURBATIONS)
    studied = {name: Strength(name, "i-fgsm", 2.0) for name in in_order(page.rows["detector"])}
    return Chart(
        roc_figure({name: found[at] for name, at in studied.items() if at in found}),
        "Clean and under every perturbation of I-FGSM at epsilon 2. Dashed: where the tables read the curves.",
        "FDDB's curves of true against false positives, discrete and continuous, clean and under every perturbation.",
    )


def success(page: Page) -> Iterator[Table]:
    """Every detector in numbers."""
    columns = ("ap", "asr", "discrete", "continuous")
    for epsilon in (2.0, 8.0):
        for name in in_order(page.rows["detector"]):
            at: dict[str, Any] = {"detector": name, "update": "i-fgsm", "epsilon": epsilon}
            table = attack_table(page.rows, [], metrics=columns, **at)
            if len(table):
                caption = attack_caption(page.rows, of="FDDB", **at)
                yield Table(table, caption, fold=f"Every detector at epsilon {epsilon:g}")


FIGURES: dict[str, Makes] = {"steps": steps, "curves": curves}
TABLES: dict[str, Makes] = {
    "success": success,
    "verdicts": verdict_tables(["C5", "C4", "C8", "C7"], dataset="FDDB"),
}
