"""The detectors' receptive fields side by side."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

#: Mass of the gradient in percent -> its marker's colour.
MASSES = {50: "#56b4e9", 90: "#0072b2", 99: "#000000"}


def fields_figure(rows: pd.DataFrame) -> Figure:
    """A line for each detector and template: sides of the squares that hold 50, 90 and 99 % of a response's gradient,
    the theoretical field, and R^2 of the Gaussian."""
    groups = list(rows.groupby(["detector", "template"], sort=False))
    figure, axis = plt.subplots(figsize=(7.5, 0.27 * len(groups) + 1.2))
    values = [dict(zip(group["metric"], group["value"], strict=True)) for _, group in groups]
    for y, own in enumerate(values):
        sides = [own[f"side_{mass}"] for mass in MASSES]
        axis.plot([sides[0], own["trf"]], [y, y], color="#cccccc", lw=1, zorder=1)
        for mass, colour in MASSES.items():
            label = f"{mass} % of the gradient" if y == 0 else None
            axis.scatter(own[f"side_{mass}"], y, s=22, color=colour, label=label, zorder=2)
        axis.scatter(own["trf"], y, marker="|", s=90, color="#d55e00", label="TRF" if y == 0 else None, zorder=2)
        axis.text(1.02, y, f"R² {own['r2']:.2f}", transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xticks([10, 20, 50, 100, 200, 500, 1000])
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.minorticks_off()
    axis.set_yticks(range(len(groups)), [f"{detector}: {template}" for (detector, template), _ in groups], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("side in pixels")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
