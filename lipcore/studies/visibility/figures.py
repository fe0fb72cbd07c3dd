"""Success at equal visibility, as curves over epsilon."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipcore.report.plotting import epsilon_marks, legend_aside
from lipcore.report.style import METHOD_COLOURS, detector_name, epsilon_marker, in_order, method_name
from lipcore.studies.base.verdict_rules import CEILING

#: Metric -> the axis' label; PSNR falls to the right, so that the noise grows to the right everywhere.
LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "touched": "pixels touched (%)"}

LEAST = 10


def visibility_figure(rows: pd.DataFrame, metric: str = "psnr", *, narrow: bool = False) -> Figure:
    """Success against how visible the noise is: a panel for each kind of image and detector, a curve for each method.

    Where one curve lies above another, its method hides more faces with noise as visible. There is no panel of fewer
    than :data:`LEAST` images, nor where all methods hide nearly all faces at every strength.

    Args:
        rows: of the study ``visibility``.
        metric: of :data:`LABELS`.
        narrow: for a phone, all panels one below another.
    """
    panels = [
        panel
        for dataset in dict.fromkeys(rows["dataset"])
        for detector in in_order(rows[rows["dataset"] == dataset]["detector"])
        if _comparable(panel := rows[(rows["dataset"] == dataset) & (rows["detector"] == detector)])
    ]
    columns = 1 if narrow else max(1, min(2, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    size = (3.7 * columns, 2.5 * lines + (1.4 if narrow else 0.4))
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _curves(axis, panel, metric)
    if metric != "touched":
        axes[0, 0].invert_xaxis()
    axes[0, 0].set_ylim(-4, 108)
    for axis in axes[:, 0]:
        axis.set_ylabel("attack success (%)")
    epsilons = pd.concat(panels)["epsilon"] if panels else []
    legend_aside(figure, axes, epsilon_marks(epsilons))
    return figure


def _curves(axis: Axes, panel: pd.DataFrame, metric: str) -> None:
    """LP is broad, since LIP-A lies on it nearly everywhere."""
    for name in [m for m in METHOD_COLOURS if m in set(panel["perturbation"])]:
        width, size = (3.5, 7.0) if name == "lp" else (1.5, 4.5)
        own = panel[panel["perturbation"] == name].sort_values("epsilon")
        x = own[metric].to_numpy(dtype=float) * (100 if metric == "touched" else 1)
        value, low, high = (100 * own[key].to_numpy(dtype=float) for key in ("value", "ci_low", "ci_high"))
        colour = METHOD_COLOURS[name]
        axis.plot(x, value, "-", lw=width, color=colour, label=method_name(name))
        axis.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
        for place, height, epsilon in zip(x, value, own["epsilon"], strict=True):
            axis.plot(place, height, epsilon_marker(epsilon), ms=size, color=colour)
    title = f"{detector_name(panel.iloc[0]['detector'])}, {panel['n'].min():.0f} images\n{panel.iloc[0]['dataset']}"
    axis.set_title(title, loc="left", fontsize=9)
    axis.tick_params(labelbottom=True)
    axis.set_xlabel(LABELS[metric], fontsize=9)


def _comparable(panel: pd.DataFrame) -> bool:
    return bool(panel["value"].min() < CEILING and panel["n"].min() >= LEAST)
