"""Photographs by the distance of a face's nearest neighbour: the coefficient, and the success of methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lipcore.report.plotting import intervals, method_intervals
from lipcore.report.style import DETECTOR_COLOURS, INK, METHOD_COLOURS, detector_name, in_order, method_name
from lipcore.studies.neighbours.bins import BINS, name_of

NAMES = [name_of(low, high) for low, high in BINS]
LABEL = "neighbour's distance in sides of the ERF\n(faces)"


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


def success_figure(rows: pd.DataFrame) -> Figure:
    """Success of each method by the neighbour's distance: a panel for each detector (across) and dataset (down).

    Args:
        rows: of the study ``neighbours``.
    """
    chosen = rows[(rows["metric"] == "asr") & rows["bin"].isin(NAMES)]
    datasets, detectors = list(dict.fromkeys(chosen["dataset"])), in_order(chosen["detector"])
    size = (3.2 * max(1, len(detectors)), 2.7 * max(1, len(datasets)) + 0.5)
    figure, axes = plt.subplots(len(datasets) or 1, len(detectors) or 1, figsize=size, squeeze=False, sharey=True)
    for line, dataset in zip(axes, datasets, strict=False):
        for axis, detector in zip(line, detectors, strict=True):
            panel = chosen[(chosen["dataset"] == dataset) & (chosen["detector"] == detector)]
            if panel.empty:
                axis.set_axis_off()
                continue
            names = [m for m in METHOD_COLOURS if m in set(panel["perturbation"])]
            for number, name in enumerate(names):
                own = panel[panel["perturbation"] == name].set_index("bin").reindex(NAMES)
                x = np.arange(len(NAMES)) + 0.12 * (number - (len(names) - 1) / 2)
                method_intervals(axis, x, own, name, fmt="o-")
            faces = panel.drop_duplicates("bin").set_index("bin")["n_faces"].reindex(NAMES).fillna(0)
            axis.set_xticks(range(len(NAMES)), [f"{n}\n({f:.0f})" for n, f in faces.items()], fontsize=8)
            axis.set_title(
                f"{detector_name(detector)}, {dataset}, epsilon {panel['epsilon'].max():g}", loc="left", fontsize=9
            )
            axis.set_ylim(-4, 104)
        line[0].set_ylabel("attack success (%)")
    for axis in axes[-1]:
        axis.set_xlabel(LABEL, fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


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
