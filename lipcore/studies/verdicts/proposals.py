"""What proposals on COCO say on C6, from the records of the study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lipcore.metrics.paired import Outcomes, from_draws, paired
from lipcore.results import poster
from lipcore.studies.base.verdict_rules import Contrast, Reading
from lipcore.studies.benchmarks.attack_runs import NONE
from lipcore.studies.benchmarks.coco_table import LEAST_AR, Group, groups
from lipcore.studies.verdicts.grids import imp_of, strengths

DATASET = "COCO"
#: (stronger, weaker, reading, primary).
STEPS: tuple[tuple[str, str, Reading, bool], ...] = (
    ("lp", "imp", "whole map", True),
    ("lp", "imp-i", "instance", True),
    ("imp-i", "imp", "both", False),
    ("lp-w", "imp", "whole map", False),
    ("lip-a", "lp", "both", False),
    ("lip-h", "lip-a", "instance", False),
)


def printed(metric: str) -> float:
    """The poster's effect of LP over IMP, a share."""
    values = {(r["method"].lower(), r["metric"]): r["value"] / 100 for r in poster("coco")}
    return float(values["imp", metric] - values["lp", metric])


def contrasts(used: Mapping[tuple[str, str], Iterable[Mapping[str, Any]]]) -> Iterator[Contrast]:
    """The contrasts of every detector at its matched strengths.

    Args:
        used: (detector, variant) -> its records.
    """
    found = list(groups({key: list(records) for key, records in used.items()}))
    for detector in dict.fromkeys(g.detector for g in found):
        own = {g.epsilon: g for g in found if g.detector == detector and "imp" in g.attacked}
        if not own:
            continue
        scored = {e: {p: g.scored(p) for p in (NONE, *g.attacked)} for e, g in own.items()}
        for more, less, reading, judged in STEPS:
            success = {e: lost(g, imp_of(reading)).rate for e, g in own.items()}
            for target, epsilon, primary in strengths(success, "C6", judged):
                group, by = own[epsilon], scored[epsilon]
                if not {more, less} <= by.keys():
                    continue
                shared: dict[str, Any] = {"claim": "C6", "detector": detector, "dataset": DATASET, "epsilon": epsilon}
                shared |= {"step": f"{less.upper()} to {more.upper()}", "reading": reading, "target": target}
                shared |= {"reached": success[epsilon], "note": weakness(group)}
                for metric, name in (("ar100", "ar"), ("ap", "ap")):
                    above, below = by[less][metric], by[more][metric]
                    rates = (float(above[0]), float(below[0]))
                    yield Contrast(
                        outcome=metric,
                        measured=from_draws((above - below)[1:], rates[0] - rates[1], rates, len(group.clean)),
                        scale=float(by[NONE][metric][0]),
                        poster=printed(name) if judged else None,
                        primary=primary,
                        **shared,
                    )
                yield Contrast(outcome="asr", measured=paired([lost(group, more), lost(group, less)]), **shared)


def lost(group: Group, perturbation: str) -> Outcomes:
    """Objects that have a proposal on the clean image and none on the attacked one."""
    images, hits, totals = [], [], []
    for clean, after in zip(group.clean, group.attacked[perturbation], strict=True):
        before = np.asarray(clean["best"]) >= 0.5
        images.append(clean["image"])
        totals.append(float(before.sum()))
        hits.append(float((before & (np.asarray(after["best"]) < 0.5)).sum()))
    return Outcomes.of(images, hits, totals)


def weakness(group: Group) -> str:
    """A flag for a detector that hardly finds objects."""
    clean = float(group.scored(NONE)["ar100"][0])
    naive = max(float(by["ar100"][0]) for by in group.baselines().values())
    if clean >= max(LEAST_AR, 2 * naive):
        return ""
    return f"a weak detector: AR@100 {100 * clean:.0f} %, boxes that nobody learned {100 * naive:.0f} %"
