"""Success at equal visibility, as curves over epsilon."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lipcore.report.style import METHOD_COLOURS, detector_name, in_order, method_name
from lipcore.studies.base.verdict_rules import CEILING

#: Metric -> the axis' label; PSNR falls to the right, so that the noise grows to the right everywhere.
LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "touched": "pixels touched (%)"}

LEAST = 10


def visibility_figure(rows: pd.DataFrame, metric: str = "psnr", kind: str = "") -> Figure:
    """Success against how visible the noise is: a panel for each kind of image and detector, a curve for each method.

    Where one curve lies above another, its method hides more faces with noise as visible. There is no panel of fewer
    than :data:`LEAST` images, nor where all methods hide nearly all faces at every strength.

    Args:
        rows: of the study ``visibility``.
        metric: of :data:`LABELS`.
        kind: only images whose name begins so.
    """
    chosen = rows[rows["dataset"].str.startswith(kind)] if len(rows) else rows
    panels = [
        (dataset, detector)
        for dataset in dict.fromkeys(chosen["dataset"])
        for detector in in_order(chosen[chosen["dataset"] == dataset]["detector"])
        if _comparable(chosen[(chosen["dataset"] == dataset) & (chosen["detector"] == detector)])
    ]
    columns = max(1, min(3, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure, axes = plt.subplots(lines, columns, figsize=(3.1 * columns, 2.7 * lines + 0.5), squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (dataset, detector) in zip(axes.flat, panels, strict=False):
        panel = chosen[(chosen["dataset"] == dataset) & (chosen["detector"] == detector)]
        for name in [m for m in METHOD_COLOURS if m in set(panel["perturbation"])]:
            own = panel[panel["perturbation"] == name].sort_values("epsilon")
            x = own[metric].to_numpy(dtype=float) * (100 if metric == "touched" else 1)
            value, low, high = (100 * own[key].to_numpy(dtype=float) for key in ("value", "ci_low", "ci_high"))
            axis.plot(x, value, "o-", ms=3.5, lw=1.4, color=METHOD_COLOURS[name], label=method_name(name))
            axis.fill_between(x, low, high, color=METHOD_COLOURS[name], alpha=0.12, lw=0)
            for place, height, epsilon in zip(x, value, own["epsilon"], strict=True):
                axis.annotate(
                    f"{epsilon:g}", (place, height), (0, 4), textcoords="offset points", fontsize=6, ha="center"
                )
        if metric != "touched":
            axis.invert_xaxis()
        axis.set_ylim(-4, 108)
        title = f"{detector_name(detector)}, {panel['n'].min():.0f} images\n{dataset}"
        axis.set_title(title, loc="left", fontsize=8)
        axis.set_xlabel(LABELS[metric], fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("attack success (%)")
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def _comparable(panel: pd.DataFrame) -> bool:
    return bool(panel["value"].min() < CEILING and panel["n"].min() >= LEAST)
