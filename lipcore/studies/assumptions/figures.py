"""Figures and tables of the assumption ledger."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lipcore.report.plotting import percent
from lipcore.report.style import GROUND, detector_name


def ablation_table(rows: pd.DataFrame) -> pd.DataFrame:
    """ASR and logit drop of every variant of every assumption, a column for each detector."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        label = f"<b>{row['variant']}</b>" if row["default"] else row["variant"]
        entry = table.setdefault((row["assumption"], row["variant"]), {"": row["assumption"], "variant": label})
        value = percent(row) if row["metric"] == "asr" else "–" if pd.isna(row["value"]) else f"{row['value']:.2f}"
        entry[f"{detector_name(row['detector'])}: {'ASR (%)' if row['metric'] == 'asr' else 'logit drop'}"] = value
    return pd.DataFrame(table.values())


def changes_figure(rows: pd.DataFrame, detector: str, most: int = 3, *, narrow: bool = False) -> tuple[Figure, str]:
    """How far ASR moves when one answer is changed, sorted by size; the defaults, at zero, are left out.

    Args:
        rows: of the study.
        detector: whose.
        most: so many assumptions with the largest changes are filled; strength (A5) is not one of them.
        narrow: for a phone.

    Returns:
        The figure, and a text that says what it shows.
    """
    chosen = rows[(rows["metric"] == "asr") & (rows["detector"] == detector)]
    default = chosen[chosen["default"]].set_index("assumption")["value"]
    # A4's default is one of its variants, A1's is IMP itself: each change is against its own assumption's default.
    changed = [
        (100 * (row["value"] - default[row["assumption"]]), row["assumption"], row["variant"])
        for row in chosen[~chosen["default"]].to_dict("records")
        if row["assumption"] in default
    ]
    changed.sort(key=lambda change: abs(change[0]))
    largest = list(dict.fromkeys(name for _, name, _ in reversed(changed) if name not in ("A2", "A5")))[:most]
    figure, axis = plt.subplots(figsize=(3.7 if narrow else 6.2, 0.23 * len(changed) + 1))
    axis.axvline(0, color="#767676", lw=1)
    for y, (points, name, _) in enumerate(changed):
        colour = "#0072b2" if name in largest else "#767676"
        axis.plot([0, points], [y, y], color=colour, lw=1.2)
        axis.plot(points, y, "o", ms=6, color=colour, mfc=colour if name in largest else GROUND)
    axis.set_yticks(range(len(changed)), [f"{name}  {variant}" for _, name, variant in changed], fontsize=8)
    figure.supxlabel("change of attack success against the default (points)", fontsize=8 if narrow else 10)
    title = f"{detector_name(detector)}, LP at epsilon 2, nine faces at 40 px"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    top = "; ".join(f"{name} {variant} {points:+.0f}" for points, name, variant in reversed(changed[-5:]))
    return figure, f"Changes of attack success in points, sorted. The largest: {top}. Most of the others are near zero."
