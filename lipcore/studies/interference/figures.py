"""The synthetic study in figures and its table: by faces and distance, faces alone, epsilon, distance over ERF size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipcore.attacks.presets import PRESETS
from lipcore.report.page import NotMeasured
from lipcore.report.plotting import PAPER, intervals, method_intervals, percent, show
from lipcore.report.style import DETECTOR_COLOURS, INK, METHOD_COLOURS, detector_name, method_name
from lipcore.studies.base.verdict_rules import LEAST_CLEAN
from lipcore.studies.interference.config import POSTER_CELLS, Config

#: The labels of the metrics, and what they are multiplied by.
METRICS = {"asr": ("attack success (%)", 100.0), "interference": ("interference coefficient", 1.0)}


def cells_figure(config: Config) -> Figure:
    """The first image of each of the poster's five cells."""
    figure, axes = plt.subplots(1, len(POSTER_CELLS), figsize=(10, 2.3))
    for axis, (faces, distance) in zip(axes, POSTER_CELLS, strict=True):
        show(axis, config.grid(faces, distance).draw(0).image)
        axis.set_title(f"{faces} at {distance} px", fontsize=9)
    return figure


def grid_figure(rows: pd.DataFrame, detector: str, epsilons: Sequence[float], metric: str = "asr") -> Figure:
    """A panel for each epsilon and perturbation: faces upward, distance to the right, the value as colour and number.

    Where fewer than 80 % of the faces were found before the attack the number is grey; where it was not measured the
    place is empty. Random noise has no panel: it stays near 0 everywhere.

    Args:
        rows: of the synthetic study.
        detector, epsilons: which of them.
        metric: ``"asr"`` or ``"interference"``.
    """
    label, scale = METRICS[metric]
    chosen = rows[(rows["detector"] == detector) & (rows["metric"] == metric) & (rows["perturbation"] != "random")]
    panels = [
        (epsilon, name)
        for epsilon in epsilons
        for name in PRESETS
        if ((chosen["epsilon"] == epsilon) & (chosen["perturbation"] == name)).any()
    ]
    if not panels:
        raise NotMeasured("Not measured.")
    chosen = chosen[chosen["epsilon"].isin([epsilon for epsilon, _ in panels])]
    faces = sorted({int(f) for f in chosen["faces"]})
    distances = sorted({int(d) for d in chosen["distance"]})
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    size = (2.6 * columns + 0.6, 0.6 + (0.2 * len(faces) + 0.4) * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    low, high, colours = (0, 100, "viridis") if metric == "asr" else (-0.6, 0.6, "RdBu_r")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (epsilon, name) in zip(axes.flat, panels, strict=False):
        table = np.full((len(faces), len(distances)), np.nan)
        own = chosen[(chosen["epsilon"] == epsilon) & (chosen["perturbation"] == name)]
        for row in own.dropna(subset=["value"]).to_dict("records"):
            place = faces.index(int(row["faces"])), distances.index(int(row["distance"]))
            table[place] = value = scale * row["value"]
            bright = value > (low + high) / 2 if metric == "asr" else abs(value) < 0.3
            colour = "#999999" if row["clean_rate"] < LEAST_CLEAN else "black" if bright else "white"
            text = f"{value:.0f}" if metric == "asr" else f"{value:z.2f}"
            axis.text(*place[::-1], text, ha="center", va="center", fontsize=7, color=colour)
        image = axis.imshow(table, origin="lower", aspect="auto", vmin=low, vmax=high, cmap=colours)
        axis.set_title(f"{method_name(name)}, epsilon {epsilon:g}", loc="left", fontsize=9)
        axis.set_xticks(range(len(distances)), [str(d) for d in distances], fontsize=7)
        axis.set_yticks(range(len(faces)), [str(f) for f in faces], fontsize=7)
        axis.tick_params(length=0)
        axis.grid(visible=False)
    figure.supxlabel("distance (px)", fontsize=9)
    figure.supylabel("faces", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6, label=label)
    return figure


def distance_figure(rows: pd.DataFrame, sides: Mapping[str, float], epsilons: Sequence[float]) -> Figure:
    """The interference coefficient against distance over ERF size: IMP and IMP-I across, an epsilon a line of panels.

    A point for each cell of the grid, larger with more faces, in its detector's colour; lines join cells of the same
    number of faces.

    Args:
        rows: of the synthetic study.
        sides: detector -> side in pixels of the square that holds 90 % of a response's gradient.
        epsilons: which of them; those without a coefficient are left out.
    """
    chosen = rows[(rows["metric"] == "interference") & rows["detector"].isin(list(sides))].dropna(subset=["value"])
    shown = [epsilon for epsilon in epsilons if (chosen["epsilon"] == epsilon).any()]
    if not shown:
        raise NotMeasured("Not measured.")
    names = ("imp", "imp-i")
    figure, axes = plt.subplots(
        len(shown), len(names), figsize=(8.5, 2.7 * len(shown) + 0.5), squeeze=False, sharex=True, sharey=True
    )
    for axis, (epsilon, name) in zip(axes.flat, product(shown, names), strict=True):
        panel = chosen[(chosen["epsilon"] == epsilon) & (chosen["perturbation"] == name)]
        for detector, side in sides.items():
            colour = DETECTOR_COLOURS.get(detector, INK)
            for _, points in panel[panel["detector"] == detector].sort_values("distance").groupby("faces"):
                x = points["distance"].to_numpy(dtype=np.float64) / side
                intervals(axis, x, points, fmt="-", lw=0.8, elinewidth=0.6, color=colour, alpha=0.5)
                area = 5 + 5 * points["faces"].to_numpy(dtype=np.float64) ** 0.5
                axis.scatter(x, points["value"], area, color=colour, lw=0)
        axis.axhline(0, color="#999999", lw=0.8)
        axis.axvline(1, color="#999999", lw=0.8, ls=":")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_title(f"{method_name(name)}, epsilon {epsilon:g}", loc="left", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("distance / side of the 90 % square")
    for axis in axes[:, 0]:
        axis.set_ylabel(METRICS["interference"][0])
    drawn = [d for d in sides if (chosen["detector"] == d).any()]
    handles = [
        Line2D(
            [],
            [],
            marker="o",
            color=DETECTOR_COLOURS.get(d, INK),
            lw=0.8,
            label=f"{detector_name(d)} ({sides[d]:.0f} px)",
        )
        for d in drawn
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def faces_figure(rows: pd.DataFrame, detector: str, distance: int) -> Figure:
    """ASR against the number of faces at one distance, a line for each perturbation, a panel for each epsilon."""
    return _lines(rows, detector, "faces", "epsilon", {"distance": distance}, "epsilon {:g}", f"faces at {distance} px")


def epsilon_figure(rows: pd.DataFrame, detector: str, cells: tuple[tuple[int, int], ...]) -> Figure:
    """ASR against epsilon, a line for each perturbation, a panel for each of ``cells`` (faces, distance)."""
    kept = rows[[(f, d) in cells for f, d in zip(rows["faces"], rows["distance"], strict=True)]].copy()
    kept["cell"] = [f"{int(f)} at {int(d)} px" for f, d in zip(kept["faces"], kept["distance"], strict=True)]
    return _lines(kept, detector, "epsilon", "cell", {}, "{}", "epsilon (grey levels)")


def _lines(
    rows: pd.DataFrame, detector: str, along: str, panel: str, fixed: dict[str, int], title: str, label: str
) -> Figure:
    chosen = rows[(rows["detector"] == detector) & (rows["metric"] == "asr")]
    for name, value in fixed.items():
        chosen = chosen[(chosen[name] == value) | (chosen["faces"] == 1)]
    panels = [(key, group) for key, group in _by(chosen, panel) if group[along].nunique() > 1]
    if not panels:
        raise NotMeasured("Not measured.")
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3 * columns, 2.5 * lines), squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (key, group) in zip(axes.flat, panels, strict=False):
        for name in [p for p in PRESETS if p in set(group["perturbation"])]:
            _line(axis, group[group["perturbation"] == name].sort_values(along), along, name)
        axis.set_xscale("log", base=2)
        ticks = _apart(sorted(set(group[along])))
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
        axis.minorticks_off()
        axis.set_ylim(-4, 104)
        axis.set_title(title.format(key), loc="left", fontsize=10)
        axis.set_xlabel(label)
    axes[0, 0].set_ylabel(METRICS["asr"][0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _apart(values: Sequence[float], ratio: float = 1.5) -> list[float]:
    """Those of some ascending values that a logarithmic axis has room to name."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= ratio * kept[-1]:
            kept.append(value)
    return kept


def _by(rows: pd.DataFrame, panel: str) -> list[tuple[Any, pd.DataFrame]]:
    """The rows by panel, numbers and cells such as "9 at 40 px" in the order of their numbers."""
    groups = list(rows.groupby(panel, sort=False))
    return sorted(groups, key=lambda item: [int(n) for n in re.findall(r"\d+", str(item[0]))])


def _line(axis: Axes, points: pd.DataFrame, along: str, name: str) -> None:
    x = points[along].to_numpy(dtype=np.float64)
    value, low, high = (100 * points[c].to_numpy(dtype=np.float64) for c in ("value", "ci_low", "ci_high"))
    axis.plot(x, value, "o-", ms=3.5, lw=1.3, color=METHOD_COLOURS[name], label=method_name(name))
    # Where all or none are hidden there is no spread to draw a band from; see `percent`.
    spread = (value > 0) & (value < 100)
    axis.fill_between(x, low, high, where=spread, color=METHOD_COLOURS[name], alpha=0.12, lw=0)


def ipi_table(
    rows: pd.DataFrame, reported: Sequence[Mapping[str, Any]], detector: str, epsilons: Sequence[float]
) -> pd.DataFrame:
    """The IPI table: ASR in percent with its interval by cell, epsilon and perturbation, and the poster's beside.

    Args:
        rows: of the synthetic study.
        reported: the poster's numbers.
        detector: whose rows.
        epsilons: which of them, in their order; the poster names none.
    """
    poster = {(r["faces"], r["distance"]): r["value"] for r in reported}
    table: dict[Any, dict[str, Any]] = {}
    at = (rows["metric"] == "asr") & (rows["detector"] == detector) & rows["epsilon"].isin(list(epsilons))
    chosen = rows[at].sort_values("faces")
    for row in chosen.to_dict("records"):
        cell = (int(row["faces"]), int(row["distance"]))
        start = {
            "faces": f"{cell[0]} at {cell[1]} px" if cell[0] > 1 else "1",
            PAPER: f"{poster[cell]:g}" if cell in poster else "–",
            "ε": f"{row['epsilon']:g}",
            "n": row["n"],
            "clean": f"{100 * row['clean_rate']:.0f}",
            "_dim": row["clean_rate"] < LEAST_CLEAN,
        }
        entry = table.setdefault((*cell, epsilons.index(row["epsilon"])), start)
        value, _, interval = percent(row).partition(" ")
        # Not every perturbation is measured on all images of a cell: a mark, which the column of numbers explains.
        fewer = row["n"] != int(str(entry["n"]).partition(" ")[0])
        if fewer:
            entry["n"] = f"{str(entry['n']).partition(' ')[0]} <small>† {row['n']}</small>"
        entry[method_name(row["perturbation"])] = f"{value}{'†' * fewer} <small>{interval}</small>"
    methods = [method_name(name) for name in PRESETS]
    order = ["faces", PAPER, "ε", "n", "clean", *methods, "_dim"]
    made = pd.DataFrame([table[key] for key in sorted(table)])
    return made.reindex(columns=[c for c in order if c in made]).fillna({m: "–" for m in methods if m in made})


def ipi_figure(rows: pd.DataFrame, reported: Sequence[Mapping[str, Any]], metric: str = "asr") -> Figure:
    """ASR or interference of every perturbation in each cell: a panel for each detector (down) and epsilon (across).

    Args:
        rows: of the synthetic study.
        reported: the poster's numbers, drawn as crosses in panels of ASR.
        metric: ``"asr"``, ``"logit_drop"`` or ``"interference"``.
    """
    chosen = rows[rows["metric"] == metric].dropna(subset=["value"])
    if chosen.empty:
        raise NotMeasured("Not measured.")
    detectors, epsilons = list(dict.fromkeys(chosen["detector"])), sorted(set(chosen["epsilon"]), reverse=True)
    size = (7.5 if len(epsilons) == 1 else 5 * len(epsilons), 2.5 * len(detectors) + 0.4)
    figure, axes = plt.subplots(len(detectors), len(epsilons), figsize=size, squeeze=False, sharey=metric == "asr")
    scale = 100 if metric == "asr" else 1
    for axis, (detector, epsilon) in zip(axes.flat, product(detectors, epsilons), strict=True):
        group = chosen[(chosen["detector"] == detector) & (chosen["epsilon"] == epsilon)]
        axis.set_title(
            f"{detector_name(detector)}, epsilon {epsilon:g}" + ": not measured" * group.empty, loc="left", fontsize=10
        )
        entries = {(int(r["faces"]), int(r["distance"]), r["perturbation"]): r for r in group.to_dict("records")}
        cells = sorted({(faces, distance) for faces, distance, _ in entries})
        names = [p for p in PRESETS if any(name == p for _, _, name in entries)]
        for offset, name in enumerate(names):
            own = {at: entries[*cell, name] for at, cell in enumerate(cells) if (*cell, name) in entries}
            x = np.array(list(own)) + (offset - (len(names) - 1) / 2) * 0.11
            method_intervals(axis, x, pd.DataFrame(own.values()), name, scale=scale)
        if metric == "asr":
            known = {(r["faces"], r["distance"]): r["value"] for r in reported}
            at = [i for i, c in enumerate(cells) if c in known]
            axis.plot(at, [known[cells[i]] for i in at], "x", color=INK, ms=7, label=PAPER)
            axis.set_ylim(-4, 104)
        axis.set_xticks(range(len(cells)), [f"{f} face{'s' * (f > 1)}\n{d} px" for f, d in cells])
    for axis in axes[:, 0]:
        axis.set_ylabel({"asr": "attack success (%)", "interference": "interference"}.get(metric, "logit drop"))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
