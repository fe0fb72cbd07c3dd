"""Every figure and table of the book, drawn from results files and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from lipcore.attacks.perturbation import PRESETS
from lipcore.attacks.targets import Support
from lipcore.experiments.photos import Shown
from lipcore.receptive_field import TemplateErf
from lipcore.verdicts import LEAST_CLEAN

#: One colour for each perturbation, in every figure (Okabe and Ito's palette, safe for colour-blind readers).
COLOURS = {
    "imp": "#d55e00",
    "lp-w": "#e69f00",
    "imp-i": "#0072b2",
    "lp": "#56b4e9",
    "lip-a": "#009e73",
    "lip-h": "#cc79a7",
    "random": "#999999",
}
TRUE, FALSE, LOST = "#ffd700", "#e31a1c", "#ffffff"
PAPER = "poster (HR)"


def style() -> None:
    """Sets matplotlib up for the book: readable on a phone, quiet grids, no frames."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def made_by(document: Mapping[str, Any], notebook: str) -> str:
    """HTML that says what made a figure or table: notebook, profile, images, seconds, commit."""
    p = document["provenance"]
    data = p["dataset"]
    commit = p["git_commit"][:8] or "no commit"
    return (
        f'<p class="made-by">Made by <a href="{notebook}.html">{notebook}.ipynb</a> · '
        f"<code>results/{document['profile']}/{document['experiment']}.json</code> · {data['n_images']} images · "
        f"{p['seconds']:.0f} s of computing on {p['device']} · commit {commit}</p>"
    )


def percent(row: Mapping[Any, Any]) -> str:
    """A share with its interval, in percent: ``51 [40, 63]``; a dash where there is none."""
    if row["value"] is None or pd.isna(row["value"]):
        return "–"
    return f"{100 * row['value']:.0f} [{100 * row['ci_low']:.0f}, {100 * row['ci_high']:.0f}]"


def ipi_table(
    rows: pd.DataFrame, quick: pd.DataFrame | None, reported: Sequence[Mapping[str, Any]], detector: str, epsilon: float
) -> pd.io.formats.style.Styler:
    """The IPI table: ASR in percent by cell and perturbation, poster beside, intervals, images and clean rate.

    Args:
        rows: the results to show first.
        quick: this build's quick run, shown as further columns where the first are from another profile.
        reported: the poster's numbers.
        detector: whose rows.
        epsilon: which of them.
    """
    poster = {(r["faces"], r["distance"]): r["value"] for r in reported}
    table: dict[Any, dict[str, Any]] = {}
    dim: dict[Any, bool] = {}

    def fill(frame: pd.DataFrame, heading: str) -> None:
        chosen = frame[(frame["metric"] == "asr") & (frame["detector"] == detector) & (frame["epsilon"] == epsilon)]
        for row in chosen.to_dict("records"):
            cell = (row["faces"], row["distance"])
            entry = table.setdefault(cell, {PAPER: f"{poster[cell]:g}" if cell in poster else "–"})
            entry[f"{row['perturbation']}{heading}"] = f"{percent(row)} n={row['n']}"
            if not heading:
                entry["clean"] = f"{100 * row['clean_rate']:.0f}"
                dim[cell] = row["clean_rate"] < LEAST_CLEAN

    fill(rows, "")
    if quick is not None:
        fill(quick, " (quick)")
    order = [PAPER, "clean", *PRESETS, *(f"{p} (quick)" for p in PRESETS)]
    frame = pd.DataFrame.from_dict(table, orient="index").sort_index().rename_axis(["faces", "distance"])
    frame = frame.reindex(columns=[c for c in order if c in frame]).fillna("–")
    return frame.style.apply(lambda r: ["color: #999" if dim.get(r.name, False) else ""] * len(r), axis=1)


def ipi_figure(rows: pd.DataFrame, reported: Sequence[Mapping[str, Any]], metric: str = "asr") -> Figure:
    """ASR or interference of every perturbation in each cell, one panel for each detector and epsilon.

    Args:
        rows: of the synthetic study.
        reported: the poster's numbers, drawn as crosses in panels of ASR.
        metric: ``"asr"``, ``"logit_drop"`` or ``"interference"``.
    """
    chosen = rows[rows["metric"] == metric].dropna(subset=["value"])
    panels = list(chosen.groupby(["detector", "epsilon"], sort=False))
    figure, axes = plt.subplots(len(panels), 1, figsize=(7.5, 2.6 * len(panels)), squeeze=False, sharex=False)
    scale = 100 if metric == "asr" else 1
    for axis, ((detector, epsilon), group) in zip(axes[:, 0], panels, strict=True):
        cells = sorted(set(zip(group["faces"], group["distance"], strict=True)))
        names = [p for p in PRESETS if p in set(group["perturbation"])]
        for offset, name in enumerate(names):
            own = group[group["perturbation"] == name].set_index(["faces", "distance"])
            at = [i for i, c in enumerate(cells) if c in own.index]
            value = np.array([scale * own.loc[cells[i], "value"] for i in at], dtype=float)
            low, high = (
                np.array([scale * own.loc[cells[i], k] for i in at], dtype=float) for k in ("ci_low", "ci_high")
            )
            x = np.array(at) + (offset - (len(names) - 1) / 2) * 0.11
            error = np.nan_to_num(np.clip([value - low, high - value], 0, None))
            axis.errorbar(x, value, error, fmt="o", ms=4, lw=1.2, color=COLOURS[name], label=name)
        if metric == "asr":
            known = {(r["faces"], r["distance"]): r["value"] for r in reported}
            at = [i for i, c in enumerate(cells) if c in known]
            axis.plot(at, [known[cells[i]] for i in at], "kx", ms=7, label=PAPER)
            axis.set_ylim(-4, 104)
        axis.set_xticks(range(len(cells)), [f"{f} face{'s' * (f > 1)}\n{d} px" for f, d in cells])
        axis.set_ylabel({"asr": "attack success (%)", "interference": "interference"}.get(metric, "logit drop"))
        axis.set_title(f"{detector}, epsilon {epsilon:g}", loc="left", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def erf_figure(name: str, erf: TemplateErf, trf: int) -> Figure:
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
        (axes[1], fitted, f"Gaussian fit, R² {erf.fit.r2:.2f}"),
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
    """How much of one face's e_i its neighbour's covers, against the distance between them."""
    figure, axis = plt.subplots(figsize=(6.5, 3))
    chosen = rows[rows["metric"].str.startswith("overlap_")]
    for (detector, template), group in chosen.groupby(["detector", "template"], sort=False):
        distance = group["metric"].str.removeprefix("overlap_").astype(int)
        axis.plot(distance, 100 * group["value"], "o-", label=f"{detector} ({template})")
    axis.set_xlabel("distance between the faces' edges (px)")
    axis.set_ylabel("e_i covered by\nthe neighbour's (%)")
    axis.set_ylim(-3, 103)
    axis.legend()
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


def noise_figure(shown: Sequence[Shown]) -> Figure:
    """One image under each perturbation: detections (yellow true, red false, white dashes lost), and noise x 16."""
    figure, axes = plt.subplots(
        len(shown), 2, figsize=(8, 8 / 2 * len(shown) * _aspect(shown[0].image) + 0.3), squeeze=False
    )
    for (left, right), item in zip(axes, shown, strict=True):
        show(left, item.image)
        draw_boxes(left, item.scene.boxes, LOST, dashed=True)
        draw_boxes(left, item.detections.boxes[item.correct], TRUE)
        draw_boxes(left, item.detections.boxes[~item.correct], FALSE)
        found, wrong = int(item.correct.sum()), int((~item.correct).sum())
        name = item.perturbation or "clean"
        left.set_title(f"{name}: {found} of {len(item.scene.boxes)} found, {wrong} false", loc="left", fontsize=10)
        noise = (item.image.cpu() - item.scene.image) * 16 + 127.5
        show(right, noise.clamp(0, 255))
        v = item.visibility
        label = "no noise" if not item.perturbation else f"noise x 16 · PSNR {v.psnr:.1f} dB · {v.touched:.0%} touched"
        right.set_title(label, loc="left", fontsize=10)
    return figure


def ablation_figure(rows: pd.DataFrame, detector: str) -> Figure:
    """The mean logit drop of every variant, grouped by assumption; the default of each filled."""
    chosen = rows[(rows["metric"] == "logit_drop") & (rows["detector"] == detector)].iloc[::-1].reset_index()
    figure, axis = plt.subplots(figsize=(7.5, 0.22 * len(chosen) + 0.8))
    for y, row in enumerate(chosen.to_dict("records")):
        colour = "#0072b2" if int(row["assumption"][1:]) % 2 else "#d55e00"
        fill = colour if row["default"] else "white"
        bounds = [row["value"] - row["ci_low"], row["ci_high"] - row["value"]]
        error = np.nan_to_num(np.array(bounds, dtype=float))[:, None]
        axis.errorbar(row["value"], y, xerr=error, fmt="o", ms=5, color=colour, mfc=fill, lw=1)
    axis.set_yticks(
        range(len(chosen)), [f"{r['assumption']}  {r['variant']}" for _, r in chosen.iterrows()], fontsize=8
    )
    axis.set_xlabel("mean logit drop of a face (filled: the book's default)")
    axis.set_title(detector, loc="left", fontsize=10)
    return figure


def show(axis: Axes, image: Tensor) -> None:
    """Draws an image (1, 3, H, W) in 0..255, without axes."""
    axis.imshow(image[0].permute(1, 2, 0).detach().cpu().numpy() / 255)
    axis.set_axis_off()


def draw_boxes(axis: Axes, boxes: Tensor, colour: str, *, dashed: bool = False) -> None:
    """Draws boxes (N, 4), xyxy in pixels."""
    for x0, y0, x1, y1 in boxes.tolist():
        style_ = {"ls": (0, (2, 2)), "lw": 0.8} if dashed else {"lw": 1.4}
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, **style_))


def _square(axis: Axes, side: float, ls: str, colour: str) -> None:
    axis.add_patch(Rectangle((-side / 2, -side / 2), side, side, fill=False, ec=colour, ls=ls, lw=1.2))


def _aspect(image: Tensor) -> float:
    return float(image.shape[2] / image.shape[3])


def gradient_picture(gradient: Tensor) -> NDArray[np.float64]:
    """A gradient map (H, W) scaled for showing: its square root, so that the tails can be seen."""
    values = gradient.double().cpu().numpy()
    scaled: NDArray[np.float64] = np.sqrt(values / values.max())
    return scaled
