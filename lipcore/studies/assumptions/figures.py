"""Figures and tables of the assumption ledger."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lipcore.report.plotting import percent


def ablation_table(rows: pd.DataFrame) -> pd.DataFrame:
    """ASR and logit drop of every variant of every assumption, a column for each detector."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        label = f"<b>{row['variant']}</b>" if row["default"] else row["variant"]
        entry = table.setdefault((row["assumption"], row["variant"]), {"": row["assumption"], "variant": label})
        value = percent(row) if row["metric"] == "asr" else "–" if pd.isna(row["value"]) else f"{row['value']:.2f}"
        entry[f"{row['detector']}: {'ASR (%)' if row['metric'] == 'asr' else 'logit drop'}"] = value
    return pd.DataFrame(table.values())


def ablation_figure(rows: pd.DataFrame, detector: str) -> Figure:
    """The mean logit drop of every variant, grouped by assumption; the default of each filled."""
    chosen = rows[(rows["metric"] == "logit_drop") & (rows["detector"] == detector)].iloc[::-1].reset_index()
    figure, axis = plt.subplots(figsize=(7.5, 0.22 * len(chosen) + 0.8))
    for y, row in enumerate(chosen.to_dict("records")):
        colour = "#0072b2" if int(row["assumption"][1:]) % 2 else "#d55e00"
        fill = colour if row["default"] else "white"
        bounds = [row["value"] - row["ci_low"], row["ci_high"] - row["value"]]
        error = np.nan_to_num(np.array(bounds, dtype=float))[:, None]
        axis.errorbar(row["value"], y, xerr=error, fmt="o", ms=5, color=colour, mfc=fill, lw=1)
    axis.set_yticks(
        range(len(chosen)), [f"{r['assumption']}  {r['variant']}" for _, r in chosen.iterrows()], fontsize=8
    )
    axis.set_xlabel("mean logit drop of a face (filled: the book's default)")
    axis.set_title(detector, loc="left", fontsize=10)
    return figure
