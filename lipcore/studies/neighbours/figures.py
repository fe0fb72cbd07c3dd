"""Photographs by the distance of a face's nearest neighbour: the coefficient, and the success of methods."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipcore.report.plotting import intervals, legend_aside, method_intervals
from lipcore.report.style import DETECTOR_COLOURS, INK, METHOD_COLOURS, detector_name, in_order, method_name
from lipcore.studies.base.verdict_rules import CEILING
from lipcore.studies.neighbours.bins import BINS, name_of

NAMES = [name_of(low, high) for low, high in BINS]
LABEL = "neighbour's distance in sides of the ERF (faces)"


def coefficient_figure(rows: pd.DataFrame) -> Figure:
    """IMP-I's coefficient within photographs by the neighbour's distance, a line for each detector.

    Args:
        rows: of the study ``within_photo``.
    """
    chosen = rows[(rows["metric"] == "interference") & (rows["perturbation"] == "imp-i") & rows["bin"].isin(NAMES)]
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    axis.axhline(0, color="#767676", lw=0.8)
    detectors = in_order(chosen["detector"])
    for number, name in enumerate(detectors):
        own = chosen[chosen["detector"] == name].set_index("bin").reindex(NAMES)
        x = np.arange(len(NAMES)) + 0.1 * (number - (len(detectors) - 1) / 2)
        strength = f"epsilon {own['epsilon'].max():g}"
        faces = ", ".join(f"{n:.0f}" for n in own["n_faces"].fillna(0))
        label = f"{detector_name(name)}, {strength} ({faces} faces)"
        intervals(axis, x, own, fmt="o-", elinewidth=0.8, color=DETECTOR_COLOURS.get(name, INK), label=label)
    axis.set_xticks(range(len(NAMES)), NAMES)
    axis.set_xlabel("nearest neighbour's distance, in sides of the ERF")
    axis.set_ylabel("interference coefficient")
    axis.set_title("Photographs of crowds, IMP-I alone against all", loc="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=1, fontsize=9)
    return figure


def success_figure(rows: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Success of each method by the neighbour's distance: a panel for each detector (down) and dataset (across).

    There is no panel where every method hides nearly every face; :func:`hidden_by_all` names those detectors.

    Args:
        rows: of the study ``neighbours``.
        narrow: for a phone, all panels one below another.
    """
    chosen = _of_bins(rows)
    chosen = chosen[~chosen["detector"].isin(hidden_by_all(rows))]
    datasets, detectors = list(dict.fromkeys(chosen["dataset"])), in_order(chosen["detector"])
    panels = [[chosen[(chosen["dataset"] == s) & (chosen["detector"] == d)] for s in datasets] for d in detectors]
    if narrow:
        panels = [[panel] for line in panels for panel in line if len(panel)]
    lines, columns = max(1, len(panels)), 1 if narrow else max(1, len(datasets))
    size = (3.7 * columns, 2.5 * lines + (1 if narrow else 0.4))
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
    for axis, panel in zip(axes.flat, chain.from_iterable(panels), strict=False):
        if len(panel):
            _success_panel(axis, panel)
    for axis in axes[:, 0]:
        axis.set_ylabel("attack success (%)")
    legend_aside(figure, axes)
    return figure


def _success_panel(axis: Axes, panel: pd.DataFrame) -> None:
    names = [m for m in METHOD_COLOURS if m in set(panel["perturbation"])]
    for number, name in enumerate(names):
        own = panel[panel["perturbation"] == name].set_index("bin").reindex(NAMES)
        x = np.arange(len(NAMES)) + 0.12 * (number - (len(names) - 1) / 2)
        method_intervals(axis, x, own, name, fmt="o-")
    faces = panel.drop_duplicates("bin").set_index("bin")["n_faces"].reindex(NAMES).fillna(0)
    axis.set_xticks(range(len(NAMES)), [f"{n}\n({f:.0f})" for n, f in faces.items()], fontsize=9)
    shared = panel.iloc[0]
    title = f"{detector_name(shared['detector'])}, {shared['dataset']}, epsilon {shared['epsilon']:g}"
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_ylim(-4, 104)
    axis.set_xlabel(LABEL, fontsize=9)


def hidden_by_all(rows: pd.DataFrame) -> list[str]:
    """Detectors from which every method hides nearly every face in every bin, so that there is nothing to compare.

    Args:
        rows: of the study ``neighbours``.
    """
    least = _of_bins(rows).groupby("detector")["value"].min()
    return in_order(least[least > CEILING].index)


def _of_bins(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["metric"] == "asr") & rows["bin"].isin(NAMES)]


def gain_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How much more one method hides than another, in points, by the neighbour's distance; pairs on the same faces.

    Args:
        rows: of the study ``neighbours``.
    """
    table: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows[rows["metric"] == "gain"].to_dict("records"):
        key = (row["dataset"], row["detector"], row["perturbation"], row["against"])
        start = {
            "photographs": row["dataset"],
            "detector": detector_name(row["detector"]),
            "step": f"{method_name(row['perturbation'])} - {method_name(row['against'])}",
            "ε": f"{row['epsilon']:g}",
        }
        table.setdefault(key, start)[row["bin"]] = _points(row)
    return pd.DataFrame(table.values()).fillna("–")


def _points(row: Mapping[Any, Any]) -> str:
    if row["identical"]:
        return f"the same <small>{row['n_faces']:.0f} faces</small>"
    interval = f"[{100 * row['ci_low']:+z.1f}, {100 * row['ci_high']:+z.1f}]"
    return f"{100 * row['value']:+z.1f} <small>{row['n_faces']:.0f} faces</small> <small>{interval}</small>"
