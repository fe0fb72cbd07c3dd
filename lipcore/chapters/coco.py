"""Beyond faces: region proposals on COCO."""

from __future__ import annotations

from functools import partial

from lipcore.datasets.photographs import astronaut, background
from lipcore.detectors import load_detector
from lipcore.detectors.rpn import Proposals
from lipcore.report.page import OWN, Chart, Makes, NotMeasured, Page, Table
from lipcore.report.style import detector_name
from lipcore.report.verdict_table import verdict_tables
from lipcore.results import frame
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks.coco_attack import CocoAttack, proposing
from lipcore.studies.benchmarks.coco_figures import objects_figure, proposal_table, proposals_figure, recall_figure
from lipcore.studies.detectors.figures import learning_figure
from lipcore.studies.detectors.hr_mini_table import training_log
from lipcore.studies.detectors.rpn_mini_card import TRAINING_LOG


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Measures what is missing of the profile and opens the chapter."""
    path = CocoAttack().run(Run(profile=profile, detector=proposing(detector)))
    return Page("coco", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def recall(page: Page) -> Chart:
    """What is left of the proposals, against the strength."""
    drawn = partial(recall_figure, page.rows, page.results["summary"]["detector"])
    return Chart(
        drawn(),
        "Average recall at 100 proposals, average precision, and the share of objects lost, against epsilon; I-FGSM, "
        "intervals over images.",
        "Average recall, average precision and the share of objects lost against epsilon for every perturbation.",
        drawn(narrow=True),
    )


def learning(page: Page) -> Chart:
    """How RPN-mini was trained."""
    return Chart(
        learning_figure(training_log(TRAINING_LOG) if TRAINING_LOG.is_file() else []),
        "Learning curves of RPN-mini, a point every three minutes; on held-out photos a proposal counts for every "
        "object it overlaps. In the second half the losses go on falling and recall does not rise: a few hundred "
        "photos limit it, not time.",
        "Learning curves of RPN-mini: losses fall to the end, recall on held-out photographs levels off half way.",
        sources=(),
    )


def objects(page: Page) -> Chart:
    """Which objects are lost."""
    summary = page.results["summary"]
    return Chart(
        objects_figure(page.rows, summary["detector"], summary["epsilon"]),
        f"Objects lost at epsilon {summary['epsilon']:g}, by their size and by how many there are in the image.",
        "Share of objects lost by their size and by how many there are in the image.",
    )


def before_and_after(page: Page) -> Chart:
    """Proposals on photographs that may be shown."""
    summary = page.results["summary"]
    photos = {"astronaut": astronaut(), "chelsea": background(1, 300, 448), "coffee": background(0, 300, 448)}
    network = load_detector(summary["detector"])
    if not isinstance(network, Proposals):
        raise NotMeasured(f"Not shown: {network.name} proposes no regions.")
    return Chart(
        proposals_figure(network, photos, ("imp", "lp"), summary["epsilon"]),
        f"The ten best proposals on the clean photograph and under each perturbation, epsilon {summary['epsilon']:g}: "
        "yellow where one overlaps a clean one by IoU 0.5 or more, red elsewhere.",
        "Three photographs with the ten best proposals, clean and under IMP and LP: under attack they are elsewhere.",
        sources=(),
    )


def proposals(page: Page) -> Table:
    """The main table."""
    summary = page.results["summary"]
    name, epsilon = summary["detector"], summary["epsilon"]
    return Table(
        proposal_table(page.rows, page.results["reported"], detector=name, epsilon=epsilon),
        f"{detector_name(name)} at epsilon {epsilon:g}, {summary['n']} images, in percent; small: 95 % intervals over "
        "images, and the poster's.",
    )


def without_truth(page: Page) -> Table:
    """The best proposals attacked instead of the objects."""
    ablation = page.rows[page.rows["variant"] == "proposals"]
    if ablation.empty:
        raise NotMeasured("Not measured.")
    name, epsilon = page.results["summary"]["detector"], float(ablation["epsilon"].iloc[0])
    return Table(
        proposal_table(page.rows, [], detector=name, epsilon=epsilon, variant="proposals"),
        f"{detector_name(name)} at epsilon {epsilon:g}, the twenty best proposals attacked, in percent; small: 95 % "
        "intervals over images.",
    )


def own(page: Page) -> Table:
    """What this build measured."""
    summary = page.own["summary"]
    name, epsilon = summary["detector"], summary["epsilon"]
    return Table(
        proposal_table(frame(page.own), [], detector=name, epsilon=epsilon),
        f"{detector_name(name)} at epsilon {epsilon:g}, in percent.",
        fold=OWN,
        sources=(page.own,),
    )


FIGURES: dict[str, Makes] = {
    "recall": recall,
    "learning": learning,
    "objects": objects,
    "before and after": before_and_after,
}
TABLES: dict[str, Makes] = {
    "proposals": proposals,
    "verdicts": verdict_tables(["C6"]),
    "without truth": without_truth,
    "own": own,
}
