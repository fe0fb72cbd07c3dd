"""Every detector in one figure: from the whole-image attack to LIP, step by step, beside the poster's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lipcore.report.style import DETECTOR_COLOURS, INK, METHODS, detector_name, in_order, method_name

#: Each changes one thing of the one before: the loss, the crop, the separation, the targets.
STEPS = ("imp", "imp-i", "lp", "lip-a", "lip-h")
CHANGES = ("", "loss of the\nfaces alone", "cropped", "each face\nby itself", "one target\na face")


def steps_figure(
    rows: pd.DataFrame, reported: Sequence[Mapping[str, Any]], *, epsilon: float, subset: str, title: str
) -> Figure:
    """Attack success of every step on every detector with I-FGSM, and the poster's.

    Args:
        rows: of an attack study.
        reported: the poster's numbers, in percent.
        epsilon: at which strength.
        subset: of which faces.
        title: what was attacked.
    """
    at = (rows["metric"] == "asr") & (rows["update"] == "i-fgsm") & (rows["epsilon"] == epsilon)
    chosen = rows[at & (rows["subset"] == subset)]
    figure, axis = plt.subplots(figsize=(6.2, 3.8))
    detectors = in_order(chosen["detector"])
    for number, name in enumerate(detectors):
        line = chosen[chosen["detector"] == name].set_index("perturbation").reindex(list(STEPS))
        value, low, high = (100 * line[key].to_numpy(dtype=float) for key in ("value", "ci_low", "ci_high"))
        x = np.arange(len(STEPS)) + 0.09 * (number - (len(detectors) - 1) / 2)
        error = np.nan_to_num(np.clip([value - low, high - value], 0, None))
        colour = DETECTOR_COLOURS.get(name, INK)
        label = f"{detector_name(name)} ({line['n'].max():.0f} images)"
        axis.errorbar(x, value, error, fmt="o-", ms=5, lw=1.4, color=colour, label=label)
    poster = {r["method"]: r["value"] for r in reported if r["metric"] == "asr" and r["subset"] == subset}
    known = [(i, poster[METHODS[step]]) for i, step in enumerate(STEPS) if METHODS[step] in poster]
    if known:
        axis.plot(*zip(*known, strict=True), "x", color=INK, ms=8, mew=2, label="the poster, on HR (names no epsilon)")
    axis.set_xticks(
        range(len(STEPS)), [f"{method_name(s)}\n{c}" for s, c in zip(STEPS, CHANGES, strict=True)], fontsize=9
    )
    axis.set_ylim(0, 104)
    axis.set_ylabel("faces hidden (%)")
    axis.set_title(f"{title}, epsilon {epsilon:g} of 255", loc="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure
