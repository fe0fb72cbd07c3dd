"""What the further perturbations gain on LIP-A, and whether they become presets, by the rule written before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lipcore.report.style import detector_name

#: Scene -> how steps of verdicts begin that are of it.
SCENES = {"equal faces": "equal faces: ", "unequal faces": "unequal faces, all nine: ", "crowds": "crowds: "}
#: What is judged against LIP-A, as the rule says.
CANDIDATES = ("lip-w", "lip-v", "lip-a-l2")
#: What stands beside: the budget at the PSNR of IMP-I's noise, and IMP-I on it, which tells what of the gain is LIP's.
BESIDE = (("lip-a-l2", "imp-i"), ("imp-i-l2", "lip-a-l2"))
#: A contrast of fewer images is not shown.
LEAST = 10


def gains(rows: Iterable[Mapping[str, Any]], more: str, less: str) -> dict[str, list[Mapping[str, Any]]]:
    """Scene -> the contrasts of one perturbation less another, one for each detector that was measured.

    Args:
        rows: of ``results/full/verdicts.json``.
        more: a perturbation's name.
        less: another's.
    """
    known = [r for r in rows if r["detector"] != "all detectors" and r["ci_low"] is not None and r["n"] >= LEAST]
    steps = {scene: f"{begin}{more.upper()} - {less.upper()}" for scene, begin in SCENES.items()}
    return {scene: [r for r in known if r["step"] == step] for scene, step in steps.items()}


def decision(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """``"preset"``: above by an interval above zero in one scene, and below by none in another; ``"paragraph"``: not
    so; ``"not decided"``: what is measured leaves it open.

    Args:
        found: of :func:`gains`.
    """
    above = any(r["ci_low"] > 0 for rows in found.values() for r in rows)
    below = any(r["ci_high"] < 0 for rows in found.values() for r in rows)
    if below:
        return "paragraph"
    if not all(found.values()):
        return "not decided"
    return "preset" if above else "paragraph"


def decision_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A line for each candidate: success less another's in each scene, in points, and what follows."""
    known, table = list(rows), []
    for more, less in (*((name, "lip-a") for name in CANDIDATES), *BESIDE):
        found = gains(known, more, less)
        cells = {scene: "<br>".join(map(_points, own)) or "not measured" for scene, own in found.items()}
        word = "–" if (more, less) in BESIDE else decision(found)
        table.append({"perturbation": f"{_named(more)} less {_named(less)}", **cells, "it becomes": word})
    return pd.DataFrame(table)


def _named(perturbation: str) -> str:
    method = perturbation.removesuffix("-l2")
    return method.upper() + (" on the L2 budget" if method != perturbation else "")


def _points(row: Mapping[str, Any]) -> str:
    value, low, high = (100 * row[key] for key in ("value", "ci_low", "ci_high"))
    return f"{detector_name(row['detector'])} {value:+.1f} [{low:+.1f}, {high:+.1f}], n {row['n']}"
