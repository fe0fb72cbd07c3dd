"""Figures and tables of how HR-mini was trained and what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lipcore.datasets.photographs import astronaut
from lipcore.datasets.synthetic import Crowd, Scene
from lipcore.detectors import Detector
from lipcore.metrics.success import found
from lipcore.report.page import NotMeasured
from lipcore.report.plotting import draw_boxes, show
from lipcore.report.style import FALSE, INK, LOST, TRUE
from lipcore.studies.detectors.hr_mini_table import GROUNDS, MODES

LABELS = {"pyramid": "pyramid (0.25, 0.5, 1, 2)", "single": "one scale, as attacks see it"}


#: Columns of the logs: label and colour.
HELD_OUT = {
    "held_out_ap": ("average precision", "#009e73"),
    "held_out_recall": ("recall at 0.5", "#cc79a7"),
    "held_out_ar100": ("AR, 100 proposals", "#009e73"),
    "held_out_ar10": ("AR, 10 proposals", "#cc79a7"),
}


def learning_figure(log: Sequence[Mapping[str, float]]) -> Figure:
    """Both losses, what was measured on held-out photos, and the learning rate, against the steps."""
    if not log:
        raise NotMeasured("The learning curves are not in this checkout.")
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.8))
    step = [row["step"] for row in log]
    for key, label, colour in (("loss_score", "score", "#0072b2"), ("loss_box", "boxes", "#d55e00")):
        axes[0].plot(step, [row[key] for row in log], "o-", ms=3, color=colour, label=label)
    for key, (label, colour) in HELD_OUT.items():
        if key in log[0]:
            axes[1].plot(step, [100 * row[key] for row in log], "o-", ms=3, color=colour, label=label)
    axes[2].plot(step, [row["lr"] for row in log], "o-", ms=3, color=INK)
    for axis, title in zip(axes, ("loss", "held-out photos (%)", "learning rate"), strict=True):
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("steps")
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8)
    return figure


def template_figure(sizes: torch.Tensor) -> Figure:
    """The templates (T, 2), width and height in pixels, drawn around one centre and side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=(1, 2))
    colours = plt.get_cmap("viridis")(torch.linspace(0, 0.9, len(sizes)).numpy())
    x = 0.0
    for (width, height), colour in zip(sizes.tolist(), colours, strict=True):
        axes[0].add_patch(Rectangle((-width / 2, -height / 2), width, height, fill=False, ec=colour, lw=1.4))
        axes[1].add_patch(Rectangle((x, 0), width, height, fill=False, ec=colour, lw=1.4))
        axes[1].text(x + width / 2, -4, f"{width:.0f}x{height:.0f}", ha="center", va="top", fontsize=7, rotation=90)
        x += max(width, 12) + 8
    half = float(sizes.max()) / 2 + 6
    axes[0].set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="pixels")
    axes[1].set(xlim=(-6, x), ylim=(-46, 2 * half), aspect="equal")
    axes[1].set_axis_off()
    return figure


def precision_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Average precision by mode and subset, in percent, with intervals; images and faces behind it."""
    chosen = rows[rows["metric"] == "ap"] if "mode" in rows else rows[:0]
    table = []
    for mode in MODES:
        own = chosen[chosen["mode"] == mode] if len(chosen) else chosen
        if own.empty:
            continue
        cells = {row["subset"]: _interval(row) for row in own.to_dict("records")}
        table.append({"": LABELS[mode], **cells, "images": int(own["n"].iloc[0])})
    if not table:
        raise NotMeasured("Not measured: the images are not at hand.")
    return pd.DataFrame(table)


def recall_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Recall of drawn faces by ground and side, in percent, with intervals, and false positives an image."""
    table = []
    for ground in GROUNDS:
        own = rows[rows["ground"] == ground]
        entry: dict[str, Any] = {"ground": ground}
        for row in own[own["metric"] == "recall"].to_dict("records"):
            entry["all sides" if pd.isna(row["side"]) else f"{row['side']:.0f} px"] = _interval(row)
        wrong = own[(own["metric"] == "false_positives") & own["side"].isna()]
        table.append(entry | {"false an image": f"{wrong['value'].iloc[0]:.2f}", "images": int(wrong["n"].iloc[0])})
    return pd.DataFrame(table)


def _interval(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["value"]):
        return "–"
    return f"{100 * row['value']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"


def examples(detector: Detector, crowds: int = 6, shown: int = 2) -> list[Scene]:
    """The astronaut, then those of the first crowds on which the detector misses most faces."""
    scenes = [Crowd().draw(seed) for seed in range(crowds)]
    missed = [int((~found(s.boxes, detector.detect(s.image)[0].boxes)).sum()) for s in scenes]
    worst = sorted(range(crowds), key=lambda i: -missed[i])[:shown]
    return [Scene("astronaut", astronaut(), torch.empty(0, 4)), *(scenes[i] for i in worst)]


def example_figure(detector: Detector, scenes: Sequence[Scene], *, narrow: bool = False) -> Figure:
    """Detections: yellow true, red false, white dashes missed; without ground truth all are yellow."""
    lines, columns = (len(scenes), 1) if narrow else (1, len(scenes))
    size = (3.7, 3.2 * len(scenes)) if narrow else (10, 3.2)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis, scene in zip(axes.flat, scenes, strict=True):
        detections = detector.detect(scene.image)[0].boxes
        right = found(detections, scene.boxes) if len(scene.boxes) else torch.ones(len(detections), dtype=torch.bool)
        missed = ~found(scene.boxes, detections)
        show(axis, scene.image)
        draw_boxes(axis, scene.boxes[missed], LOST, dashed=True)
        draw_boxes(axis, detections[right], TRUE)
        draw_boxes(axis, detections[~right], FALSE)
        title = f"{scene.name}: {int(right.sum())} found"
        if len(scene.boxes):
            title += f", {int(missed.sum())} missed, {int((~right).sum())} false"
        axis.set_title(title, loc="left", fontsize=9)
    return figure
