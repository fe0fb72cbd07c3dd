"""What every figure and table of the book shares: style, colours, captions, HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lipcore.detectors.base import Detector

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


def show(axis: Axes, image: Tensor) -> None:
    """Draws an image (1, 3, H, W) in 0..255, without axes."""
    axis.imshow(image[0].permute(1, 2, 0).detach().cpu().numpy() / 255)
    axis.set_axis_off()


def draw_boxes(axis: Axes, boxes: Tensor, colour: str, *, dashed: bool = False) -> None:
    """Draws boxes (N, 4), xyxy in pixels."""
    for x0, y0, x1, y1 in boxes.tolist():
        style_ = {"ls": (0, (2, 2)), "lw": 0.8} if dashed else {"lw": 1.4}
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, **style_))
