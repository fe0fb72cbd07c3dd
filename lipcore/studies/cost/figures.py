"""Figures and tables of what a step of LIP costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from lipcore.attacks.crop import Support
from lipcore.report.page import NotMeasured
from lipcore.report.plotting import intervals, percent, show
from lipcore.report.style import detector_name
from lipcore.studies.cost.colouring import Colouring
from lipcore.studies.cost.lip_peers import PASSES
from lipcore.studies.cost.timing import MODES, Layer

#: Colour and line of each mode; the physical limit and what is only a part of a step are grey.
LINES = {
    "forward": ("#767676", ":"),
    "raw": ("#767676", "--"),
    "imp": ("#d55e00", "-"),
    "naive": ("#0072b2", "-"),
    "exact": ("#009e73", "-"),
    "tolerance": ("#cc79a7", "-"),
}
#: What :mod:`lipcore.studies.cost.lip_speedups` measured, in the order of its table.
SPEEDUPS = {
    ("step", "contiguous"): "forward and backward, contiguous",
    ("step", "compiled"): "forward and backward, torch.compile",
    ("process", "allocator"): "IMP, the process keeps its memory",
    ("forward", "inference-mode"): "forward alone, inference mode",
    ("forward", "contiguous"): "forward alone, contiguous",
    ("forward", "compiled"): "forward alone, torch.compile",
    **{("batch", f"2^{power} pixels"): f"LIP, batches of 2^{power} pixels" for power in (14, 16, 20, 22)},
    ("overhead", "imp"): "IMP over raw forward and backward",
    ("quiet", "imp"): "the same, the process keeps its memory",
}
#: Less agreement of a gradient's signs than this is said in the table: float noise explains no more.
SAME_SIGNS = 0.999
LABELS = {"faces": "faces", "pixels": "pixels", "batch": "images in a batch", "threads": "threads"}


def cost_table(rows: pd.DataFrame, detector: str) -> pd.DataFrame:
    """Every mode of every cell of one detector: seconds, ratio to IMP with its interval, k, memory, agreement."""
    table = []
    chosen = rows[(rows["detector"] == detector) & (rows["mode"] != "forward")]
    for row in chosen.sort_values(["canvas", "faces", "distance"], kind="stable").to_dict("records"):
        limit = None if _missing(row["k"]) else 1.5 + 1.5 * row["k"]
        ratio = f"{row['ratio_to_imp']:.2f}<br><small>[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]</small>"
        table.append(
            {
                "faces": f"{row['faces']}<br><small>{row['instances']} found</small>",
                "canvas": f"{row['canvas']} px"
                + (f"<br><small>{row['distance']} px apart</small>" if row["distance"] else ""),
                "mode": row["mode"],
                "s a step": _number(row["seconds_per_step"], 3) + ("*" if row["scaled"] else ""),
                "ratio to IMP": ratio,
                "k": _number(row["k"], 2),
                "1.5 + 1.5 k": _number(limit, 2),
                "colours": _number(row["colours"], 0),
                "MB": _number(row["peak_mb"], 0),
                "same sign (%)": _number(row["sign_agreement"], 3, 100),
                "leak (%)": _number(row["leak"], 2, 100),
            }
        )
    return pd.DataFrame(table)


def cost_figure(
    rows: pd.DataFrame, column: str = "seconds_per_step", label: str = "seconds a step", *, narrow: bool = False
) -> Figure:
    """A quantity of each mode against the number of faces, on the canvas that all numbers share; a panel a detector.

    Args:
        rows: of the results.
        column: ``"seconds_per_step"`` or ``"peak_mb"``.
        label: of the vertical axis.
        narrow: for a phone, panels one below another.
    """
    chosen = rows[(rows["distance"] == 0) & rows[column].notna()]
    if chosen.empty:
        raise NotMeasured("Not measured.")
    panels = list(chosen.groupby("detector", sort=False))
    n = len(panels)
    lines, columns = (n, 1) if narrow else (1, n)
    size = (3.7, 2.4 * n + 1.2) if narrow else (max(6.5, 3.6 * n), 3.4)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis, (detector, group) in zip(axes.flat, panels, strict=True):
        for mode, (colour, ls) in LINES.items():
            line = group[group["mode"] == mode].sort_values("faces")
            if not line.empty:
                axis.plot(line["faces"], line[column], ls, marker="o", ms=4, color=colour, label=MODES[mode].label)
        axis.set_xscale("log")
        if column == "peak_mb":
            axis.set_ylim(bottom=0)
        else:
            _log(axis, "y")
        faces = sorted(set(group["faces"]))
        axis.set_xticks(faces, [str(f) for f in faces])
        axis.set_xticks([], minor=True)
        axis.set_xlabel(f"faces on {group['canvas'].iloc[0]} px")
        axis.set_title(detector_name(str(detector)), loc="left", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=1 if narrow else 2)
    return figure


def model_figure(rows: pd.DataFrame) -> Figure:
    """The measured ratio of a step to IMP's against what the cost model says, in all cells of all detectors."""
    chosen = rows[rows["model_ratio"].notna()]
    if chosen.empty:
        raise NotMeasured("Not measured.")
    figure, axis = plt.subplots(figsize=(5, 4))
    top = 1.15 * float(chosen[["model_ratio", "ratio_to_imp"]].max().max())
    low = 0.85 * float(chosen[["model_ratio", "ratio_to_imp"]].min().min())
    axis.plot([low, top], [low, top], color="#767676", lw=1, label="as the model says")
    for marker, (detector, group) in zip("osD^v", chosen.groupby("detector", sort=False), strict=False):
        for mode, line in group.groupby("mode", sort=False):
            points = line.assign(value=line["ratio_to_imp"], ci_low=line["ratio_low"], ci_high=line["ratio_high"])
            label, colour = f"{detector_name(str(detector))}, {mode}", LINES[str(mode)][0]
            intervals(axis, line["model_ratio"], points, fmt=marker, lw=1, color=colour, label=label)
    _log(axis, "x")
    _log(axis, "y")
    axis.set_xlabel("(F + k B) / (F + B)")
    axis.set_ylabel("measured ratio to IMP")
    axis.legend(fontsize=8)
    return figure


def layers_figure(image: Tensor, layers: Sequence[Layer], support: Support) -> Figure:
    """One instance's cone (dashed) and window (solid) at the last convolution of each stride, and e_i in the image."""
    last = {layer.stride: layer for layer in layers}
    figure, axes = plt.subplots(1, len(last), figsize=(2.6 * len(last), 3.0), squeeze=False)
    rows, cols = support.rows, support.cols
    for axis, (stride, layer) in zip(axes[0], sorted(last.items(), reverse=True), strict=True):
        show(axis, image)
        _rectangle(axis, (cols.start, rows.start, cols.stop, rows.stop), "#ffd700", "-")
        _rectangle(axis, layer.cone, "#56b4e9", "--")
        _rectangle(axis, layer.window, "#009e73", "-")
        axis.set_title(f"stride {stride:.3g}", loc="left", fontsize=10)
    return figure


def colouring_figure(panels: Sequence[tuple[str, Tensor, Sequence[Support], Colouring]]) -> Figure:
    """Instances that could share a backward pass in one colour: e_i filled, the TRF of the first colour's dashed.

    Args:
        panels: for each a title, the image (1, 3, H, W), e_i of the instances, and their colours.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.5), squeeze=False)
    palette = plt.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for axis, (title, image, supports, coloured) in zip(axes[0], panels, strict=True):
        show(axis, image)
        for support, number, cone in zip(supports, coloured.colours, coloured.cones, strict=True):
            rows, cols, colour = support.rows, support.cols, palette[number % len(palette)]
            place = (cols.start, rows.start), cols.stop - cols.start, rows.stop - rows.start
            axis.add_patch(Rectangle(*place, facecolor=colour, edgecolor=colour, alpha=0.45))
            if number == 0:
                _rectangle(axis, cone, colour, "--")
        axis.set_title(f"{title}: {len(supports)} instances, {coloured.passes} colours", loc="left", fontsize=10)
    return figure


def sweep_figure(rows: pd.DataFrame, column: str = "value", label: str = "s a step") -> Figure:
    """A step against faces, pixels, batch size and threads; a row of panels for each detector.

    Args:
        rows: of the results.
        column: ``"value"``, the seconds, or ``"peak_mb"``.
        label: of the vertical axes.
    """
    rows = rows[rows[column].notna()]
    if rows.empty:
        raise NotMeasured("Not measured.")
    detectors, sweeps = list(dict.fromkeys(rows["detector"])), list(dict.fromkeys(rows["sweep"]))
    size = (2.6 * len(sweeps), 2.6 * len(detectors) + 0.4)
    figure, axes = plt.subplots(len(detectors), len(sweeps), figsize=size, squeeze=False)
    for line, detector in zip(axes, detectors, strict=True):
        for axis, sweep in zip(line, sweeps, strict=True):
            group = rows[(rows["detector"] == detector) & (rows["sweep"] == sweep)]
            for mode, (colour, ls) in LINES.items():
                own = group[group["mode"] == mode].sort_values("x")
                if not own.empty:
                    axis.plot(own["x"], own[column], ls, marker="o", ms=3, color=colour, label=MODES[mode].label)
            if column == "peak_mb":
                axis.set_ylim(bottom=0)
            else:
                _log(axis, "y")
            axis.set_xscale("log")
            axis.set_xticks(*_ticks(group["x"], sweep))
            axis.set_xticks([], minor=True)
            axis.set_xlabel(LABELS[sweep])
        line[0].set_ylabel(f"{detector_name(detector)}: {label}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def peers_figure(rows: pd.DataFrame) -> Figure:
    """ASR of each attack against the seconds it takes for an image; a panel an epsilon, the passes alone in grey."""
    panels = list(rows.groupby("epsilon", sort=True))
    figure, axes = plt.subplots(1, len(panels), figsize=(max(5, 3.4 * len(panels)), 3.6), sharey=True, squeeze=False)
    for axis, (epsilon, group) in zip(axes[0], panels, strict=True):
        for marker, row in zip("vosD^P*", group.to_dict("records"), strict=False):
            if row["attack"] == PASSES:
                axis.axvline(row["seconds_per_image"], color="#767676", ls="--", lw=1, label=PASSES)
                continue
            at, label = [row["seconds_per_image"]], row["attack"]
            intervals(axis, at, pd.DataFrame([row]), scale=100, fmt=marker, ms=6, lw=1, label=label)
        axis.set_xlim(left=0)
        axis.set_ylim(0, 104)
        axis.set_xlabel("seconds an image")
        axis.set_title(f"epsilon {epsilon:g}", loc="left", fontsize=10)
    axes[0, 0].set_ylabel("ASR (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def peers_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Success and time of each attack at each epsilon; the intervals are those of the ASR."""
    table = []
    for row in rows.to_dict("records"):
        attack = row["attack"] != PASSES
        asr = f"{100 * row['value']:.0f} [{100 * row['ci_low']:.0f}, {100 * row['ci_high']:.0f}]"
        table.append(
            {
                "epsilon": f"{row['epsilon']:g}",
                "attack": row["attack"],
                "version": f"{row['package']} {row['version']}",
                "ASR (%)": asr if attack else "–",
                "faces lost": f"{row['hits']} of {row['faces']}" if attack else "–",
                "s an image": _number(row["seconds_per_image"], 2),
                "s a step": _number(row["seconds_per_step"], 3),
                "faces lost a second": _number(row["hits_per_second"], 2) if attack else "–",
            }
        )
    return pd.DataFrame(table)


def tolerance_table(rows: pd.DataFrame) -> pd.DataFrame:
    """ASR of each detector at each epsilon and tolerance, the largest leak found, and the difference from exact."""
    table: dict[Any, dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        start = {"detector": detector_name(row["detector"]), "epsilon": f"{row['epsilon']:g}"}
        start["tolerance (%)"] = f"{100 * row['tolerance']:g}"
        start["leak (%)"] = _number(row["leak"], 2, 100)
        entry = table.setdefault((row["detector"], row["epsilon"], row["tolerance"]), start)
        entry["ASR (%)" if row["metric"] == "asr" else "less exact (points)"] = percent(row)
        entry["images"] = row["n"]
    return pd.DataFrame(table.values()).fillna("–")


def speedups_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Processor time of each variant over that of the detector as shipped, with its interval; a column a detector.

    Below a variant that is compiled stand what compiling took, and how many signs agree where they do not all.
    """
    timed = rows[rows["metric"] == "ratio"]
    found = {(r["scope"], r["variant"], r["detector"]): r for r in timed.to_dict("records")}
    names = list(dict.fromkeys(timed["detector"]))
    table = []
    for key, label in SPEEDUPS.items():
        own = {detector_name(name): found.get((*key, name), {}) for name in names}
        for title, cell in ((label, _ratio), (f"{label}: s to compile", _compiling), (f"{label}: same signs", _signs)):
            cells = {name: cell(row) for name, row in own.items()}
            if cell is _ratio or set(cells.values()) != {"–"}:
                table.append({"variant": title, **cells})
    return pd.DataFrame(table)


def _ratio(row: Mapping[Any, Any]) -> str:
    if not row:
        return "–"
    return f"{row['value']:.2f} <small>[{row['ci_low']:.2f}, {row['ci_high']:.2f}]</small>"


def _compiling(row: Mapping[Any, Any]) -> str:
    return _number(row.get("compile_seconds"), 0)


def _signs(row: Mapping[Any, Any]) -> str:
    agreement: Any = row.get("sign_agreement")
    if _missing(agreement) or agreement >= SAME_SIGNS:
        return "–"
    return f"<strong>{100 * agreement:.0f} %</strong>"


def memory_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Peak memory of one step on a large photograph, and of each megapixel."""
    table: dict[str, dict[str, str]] = {}
    for row in rows[rows["metric"] == "peak_mb"].to_dict("records"):
        entry = table.setdefault(
            row["detector"], {"detector": detector_name(row["detector"]), "faces found": f"{row['instances']:.0f}"}
        )
        each = f"<br><small>{_number(row['mb_per_megapixel'], 0)} a megapixel</small>"
        entry[f"{row['variant']} (MB)"] = _number(row["value"], 0) + each
    return pd.DataFrame(table.values())


def _log(axis: Axes, name: str) -> None:
    """A logarithmic axis with a few plain numbers."""
    axis.set(**{f"{name}scale": "log"})
    own = axis.xaxis if name == "x" else axis.yaxis
    own.set_major_locator(LogLocator(subs=(1, 2, 5)))
    own.set_major_formatter(StrMethodFormatter("{x:g}"))
    own.set_minor_formatter(NullFormatter())


def _ticks(values: pd.Series, sweep: str) -> tuple[list[float], list[str]]:
    """Where a sweep was measured; an image of so many pixels is named by its side."""
    at = sorted(set(values))
    return at, [f"{value**0.5:.0f}²" if sweep == "pixels" else f"{value:g}" for value in at]


def _rectangle(axis: Axes, box: Sequence[float], colour: str, ls: str) -> None:
    x0, y0, x1, y1 = box
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, ls=ls, lw=1.5))


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _number(value: Any, digits: int, scale: float = 1) -> str:
    return "–" if _missing(value) else f"{scale * value:.{digits}f}"
