"""What every figure and table of the book shares: shares as text, tables as HTML, images and boxes on axes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lipcore.report.style import INK, METHOD_COLOURS, epsilon_marker, method_name

PAPER = "poster (HR)"


def percent(row: Mapping[Any, Any]) -> str:
    """A share with its interval, in percent: ``51 [40, 63]``; a dash where there is none.

    Where all faces or none are lost or found there is no spread to draw an interval from: the counts stand instead.
    """
    value = row["value"]
    if value is None or pd.isna(value):
        return "–"
    faces = row.get("n_faces")
    if row.get("metric") in ("asr", "found") and value in (0, 1) and faces is not None and not pd.isna(faces):
        return f"{100 * value:.0f} ({faces * value:.0f}/{faces:.0f})"
    return f"{100 * value:z.0f} [{100 * row['ci_low']:z.0f}, {100 * row['ci_high']:z.0f}]"


def folded(title: str, html: str) -> str:
    """HTML that is folded away until its title is chosen; long tables and what few readers want."""
    return f'<details class="lip-fold"><summary>{title}</summary>{html}</details>'


def html_table(frame: pd.DataFrame, caption: str = "") -> str:
    """A table as HTML that scrolls sideways on a narrow screen; cells may hold HTML of their own, and an interval at a
    cell's end is printed small.

    A row whose ``_dim`` column is true is printed grey; the column itself is not shown.
    """
    dim = list(frame["_dim"]) if "_dim" in frame else [False] * len(frame)
    body = frame.drop(columns="_dim", errors="ignore").reset_index(drop=True)
    head = "".join(f'<th scope="col">{column}</th>' for column in body.columns)
    lines = []
    for grey, (first, *others) in zip(dim, body.itertuples(index=False), strict=True):
        cells = f'<th scope="row">{first}</th>' + "".join(map(_cell, others))
        lines.append(f"<tr{' class=dim' if grey else ''}>{cells}</tr>")
    titled = f"<caption>{caption}</caption>" if caption else ""
    table = f"<table>{titled}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="lip-table" tabindex="0">{table}</div>'


def _cell(value: Any) -> str:
    """What is short and has a gap or a hyphen, such as a method's name, stays whole."""
    text = re.sub(r" (\[[^\]<>]*\])$", r" <small>\1</small>", str(value))
    whole = " class=whole" if re.fullmatch(r"[^<]{1,16}", text) and re.search(r"[ -]", text) else ""
    return f"<td{whole}>{text}</td>"


def intervals(axis: Axes, x: ArrayLike, rows: pd.DataFrame, *, scale: float = 1.0, **look: Any) -> None:
    """Points with their intervals; a row without bounds is a point alone.

    Args:
        axis: to draw on.
        x: (N,) where the rows stand.
        rows: N, with ``value``, ``ci_low`` and ``ci_high``.
        scale: 100 for percent.
        look: as matplotlib's ``errorbar`` takes it.
    """
    value, low, high = (scale * rows[key].to_numpy(dtype=np.float64) for key in ("value", "ci_low", "ci_high"))
    error = np.nan_to_num(np.clip([value - low, high - value], 0, None))
    usual: dict[str, Any] = {"fmt": "o", "ms": 4, "lw": 1.2}
    axis.errorbar(np.asarray(x, dtype=np.float64), value, error, **(usual | look))


def method_intervals(
    axis: Axes, x: ArrayLike, rows: pd.DataFrame, name: str, *, scale: float = 100, fmt: str = "o"
) -> None:
    """:func:`intervals` of a perturbation, in its colour and by its name."""
    intervals(axis, x, rows, scale=scale, fmt=fmt, color=METHOD_COLOURS[name], label=method_name(name))


def epsilon_marks(epsilons: Iterable[float]) -> list[Line2D]:
    """What a legend says of the markers of strengths, weakest first."""
    look: dict[str, Any] = {"ls": "", "color": INK, "mfc": "none"}
    return [Line2D([], [], marker=epsilon_marker(e), label=f"epsilon {e:g}", **look) for e in sorted(set(epsilons))]


def legend_aside(figure: Figure, axes: NDArray[Any], more: Iterable[Line2D] = ()) -> None:
    """One legend for all panels, in the first that is empty, or below them; empty panels are not shown.

    Args:
        figure: that they are of.
        axes: the panels.
        more: entries after the panels' own.
    """
    handles = {label: h for axis in axes.flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    handles |= {str(mark.get_label()): mark for mark in more}
    empty = [axis for axis in axes.flat if not axis.has_data()]
    for axis in empty:
        axis.set_axis_off()
    if empty:
        empty[0].legend(handles.values(), handles, loc="center")
    else:
        columns = 4 if figure.get_figwidth() > 4 else 2
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)


def show(axis: Axes, image: Tensor) -> None:
    """Draws an image (1, 3, H, W) in 0..255, without axes."""
    axis.imshow(image[0].permute(1, 2, 0).detach().cpu().numpy() / 255)
    axis.set_axis_off()


def draw_boxes(axis: Axes, boxes: Tensor, colour: str, *, dashed: bool = False) -> None:
    """Draws boxes (N, 4), xyxy in pixels."""
    for x0, y0, x1, y1 in boxes.tolist():
        style_ = {"ls": (0, (2, 2)), "lw": 0.8} if dashed else {"lw": 1.4}
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, **style_))
