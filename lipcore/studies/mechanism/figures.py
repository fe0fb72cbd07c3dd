"""Figures and tables of the mechanism: who makes IMP's direction at a face, and who decides its sign."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector
from lipcore.report.page import NotMeasured
from lipcore.report.plotting import draw_boxes, method_intervals, percent, show
from lipcore.report.style import INK, METHOD_COLOURS, TRUE, detector_name, method_name
from lipcore.studies.mechanism.split import DECIDED, PATHS, Config, decided, prepare, split
from lipcore.studies.mechanism.table import DIRECTIONS, INEQUALITIES

#: Of the parts, in every figure of this page.
PARTS = {"own": "#009e73", "neighbours": "#0072b2", "background": "#d55e00", "both": "#cc79a7", "outside": "#f2f2f2"}


def part_figure(rows: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Shares of the absolute gradient inside e_i at each step: own targets, neighbours, background; a panel a cell."""
    _needs_faces(rows)
    figure, panels = _panels(rows, "share of the gradient\nin $e_i$ (%)", narrow=narrow)
    for (path, cell), axis in panels.items():
        chosen = _of(rows, cell, path)
        below = np.zeros(0)
        for part in ("own", "neighbours", "background"):
            own = chosen[chosen["metric"] == part].sort_values("step")
            values = 100 * own["value"].to_numpy(dtype=float)
            below = below if len(below) else np.zeros(len(values))
            axis.bar(own["step"] + 1, values, bottom=below, color=PARTS[part], label=part)
            below = below + values
            axis.set_xticks(own["step"] + 1)
        axis.set_ylim(0, 100)
    _finish(figure, panels, "step")
    return figure


def flip_figure(rows: pd.DataFrame) -> Figure:
    """Share of e_i's values where R's sign is not the own part's, and which of the others would turn it alone."""
    _needs_faces(rows)
    figure, panels = _panels(rows, "sign of R against\nthe own part (%)")
    lines = {
        "by_neighbours": ("neighbours alone", PARTS["neighbours"], "-"),
        "by_background": ("background alone", PARTS["background"], "-"),
        "flipped": ("all together", INK, "--"),  # over the neighbours' line where there is no background
    }
    for (path, cell), axis in panels.items():
        for metric, (label, colour, dashes) in lines.items():
            _line(axis, _of(rows, cell, path, metric), label, colour, dashes)
        axis.axhline(50, color="#999999", lw=0.8, ls=":")
        axis.set_ylim(-2, 62)
    _finish(figure, panels, "step")
    return figure


def saturation_figure(rows: pd.DataFrame) -> Figure:
    """Mean probability of a face's targets over the steps: the weight its gradient has in the logistic loss."""
    _needs_faces(rows)
    figure, axis = plt.subplots(figsize=(6.5, 3))
    chosen = rows[rows["metric"] == "saturation"]
    for path in PATHS:
        for faces, distance in _cells(chosen):
            own = _of(chosen, (faces, distance), path).sort_values("step")
            style = {40: "-", 160: "--", 240: ":"}.get(distance, "-.")
            label = f"{method_name(path)}, {faces} at {distance} px"
            width = 2.2 if faces > 9 else 1.2
            axis.plot(own["step"], 100 * own["value"], style, lw=width, color=METHOD_COLOURS[path], label=label)
    axis.set_xlabel("steps done")
    axis.set_ylabel("mean probability of\na face's targets (%)")
    axis.set_ylim(-2, 102)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def efficiency_figure(rows: pd.DataFrame) -> Figure:
    """First-order efficiency of a face's own loss on the clean image under each perturbation, by cell."""
    _needs_faces(rows)
    chosen = rows[rows["metric"] == "first_order"]
    cells = _cells(chosen)
    figure, axis = plt.subplots(figsize=(7.5, 3))
    for offset, name in enumerate(DIRECTIONS):
        own = pd.DataFrame([_of(chosen[chosen["perturbation"] == name], cell).iloc[0] for cell in cells])
        x = np.arange(len(cells)) + (offset - (len(DIRECTIONS) - 1) / 2) * 0.12
        method_intervals(axis, x, own, name)
    axis.axhline(0, color="#999999", lw=0.8)
    axis.set_xticks(range(len(cells)), [f"{f} face{'s' * (f > 1)}\n{d} px" for f, d in cells])
    axis.set_ylabel("of the step that a face\nwould get alone (%)")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(DIRECTIONS))
    return figure


def sign_figure(detector: Detector, config: Config, cell: tuple[int, int], seed: int = 0) -> Figure:
    """A face of one image, and its e_i coloured by the part that decides the sign of IMP's and of IMP-I's R."""
    grid = Grid(faces=cell[0], distance=cell[1], face_side=config.face_side, canvas=config.canvas)
    subject = prepare(config, detector, grid, seed)
    if not subject.chosen:
        raise NotMeasured(f"Not shown: {detector_name(detector.name)} finds no face on this image.")
    figure, axes = plt.subplots(1, 1 + len(PATHS), figsize=(9, 3.4))
    show(axes[0], subject.image)
    axes[0].set_title(f"{cell[0]} faces at {cell[1]} px", loc="left", fontsize=10)
    now = split(detector, subject.image, subject.targets, subject.chosen)
    instance, support = subject.instances[subject.chosen[0]], subject.supports[subject.chosen[0]]
    draw_boxes(axes[0], instance.box[None], TRUE)
    colours = ListedColormap([PARTS[name] for name in DECIDED])
    for axis, path in zip(axes[1:], PATHS, strict=True):
        which = decided(*now.parts(0, path), support).cpu().numpy()
        axis.imshow(which, cmap=colours, vmin=-0.5, vmax=len(DECIDED) - 0.5, interpolation="nearest")
        axis.set_xlim(support.cols.start - 8, support.cols.stop + 8)
        axis.set_ylim(support.rows.stop + 8, support.rows.start - 8)
        axis.set_axis_off()
        draw_boxes(axis, instance.box[None], "black")
        held = which != DECIDED.index("outside")
        share = float((which[held] == 0).mean())
        axis.set_title(f"{method_name(path)}: its own sign on {share:.0%} of the pixels", loc="left", fontsize=10)
    handles = [Patch(color=PARTS[name], label=name) for name in DECIDED[:-1]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


Panels = dict[tuple[str, tuple[int, int]], Axes]


def tau_table(rows: pd.DataFrame) -> pd.DataFrame:
    """ASR of the final images by the probability from which a face counts as found, in percent."""
    _needs_faces(rows)
    table: dict[tuple[str, int, int], dict[str, str]] = {}
    for row in rows[rows["metric"] == "asr"].to_dict("records"):
        start = {"attack": method_name(row["path"]), "faces": f"{row['faces']}", "distance": f"{row['distance']} px"}
        entry = table.setdefault((row["path"], row["faces"], row["distance"]), start)
        entry[f"tau {row['tau']:g}"] = percent(row)
    return pd.DataFrame(table.values())


def order_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What a tiny step does on the clean image, in percent of the best possible, and whether the inequalities hold."""
    _needs_faces(rows)
    table: dict[tuple[int, int], dict[str, str]] = {}
    held = {f"holds_{name}": f"{method_name(more)} at least {method_name(less)}" for more, less, name in INEQUALITIES}
    for row in rows.to_dict("records"):
        entry = table.setdefault(
            (row["faces"], row["distance"]), {"faces": f"{row['faces']}", "distance": f"{row['distance']} px"}
        )
        if row["metric"] == "total":
            entry[method_name(row["perturbation"])] = f"{100 * row['value']:.1f}"
        elif row["metric"] in held:
            entry[held[row["metric"]]] = f"{round(row['value'] * row['n'])} of {row['n']} images"
    return pd.DataFrame(table.values())


def _needs_faces(rows: pd.DataFrame) -> None:
    """Raises NotMeasured where there are no rows."""
    if rows.empty:
        raise NotMeasured("Not measured: no face was found.")


def _panels(rows: pd.DataFrame, label: str, *, narrow: bool = False) -> tuple[Figure, Panels]:
    """A panel for each path (rows) and cell (columns); for a phone the other way round."""
    cells = _cells(rows)
    size = (2.2 * max(2, len(cells)) + 0.8, 2.2 * len(PATHS) + 0.6)
    shape = (len(PATHS), len(cells))
    if narrow:
        shape, size = shape[::-1], (3.7, 1.7 * len(cells) + 0.8)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharey=True)
    down = axes.T if narrow else axes
    panels = {(path, cell): down[i, j] for i, path in enumerate(PATHS) for j, cell in enumerate(cells)}
    for (path, (faces, distance)), axis in panels.items():
        axis.set_title(f"{method_name(path)}: {faces} at {distance} px", loc="left", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    return figure, panels


def _finish(figure: Figure, panels: Panels, label: str) -> None:
    last = [axis for (path, _), axis in panels.items() if path == PATHS[-1]]
    for axis in last:
        axis.set_xlabel(label)
    handles, names = last[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))


def _line(axis: Axes, own: pd.DataFrame, label: str, colour: str, dashes: str) -> None:
    own = own.sort_values("step")
    step = own["step"] + 1
    axis.plot(step, 100 * own["value"], dashes, marker="o", ms=3, color=colour, label=label)
    low, high = (100 * own[k].to_numpy(dtype=float) for k in ("ci_low", "ci_high"))
    axis.fill_between(step, low, high, color=colour, alpha=0.15, lw=0)


def _cells(rows: pd.DataFrame) -> list[tuple[int, int]]:
    return sorted({(int(f), int(d)) for f, d in zip(rows["faces"], rows["distance"], strict=True)})


def _of(rows: pd.DataFrame, cell: tuple[int, int], path: str = "", metric: str = "") -> pd.DataFrame:
    """The rows of one cell, and of one path and metric where given."""
    chosen = rows[(rows["faces"] == cell[0]) & (rows["distance"] == cell[1])]
    if path:
        chosen = chosen[chosen["path"] == path]
    return chosen[chosen["metric"] == metric] if metric else chosen
