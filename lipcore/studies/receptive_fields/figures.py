"""The detectors' receptive fields side by side."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from lipcore.attacks.crop import Support
from lipcore.receptive_field import MeasuredErf
from lipcore.report.plotting import draw_boxes, show
from lipcore.report.style import DETECTOR_COLOURS, INK, TRUE, detector_name

#: Mass of the gradient in percent -> its marker's colour.
MASSES = {50: "#56b4e9", 90: "#0072b2", 99: INK}


def fields_figure(rows: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A line for each detector and template: sides of the squares that hold 50, 90 and 99 % of a response's gradient,
    the theoretical field, and R^2 of the Gaussian; for a phone the names stand in two lines."""
    groups = list(rows.groupby(["detector", "template"], sort=False))
    size = (3.7, 0.33 * len(groups) + 1.4) if narrow else (7.5, 0.27 * len(groups) + 1.2)
    figure, axis = plt.subplots(figsize=size)
    values = [dict(zip(group["metric"], group["value"], strict=True)) for _, group in groups]
    for y, own in enumerate(values):
        sides = [own[f"side_{mass}"] for mass in MASSES]
        axis.plot([sides[0], own["trf"]], [y, y], color="#999999", lw=1, zorder=1)
        for mass, colour in MASSES.items():
            label = f"{mass} % of the gradient" if y == 0 else None
            axis.scatter(own[f"side_{mass}"], y, s=22, color=colour, label=label, zorder=2)
        axis.scatter(own["trf"], y, marker="|", s=90, color="#d55e00", label="TRF" if y == 0 else None, zorder=2)
        axis.text(1.02, y, f"R² {own['r2']:.2f}", transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xticks([10, 100, 1000] if narrow else [10, 20, 50, 100, 200, 500, 1000])
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.minorticks_off()
    axis.set_yticks(
        range(len(groups)),
        [_label(f"{detector_name(str(d))}: {template}", 16 if narrow else 60) for (d, template), _ in groups],
        fontsize=7 if narrow else 8,
    )
    axis.invert_yaxis()
    axis.set_xlabel("side in pixels")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=1 if narrow else 4)
    return figure


def _label(text: str, most: int) -> str:
    """In one line, or where it is longer than ``most`` letters, the detector above its template."""
    return text if len(text) <= most else text.replace(": ", ":\n")


def erf_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Receptive fields of every detector and template, sides in pixels."""
    names = {
        "trf": "TRF", "side_50": "50 %", "side_90": "90 %", "side_99": "99 %",
        "ratio": "ERF/TRF", "sigma_x": "σ x", "sigma_y": "σ y", "r2": "R²",
    }  # fmt: skip
    table = []
    for (detector, template), group in rows.groupby(["detector", "template"], sort=False):
        values = dict(zip(group["metric"], group["value"], strict=True))
        shown = {
            title: f"{values[key]:.2f}" if values[key] < 2 else f"{values[key]:.0f}" for key, title in names.items()
        }
        table.append(
            {"detector": detector_name(str(detector)), "template": template, **shown, "images": group["n"].iloc[0]}
        )
    return pd.DataFrame(table)


def erf_figure(name: str, erf: MeasuredErf, trf: int) -> Figure:
    """One template's mean gradient, its Gaussian fit, and both cut through the centre; squares of 50 and 90 % mass."""
    half = min(erf.gradient.shape[0] // 2, max(erf.sides[0.99], trf) // 2 + 8)
    middle = erf.gradient.shape[0] // 2
    cut = erf.gradient[middle - half : middle + half, middle - half : middle + half]
    axis_px = np.arange(-half, half) + 0.5
    fitted = erf.fit(*np.meshgrid(axis_px, axis_px))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1))
    extent = (-half, half, half, -half)
    for axis, image, title in (
        (axes[0], cut, f"{name}: |gradient|"),
        (axes[1], fitted, "Gaussian fitted to it"),
    ):
        axis.imshow(image, extent=extent, cmap="magma", vmin=0, vmax=np.quantile(cut, 0.999))
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(visible=False)
        for mass, ls in ((0.5, ":"), (0.9, "-")):
            _square(axis, erf.sides[mass], ls, "white")
        _square(axis, trf, "--", "#56b4e9")
        axis.set_xlim(-half, half)
        axis.set_ylim(half, -half)
    profile = cut.mean(0)
    axes[2].plot(axis_px, profile / profile.max(), color="#0072b2", lw=0.8, label="gradient")
    axes[2].plot(axis_px, fitted.mean(0) / fitted.mean(0).max(), color="#d55e00", label="Gaussian")
    axes[2].axvspan(-erf.sides[0.9] / 2, erf.sides[0.9] / 2, color="#009e73", alpha=0.12, label="90 % of the mass")
    for sign in (-1, 1):
        axes[2].axvline(sign * trf / 2, color="#56b4e9", ls="--", label="TRF" if sign > 0 else None)
    axes[2].set_title("summed over rows, peak = 1", loc="left", fontsize=10)
    axes[2].set_xlabel("pixels from the centre")
    axes[2].legend(fontsize=8)
    return figure


def overlap_figure(rows: pd.DataFrame) -> Figure:
    """How much of one face's e_i its neighbour's covers, against the distance between them.

    The template in the middle of a detector's list stands for it.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3))
    chosen = rows[rows["metric"].str.startswith("overlap_")]
    for detector, every in chosen.groupby("detector", sort=False):
        templates = list(dict.fromkeys(every["template"]))
        template = templates[len(templates) // 2]
        group = every[every["template"] == template]
        distance = group["metric"].str.removeprefix("overlap_").astype(int)
        label, colour = f"{detector_name(str(detector))} ({template})", DETECTOR_COLOURS.get(str(detector), INK)
        axis.plot(distance, 100 * group["value"], "o-", label=label, color=colour)
    axis.set_xlabel("distance between the faces' edges (px)")
    axis.set_ylabel("e_i covered by\nthe neighbour's (%)")
    axis.set_ylim(-3, 103)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def support_figure(image: Tensor, supports: Sequence[Support], boxes: Tensor) -> Figure:
    """An image with every face's crop e_i laid over it: brighter where more of them overlap."""
    height, width = image.shape[2:]
    depth = np.zeros((height, width))
    for support in supports:
        depth[support.rows, support.cols] += support.mask.cpu().numpy()
    figure, axes = plt.subplots(1, 2, figsize=(8, 8 * height / width / 2 + 0.5))
    show(axes[0], image)
    axes[0].set_title("clean detections", loc="left", fontsize=10)
    draw_boxes(axes[0], boxes, TRUE)
    picture = axes[1].imshow(depth, cmap="viridis", vmin=0)
    figure.colorbar(picture, ax=axes[1], shrink=0.8, label="crops e_i over a pixel")
    axes[1].set_axis_off()
    draw_boxes(axes[1], boxes, "white")
    return figure


def gradient_figure(image: Tensor, box: Tensor, gradient: Tensor) -> Figure:
    """An image (1, 3, H, W) with one detection's box (4,), and that detection's gradient map (H, W).

    The map is shown by its square root, so that the tails can be seen.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 8 * image.shape[2] / image.shape[3] / 2 + 0.3))
    show(axes[0], image)
    axes[1].imshow((gradient / gradient.max()).double().sqrt().cpu().numpy(), cmap="magma")
    axes[1].set_axis_off()
    for axis in axes:
        draw_boxes(axis, box[None], TRUE)
    return figure


def _square(axis: Axes, side: float, ls: str, colour: str) -> None:
    axis.add_patch(Rectangle((-side / 2, -side / 2), side, side, fill=False, ec=colour, ls=ls, lw=1.2))
