"""What the further perturbations gain on LIP-A, and whether they become presets, by the rule written before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lipcore.report.style import detector_name
from lipcore.studies.better_lip.study import PERTURBATIONS

#: Scene -> how steps of verdicts begin that are of it.
SCENES = {"equal faces": "equal faces: ", "unequal faces": "unequal faces, all nine: ", "crowds": "crowds: "}
CANDIDATES = tuple(name for name in PERTURBATIONS if name in ("lip-w", "lip-v"))


def gains(rows: Iterable[Mapping[str, Any]], candidate: str) -> dict[str, list[Mapping[str, Any]]]:
    """Scene -> the contrasts of a candidate less LIP-A, one for each detector that was measured.

    Args:
        rows: of ``results/full/verdicts.json``.
        candidate: a perturbation's name.
    """
    known = list(rows)
    steps = {scene: f"{begin}{candidate.upper()} - LIP-A" for scene, begin in SCENES.items()}
    return {
        scene: [r for r in known if r["step"] == step and r["detector"] != "all detectors" and r["ci_low"] is not None]
        for scene, step in steps.items()
    }


def decision(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """``"preset"``: above LIP-A by an interval above zero in one scene, and below by none in another; ``"paragraph"``:
    not so; ``"not decided"``: what is measured leaves it open.

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
    """A line for each candidate: success less LIP-A's in each scene, in points, and what follows."""
    known, table = list(rows), []
    for name in CANDIDATES:
        found = gains(known, name)
        cells = {scene: "<br>".join(map(_points, own)) or "not measured" for scene, own in found.items()}
        table.append({"perturbation": f"{name.upper()} - LIP-A", **cells, "it becomes": decision(found)})
    return pd.DataFrame(table)


def _points(row: Mapping[str, Any]) -> str:
    value, low, high = (100 * row[key] for key in ("value", "ci_low", "ci_high"))
    return f"{detector_name(row['detector'])} {value:+.1f} [{low:+.1f}, {high:+.1f}], n {row['n']}"
