"""Every figure and table of the book, drawn from results files and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
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
from lipcore.detectors.base import Detector
from lipcore.experiments.photos import Shown
from lipcore.receptive_field import MeasuredErf
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
    return f"{100 * row['value']:z.0f} [{100 * row['ci_low']:z.0f}, {100 * row['ci_high']:z.0f}]"


def html_table(frame: pd.DataFrame) -> str:
    """A table as HTML that scrolls sideways on a narrow screen; cells may hold HTML of their own.

    A row whose ``_dim`` column is true is printed grey; the column itself is not shown.
    """
    dim = list(frame["_dim"]) if "_dim" in frame else [False] * len(frame)
    body = frame.drop(columns="_dim", errors="ignore").reset_index(drop=True)
    head = "".join(f"<th>{column}</th>" for column in body.columns)
    lines = [
        f"<tr{' class=dim' if grey else ''}>" + "".join(f"<td>{value}</td>" for value in row) + "</tr>"
        for grey, row in zip(dim, body.itertuples(index=False), strict=True)
    ]
    return f'<div class="lip-table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def ipi_table(
    rows: pd.DataFrame,
    quick: pd.DataFrame | None,
    reported: Sequence[Mapping[str, Any]],
    detector: str,
    epsilons: Sequence[float],
) -> pd.DataFrame:
    """The IPI table: ASR in percent by cell, epsilon and perturbation, the poster's beside, with intervals and images.

    Args:
        rows: the results to show first.
        quick: this build's quick run, as a second line in each cell where the first is another run's.
        reported: the poster's numbers.
        detector: whose rows.
        epsilons: which of them, in their order; the poster names none.
    """
    poster = {(r["faces"], r["distance"]): r["value"] for r in reported}
    table: dict[Any, dict[str, Any]] = {}

    def fill(frame: pd.DataFrame, own: bool) -> None:
        chosen = frame[
            (frame["metric"] == "asr") & (frame["detector"] == detector) & frame["epsilon"].isin(list(epsilons))
        ]
        for row in chosen.to_dict("records"):
            cell = (int(row["faces"]), int(row["distance"]))
            start = {
                "faces": cell[0],
                "distance": f"{cell[1]} px",
                PAPER: f"{poster[cell]:g}" if cell in poster else "–",
                "ε": f"{row['epsilon']:g}",
            }
            entry = table.setdefault((*cell, epsilons.index(row["epsilon"])), start)
            value, _, interval = percent(row).partition(" ")
            behind = f"<small>{interval}<br>n={row['n']}</small>"
            if own:
                entry["clean"] = f"{100 * row['clean_rate']:.0f}"
                entry["_dim"] = row["clean_rate"] < LEAST_CLEAN
                entry[row["perturbation"]] = f"{value}<br>{behind}"
            else:
                before = entry.get(row["perturbation"], "–")
                entry[row["perturbation"]] = f"{before}<br><small>quick {value}</small><br>{behind}"

    fill(rows, own=True)
    if quick is not None:
        fill(quick, own=False)
    order = ["faces", "distance", PAPER, "ε", "clean", *PRESETS, "_dim"]
    frame = pd.DataFrame([table[key] for key in sorted(table)])
    frame = frame.reindex(columns=[c for c in order if c in frame])
    return frame.fillna({c: "–" for c in ("clean", *PRESETS) if c in frame})


def difference_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The comparisons behind the verdicts: differences in ASR, in percentage points."""
    chosen = rows[rows["metric"] == "difference"]
    return pd.DataFrame(
        {
            "detector": row["detector"],
            "claim": row["claim"].upper(),
            "comparison": row["label"],
            "difference": f"{percent(row)} points",
            "images": row["n"],
            "_dim": not row["counts"],
        }
        for row in chosen.to_dict("records")
    )


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
        table.append({"detector": detector, "template": template, **shown, "images": group["n"].iloc[0]})
    return pd.DataFrame(table)


def photo_table(rows: pd.DataFrame) -> pd.DataFrame:
    """ASR and visibility of every perturbation on the photographs."""
    formats = {"asr": 0, "false_positives": 1, "psnr": 1, "ssim": 3, "l2": 2, "touched": 0}
    titles = {"asr": "ASR (%)", "false_positives": "false positives", "psnr": "PSNR (dB)", "ssim": "SSIM"}
    table: dict[str, dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        if row["metric"] not in formats:
            continue
        scale, digits = 100 if row["metric"] in ("asr", "touched") else 1, formats[row["metric"]]
        text = "–" if pd.isna(row["value"]) else f"{scale * row['value']:.{digits}f}"
        if not (pd.isna(row["ci_low"]) or pd.isna(row["value"])):
            text += f" [{scale * row['ci_low']:.{digits}f}, {scale * row['ci_high']:.{digits}f}]"
        entry = table.setdefault(row["perturbation"], {"perturbation": row["perturbation"]})
        entry[titles.get(row["metric"], {"touched": "touched (%)", "l2": "L2"}.get(row["metric"], row["metric"]))] = (
            text
        )
    return pd.DataFrame(table.values())


def ablation_table(rows: pd.DataFrame) -> pd.DataFrame:
    """ASR and logit drop of every variant of every assumption, a column for each detector."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        label = f"<b>{row['variant']}</b>" if row["default"] else row["variant"]
        entry = table.setdefault((row["assumption"], row["variant"]), {"": row["assumption"], "variant": label})
        value = percent(row) if row["metric"] == "asr" else "–" if pd.isna(row["value"]) else f"{row['value']:.2f}"
        entry[f"{row['detector']}: {'ASR (%)' if row['metric'] == 'asr' else 'logit drop'}"] = value
    return pd.DataFrame(table.values())


def cover_figure(detector: Detector, clean: Tensor, attacked: Tensor) -> Figure:
    """A clean image and an attacked one with the detections on each, and the noise between them x 16."""
    ratio = clean.shape[2] / clean.shape[3]
    figure, axes = plt.subplots(1, 3, figsize=(11, 11 / 3 * ratio + 0.35))
    for axis, image, name in ((axes[0], clean, "clean"), (axes[1], attacked, "after LIP")):
        found = detector.detect(image)[0]
        show(axis, image)
        draw_boxes(axis, found.boxes, TRUE)
        axis.set_title(f"{name}: {len(found)} face{'s' * (len(found) != 1)} found", loc="left", fontsize=10)
    show(axes[2], ((attacked - clean) * 16 + 127.5).clamp(0, 255))
    axes[2].set_title("the noise x 16", loc="left", fontsize=10)
    return figure


def ipi_figure(rows: pd.DataFrame, reported: Sequence[Mapping[str, Any]], metric: str = "asr") -> Figure:
    """ASR or interference of every perturbation in each cell: a panel for each detector (down) and epsilon (across).

    Args:
        rows: of the synthetic study.
        reported: the poster's numbers, drawn as crosses in panels of ASR.
        metric: ``"asr"``, ``"logit_drop"`` or ``"interference"``.
    """
    chosen = rows[rows["metric"] == metric].dropna(subset=["value"])
    if chosen.empty:
        figure, axis = plt.subplots(figsize=(7.5, 1))
        axis.set_axis_off()
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", color="#666666")
        return figure
    detectors, epsilons = list(dict.fromkeys(chosen["detector"])), sorted(set(chosen["epsilon"]), reverse=True)
    size = (7.5 if len(epsilons) == 1 else 5 * len(epsilons), 2.5 * len(detectors) + 0.4)
    figure, axes = plt.subplots(len(detectors), len(epsilons), figsize=size, squeeze=False, sharey=metric == "asr")
    scale = 100 if metric == "asr" else 1
    for axis, (detector, epsilon) in zip(axes.flat, product(detectors, epsilons), strict=True):
        group = chosen[(chosen["detector"] == detector) & (chosen["epsilon"] == epsilon)]
        axis.set_title(f"{detector}, epsilon {epsilon:g}" + ": not measured" * group.empty, loc="left", fontsize=10)
        entries = {(int(r["faces"]), int(r["distance"]), r["perturbation"]): r for r in group.to_dict("records")}
        cells = sorted({(faces, distance) for faces, distance, _ in entries})
        names = [p for p in PRESETS if any(name == p for _, _, name in entries)]
        for offset, name in enumerate(names):
            own = {at: entries[*cell, name] for at, cell in enumerate(cells) if (*cell, name) in entries}
            value, low, high = (
                scale * np.array([row[key] for row in own.values()], dtype=np.float64)
                for key in ("value", "ci_low", "ci_high")
            )
            x = np.array(list(own)) + (offset - (len(names) - 1) / 2) * 0.11
            error = np.nan_to_num(np.clip([value - low, high - value], 0, None))
            axis.errorbar(x, value, error, fmt="o", ms=4, lw=1.2, color=COLOURS[name], label=name)
        if metric == "asr":
            known = {(r["faces"], r["distance"]): r["value"] for r in reported}
            at = [i for i, c in enumerate(cells) if c in known]
            axis.plot(at, [known[cells[i]] for i in at], "kx", ms=7, label=PAPER)
            axis.set_ylim(-4, 104)
        axis.set_xticks(range(len(cells)), [f"{f} face{'s' * (f > 1)}\n{d} px" for f, d in cells])
    for axis in axes[:, 0]:
        axis.set_ylabel({"asr": "attack success (%)", "interference": "interference"}.get(metric, "logit drop"))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


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
