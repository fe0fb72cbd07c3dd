"""Every detector in one figure: from the whole-image attack to LIP, step by step, beside the poster's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipcore.report.plotting import intervals
from lipcore.report.style import DETECTOR_COLOURS, INK, METHODS, detector_name, in_order, method_name

#: Each changes one thing of the one before: the loss, the crop, the separation, the targets.
STEPS = ("imp", "imp-i", "lp", "lip-a", "lip-h")
CHANGES = ("", "loss of the\nfaces alone", "cropped", "each face\nby itself", "one target\na face")


def steps_figure(
    rows: pd.DataFrame,
    reported: Sequence[Mapping[str, Any]],
    *,
    epsilon: float,
    subsets: Sequence[str],
    title: str,
    narrow: bool = False,
) -> Figure:
    """Attack success of every step on every detector with I-FGSM, and the poster's: a panel for each subset.

    Args:
        rows: of an attack study.
        reported: the poster's numbers, in percent.
        epsilon: at which strength.
        subsets: of which faces.
        title: what was attacked.
        narrow: for a phone, panels one below another.
    """
    at = (rows["metric"] == "asr") & (rows["update"] == "i-fgsm") & (rows["epsilon"] == epsilon)
    chosen = rows[at & rows["subset"].isin(list(subsets))]
    n = len(subsets)
    lines, columns = (n, 1) if narrow else (1, n)
    size = (3.7, 1.8 * n + 2.4) if narrow else (6.2 if n == 1 else 3.1 * n, 3.8)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True, sharex=True)
    for axis, subset in zip(axes.flat, subsets, strict=True):
        _steps(axis, chosen[chosen["subset"] == subset], chosen.groupby("detector")["n"].agg(["min", "max"]))
        poster = {r["method"]: r["value"] for r in reported if r["metric"] == "asr" and r["subset"] == subset}
        known = [(i, poster[METHODS[step]]) for i, step in enumerate(STEPS) if METHODS[step] in poster]
        if known:
            label = "the poster, on HR (names no epsilon)"
            axis.plot(*zip(*known, strict=True), "x", color=INK, ms=8, mew=2, label=label)
        axis.set_ylim(0, 104)
        if n > 1:
            axis.set_title(subset, loc="left", fontsize=10)
    names = [method_name(step) for step in STEPS]
    ticks = names if n > 1 else [f"{name}\n{change}" for name, change in zip(names, CHANGES, strict=True)]
    for axis in axes[-1]:
        axis.set_xticks(range(len(STEPS)), ticks, fontsize=7 if narrow and n == 1 else 9)
    for axis in axes[:, 0]:
        axis.set_ylabel("faces hidden (%)")
    figure.suptitle(f"{title}, epsilon {epsilon:g} of 255", x=0.01, ha="left", fontsize=11)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=1 if narrow else 2)
    return figure


def _steps(axis: Axes, rows: pd.DataFrame, images: pd.DataFrame) -> None:
    """A line for each detector; ``images``: how many each has at least and at most, over all panels."""
    detectors = in_order(rows["detector"])
    for number, name in enumerate(detectors):
        line = rows[rows["detector"] == name].set_index("perturbation").reindex(list(STEPS))
        x = np.arange(len(STEPS)) + 0.09 * (number - (len(detectors) - 1) / 2)
        label = f"{detector_name(name)} ({' to '.join(str(n) for n in sorted(set(images.loc[name])))} images)"
        look = {"fmt": "o-", "ms": 5, "lw": 1.4, "color": DETECTOR_COLOURS.get(name, INK)}
        intervals(axis, x, line, scale=100, label=label, **look)
