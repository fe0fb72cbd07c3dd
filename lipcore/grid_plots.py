"""Figures of the synthetic study's whole grid: success by faces and distance, by faces alone, and by epsilon."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipcore.attacks.perturbation import PRESETS
from lipcore.plotting import COLOURS
from lipcore.verdicts import LEAST_CLEAN

#: The labels of the metrics, and what they are multiplied by.
METRICS = {"asr": ("attack success (%)", 100.0), "interference": ("interference coefficient", 1.0)}


def grid_figure(rows: pd.DataFrame, detector: str, epsilon: float, metric: str = "asr") -> Figure:
    """One panel for each perturbation: faces upward, distance to the right, the value as colour and number.

    Where fewer than 80 % of the faces were found before the attack the number is grey; where it was not measured the
    place is empty.

    Args:
        rows: of the synthetic study.
        detector, epsilon: which of them.
        metric: ``"asr"`` or ``"interference"``.
    """
    label, scale = METRICS[metric]
    chosen = rows[(rows["detector"] == detector) & (rows["epsilon"] == epsilon) & (rows["metric"] == metric)]
    names = [p for p in PRESETS if p in set(chosen["perturbation"])]
    if not names:
        return _empty()
    faces = sorted({int(f) for f in chosen["faces"]})
    distances = sorted({int(d) for d in chosen["distance"]})
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    size = (2.6 * columns, 0.6 + (0.28 * len(faces) + 0.5) * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    low, high, colours = (0, 100, "viridis") if metric == "asr" else (-0.6, 0.6, "RdBu_r")
    for axis, name in zip(axes.flat, [*names, *[""] * (axes.size - len(names))], strict=True):
        if not name:
            axis.set_axis_off()
            continue
        table = np.full((len(faces), len(distances)), np.nan)
        for row in chosen[chosen["perturbation"] == name].to_dict("records"):
            place = faces.index(int(row["faces"])), distances.index(int(row["distance"]))
            table[place] = value = scale * row["value"]
            bright = value > (low + high) / 2 if metric == "asr" else abs(value) < 0.3
            colour = "#999999" if row["clean_rate"] < LEAST_CLEAN else "black" if bright else "white"
            text = f"{value:.0f}" if metric == "asr" else f"{value:.2f}"
            axis.text(*place[::-1], text, ha="center", va="center", fontsize=7, color=colour)
        image = axis.imshow(table, origin="lower", aspect="auto", vmin=low, vmax=high, cmap=colours)
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_xticks(range(len(distances)), [str(d) for d in distances], fontsize=7)
        axis.set_yticks(range(len(faces)), [str(f) for f in faces], fontsize=7)
        axis.tick_params(length=0)
    figure.supxlabel("distance (px)", fontsize=9)
    figure.supylabel("faces", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return figure


def faces_figure(rows: pd.DataFrame, detector: str, distance: int) -> Figure:
    """ASR against the number of faces at one distance, a line for each perturbation, a panel for each epsilon."""
    return _lines(rows, detector, "faces", "epsilon", {"distance": distance}, "epsilon {:g}", f"faces at {distance} px")


def epsilon_figure(rows: pd.DataFrame, detector: str, cells: tuple[tuple[int, int], ...]) -> Figure:
    """ASR against epsilon, a line for each perturbation, a panel for each of ``cells`` (faces, distance)."""
    kept = rows[[(f, d) in cells for f, d in zip(rows["faces"], rows["distance"], strict=True)]].copy()
    kept["cell"] = [f"{int(f)} at {int(d)} px" for f, d in zip(kept["faces"], kept["distance"], strict=True)]
    return _lines(kept, detector, "epsilon", "cell", {}, "{}", "epsilon (grey levels)")


def _lines(
    rows: pd.DataFrame, detector: str, along: str, panel: str, fixed: dict[str, int], title: str, label: str
) -> Figure:
    chosen = rows[(rows["detector"] == detector) & (rows["metric"] == "asr")]
    for name, value in fixed.items():
        chosen = chosen[(chosen[name] == value) | (chosen["faces"] == 1)]
    panels = [(key, group) for key, group in chosen.groupby(panel, sort=True) if group[along].nunique() > 1]
    if not panels:
        return _empty()
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3 * columns, 2.5 * lines), squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (key, group) in zip(axes.flat, panels, strict=False):
        for name in [p for p in PRESETS if p in set(group["perturbation"])]:
            _line(axis, group[group["perturbation"] == name].sort_values(along), along, name)
        axis.set_xscale("log", base=2)
        ticks = sorted(set(group[along]))
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
        axis.minorticks_off()
        axis.set_ylim(-4, 104)
        axis.set_title(title.format(key), loc="left", fontsize=10)
        axis.set_xlabel(label)
    axes[0, 0].set_ylabel(METRICS["asr"][0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _line(axis: Axes, points: pd.DataFrame, along: str, name: str) -> None:
    x = points[along].to_numpy(dtype=np.float64)
    value, low, high = (100 * points[c].to_numpy(dtype=np.float64) for c in ("value", "ci_low", "ci_high"))
    axis.plot(x, value, "o-", ms=3.5, lw=1.3, color=COLOURS[name], label=name)
    axis.fill_between(x, low, high, color=COLOURS[name], alpha=0.12, lw=0)


def _empty() -> Figure:
    """Says that there is nothing to draw."""
    figure, axis = plt.subplots(figsize=(7.5, 1))
    axis.set_axis_off()
    axis.text(0.5, 0.5, "not measured", ha="center", va="center", color="#666666")
    return figure
