"""Figures and tables of the attacks on WIDER FACE and FDDB; see :mod:`lipcore.plotting` for what all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipcore.attacks.perturbation import PRESETS
from lipcore.experiments.attack_runs import NONE
from lipcore.experiments.attack_tables import Shot, precision
from lipcore.plotting import COLOURS, PAPER, percent

#: Of the clean images.
BLACK = "#000000"
#: Our presets' names as the poster writes them.
POSTER_NAMES = {NONE: "clean", "imp": "IMP", "lp": "LP", "lip-a": "LIP-A", "lip-h": "LIP-H"}


def attack_table(
    rows: pd.DataFrame,
    quick: pd.DataFrame | None,
    reported: Sequence[Mapping[str, Any]],
    *,
    detector: str,
    update: str,
    epsilon: float,
    metrics: Sequence[str] = ("ap", "asr"),
) -> pd.DataFrame:
    """The main table: a line for each perturbation, a column for each metric and subset, the poster's beside.

    Args:
        rows: the results to show first.
        quick: this build's quick run, as a second line in each cell where the first is another run's.
        reported: the poster's numbers, in percent.
        detector: whose rows.
        update: of which update rule.
        epsilon: at which strength.
        metrics: which.
    """
    poster = {(r["method"], r["metric"], r["subset"]): r["value"] for r in reported}
    table: dict[str, dict[str, Any]] = {}

    def fill(frame: pd.DataFrame, own: bool) -> None:
        chosen = frame[(frame["detector"] == detector) & (frame["update"] == update) & (frame["epsilon"] == epsilon)]
        for row in chosen[chosen["metric"].isin(metrics)].to_dict("records"):
            column = f"{row['metric'].replace('_', ' ').upper()} {row['subset']}"
            entry = table.setdefault(row["perturbation"], {"perturbation": row["perturbation"]})
            value, _, interval = percent(row).partition(" ")
            cell = f"<small>{interval}<br>n={row['n']}</small>"
            if own:
                known = poster.get((POSTER_NAMES.get(row["perturbation"]), row["metric"], row["subset"]))
                beside = f" <small>| {PAPER} {known:g}</small>" if known is not None else ""
                entry[column] = f"{value}{beside}<br>{cell}"
            else:
                entry[column] = f"{entry.get(column, '–')}<br><small>quick {value}</small><br>{cell}"

    fill(rows, own=True)
    if quick is not None:
        fill(quick, own=False)
    order = [p for p in (NONE, "random", *PRESETS) if p in table]
    return pd.DataFrame([table[p] for p in dict.fromkeys(order)]).fillna("–")


def visible_rows(rows: pd.DataFrame, *, detector: str, update: str, epsilon: float) -> pd.DataFrame:
    """The rows of one strength that say how visible the noise is, with the ASR on the widest subset."""
    chosen = rows[(rows["detector"] == detector) & (rows["update"] == update) & (rows["epsilon"] == epsilon)]
    widest = "hard" if (chosen["subset"] == "hard").any() else "all"
    return chosen[(chosen["metric"] != "asr") | (chosen["subset"] == widest)]


def precision_recall_figure(images: Mapping[str, Sequence[Shot]], title: str) -> Figure:
    """Precision against recall under every perturbation, a panel for each subset; exact, not in 1000 steps."""
    results = {name: precision(shots) for name, shots in images.items()}
    subsets = list(next(iter(results.values())))
    figure, axes = plt.subplots(1, len(subsets), figsize=(3.2 * len(subsets), 3.2), squeeze=False, sharey=True)
    for axis, subset in zip(axes[0], subsets, strict=True):
        for name, by in results.items():
            values, recall = by[subset].exact_curve()
            colour = COLOURS.get(name, BLACK)
            axis.plot(recall, values, color=colour, lw=1.6, label=POSTER_NAMES.get(name, name))
        axis.set_title(f"{subset}: {next(iter(results.values()))[subset].n_faces} faces", loc="left", fontsize=10)
        axis.set_xlabel("recall")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
    axes[0, 0].set_ylabel("precision")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def strength_figure(rows: pd.DataFrame, detector: str, subset: str) -> Figure:
    """ASR against epsilon, a panel for each update rule."""
    chosen = rows[(rows["metric"] == "asr") & (rows["detector"] == detector) & (rows["subset"] == subset)]
    updates = list(dict.fromkeys(chosen["update"]))
    figure, axes = plt.subplots(1, max(1, len(updates)), figsize=(7.5, 3.2), squeeze=False, sharey=True)
    for axis, update in zip(axes[0], updates, strict=True):
        for name in PRESETS:
            line = chosen[(chosen["update"] == update) & (chosen["perturbation"] == name)].sort_values("epsilon")
            if len(line):
                _errorbars(axis, np.log2(line["epsilon"].to_numpy(dtype=float)), line, name, "o-")
        ticks = sorted(set(chosen["epsilon"]))
        axis.set_xticks([float(np.log2(e)) for e in ticks], [f"{e:g}" for e in ticks])
        axis.set_xlabel("epsilon (of 255)")
        axis.set_title(f"{detector}, {update}, {subset}", loc="left", fontsize=10)
    axes[0, 0].set_ylabel("attack success (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def bins_figure(rows: pd.DataFrame, detector: str, update: str, epsilon: float) -> Figure:
    """ASR by the height of a face, and by the number of faces of its image."""
    at = rows[(rows["detector"] == detector) & (rows["update"] == update) & (rows["epsilon"] == epsilon)]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.3), sharey=True)
    for axis, metric in zip(axes, ("asr_by_height", "asr_by_faces"), strict=True):
        chosen = at[(at["metric"] == metric) & (at["n"] > 0)]
        bins = [b for b in dict.fromkeys(at[at["metric"] == metric]["subset"]) if b in set(chosen["subset"])]
        names = [p for p in PRESETS if p in set(chosen["perturbation"])]
        for offset, name in enumerate(names):
            line = chosen[chosen["perturbation"] == name].set_index("subset").reindex(bins)
            _errorbars(axis, np.arange(len(bins)) + (offset - (len(names) - 1) / 2) * 0.1, line, name, "o")
        faces = chosen.drop_duplicates("subset").set_index("subset")["n_faces"].reindex(bins)
        axis.set_xticks(
            range(len(bins)), [f"{str(b).rsplit(' ', 1)[0]}\n({n:.0f})" for b, n in faces.items()], fontsize=8
        )
    axes[0].set_xlabel("height of the face in pixels (faces in the bin)")
    axes[1].set_xlabel("faces of the image (faces in the bin)")
    axes[0].set_ylabel("attack success (%)")
    axes[0].set_title(f"{detector}, {update}, epsilon {epsilon:g}", loc="left", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def transfer_table(rows: pd.DataFrame, subset: str) -> pd.DataFrame:
    """ASR in percent of the noise of each detector (lines) on each (columns), for every perturbation and treatment."""
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows[(rows["metric"] == "asr") & (rows["subset"] == subset)].to_dict("records"):
        key = (row["treatment"], row["perturbation"], row["detector"])
        start = {"treatment": key[0], "perturbation": key[1], "noise of": key[2]}
        value, _, interval = percent(row).partition(" ")
        cell = f"{value}<br><small>{interval}<br>n={row['n']}</small>"
        table.setdefault(key, start)[f"on {row['target']}"] = cell
    order = list(dict.fromkeys(rows["treatment"]))
    return pd.DataFrame([table[key] for key in sorted(table, key=lambda k: (order.index(k[0]), *k[1:]))]).fillna("–")


def transfer_figure(rows: pd.DataFrame, subset: str) -> Figure:
    """ASR of every perturbation after each treatment, a panel for each pair of detectors."""
    chosen = rows[(rows["metric"] == "asr") & (rows["subset"] == subset)]
    pairs = list(chosen.groupby(["detector", "target"], sort=False))
    columns = max(1, len(set(chosen["target"])))
    lines = -(-len(pairs) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 2.6 * lines), squeeze=False, sharey=True)
    treatments = list(dict.fromkeys(rows["treatment"]))
    for axis, ((source, target), group) in zip(axes.flat, pairs, strict=False):
        for name in PRESETS:
            line = group[group["perturbation"] == name].set_index("treatment").reindex(treatments)
            if line["value"].notna().any():
                _errorbars(axis, np.arange(len(treatments), dtype=float), line, name, "o-")
        axis.set_xticks(range(len(treatments)), [t.replace(" ", "\n") for t in treatments], fontsize=8)
        axis.set_title(f"noise of {source} on {target}", loc="left", fontsize=10)
    axes[0, 0].set_ylabel("attack success (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _errorbars(axis: Axes, x: Any, line: pd.DataFrame, name: str, form: str) -> None:
    value, low, high = (100 * line[key].to_numpy(dtype=float) for key in ("value", "ci_low", "ci_high"))
    error = np.nan_to_num(np.clip([value - low, high - value], 0, None))
    axis.errorbar(x, value, error, fmt=form, ms=4, lw=1.2, color=COLOURS[name], label=name)
    axis.set_ylim(-4, 104)
