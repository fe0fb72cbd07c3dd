"""Figures and tables of the attacks on WIDER FACE and FDDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lipcore.attacks.presets import PRESETS
from lipcore.metrics.fddb import KINDS, N_IMAGES
from lipcore.report.page import NotMeasured
from lipcore.report.plotting import PAPER, method_intervals, percent
from lipcore.report.style import INK, METHOD_COLOURS, detector_name, in_order, method_name
from lipcore.studies.base.verdict_rules import LEAST_CLEAN
from lipcore.studies.benchmarks.attack_runs import NONE
from lipcore.studies.benchmarks.attack_tables import FALSE_POSITIVES, Shot, roc

#: Of what few faces were found before the attack.
GREY = '<span class="lip-grey">{}</span>'


def attack_table(
    rows: pd.DataFrame,
    reported: Sequence[Mapping[str, Any]],
    *,
    detector: str,
    update: str,
    epsilon: float,
    metrics: Sequence[str] = ("ap", "asr"),
) -> pd.DataFrame:
    """The main table: a line for each perturbation, the poster's below it, a column for each metric and subset.

    A column of which the detector finds less than 80 % of the faces on the clean images is printed grey and says so.

    Args:
        rows: the results.
        reported: the poster's numbers, in percent.
        detector: whose rows.
        update: of which update rule.
        epsilon: at which strength.
        metrics: which.
    """
    poster = {(r["method"], r["metric"], r["subset"]): r["value"] for r in reported}
    table: dict[str, dict[str, Any]] = {}
    heads: dict[str, str] = {}
    at = (rows["detector"] == detector) & (rows["update"] == update) & (rows["epsilon"] == epsilon)
    for row in rows[at & rows["metric"].isin(metrics)].to_dict("records"):
        column = f"{row['metric'].replace('_', ' ').upper()} {row['subset']}"
        value, _, interval = percent(row).partition(" ")
        method = method_name(row["perturbation"])
        known = poster.get((method if method != "clean" else "None", row["metric"], row["subset"]))
        entry = table.setdefault(row["perturbation"], {"perturbation": method})
        entry[column] = _greyed(f"{value} <small>{interval}</small>", row["clean_rate"])
        if known is not None:
            beside = table.setdefault(f"{row['perturbation']} poster", {"perturbation": f"{method}, {PAPER}"})
            beside[column] = f"{known:g}"
        if row["clean_rate"] < LEAST_CLEAN:
            heads[column] = f"{column} <small>({100 * row['clean_rate']:.0f} % found)</small>"
    order = [line for p in (NONE, "random", *PRESETS) for line in (p, f"{p} poster") if line in table]
    return pd.DataFrame([table[line] for line in dict.fromkeys(order)]).fillna("–").rename(columns=heads)


def attack_caption(rows: pd.DataFrame, *, detector: str, update: str, epsilon: float, of: str) -> str:
    """What a table of :func:`attack_table` shows, with the number of images behind it."""
    at = (rows["detector"] == detector) & (rows["update"] == update) & (rows["epsilon"] == epsilon)
    images = rows[at & (rows["metric"] == "ap")]["n"].max()
    return (
        f"{detector_name(detector)} on {of}, {update.upper()} at epsilon {epsilon:g}, {images} images, in percent; "
        "success (ASR) rests on those of them with at least one such face found. Small: 95 % intervals over images. "
        "Italic: less than 80 % of these faces are found on the clean images."
    )


def _greyed(text: str, rate: float) -> str:
    return GREY.format(text) if rate < LEAST_CLEAN else text


def found_table(rows: pd.DataFrame, update: str, epsilon: float) -> pd.DataFrame:
    """The share of faces that each detector finds on the clean images: grey where it is less than 80 %."""
    chosen = rows[(rows["metric"] == "found") & (rows["update"] == update) & (rows["epsilon"] == epsilon)]
    table: dict[str, dict[str, Any]] = {}
    for row in chosen.to_dict("records"):
        entry = table.setdefault(row["detector"], {"detector": detector_name(row["detector"])})
        text = f"{percent(row)} % <small>of {row['n_faces']:.0f}</small>"
        entry[row["subset"]] = _greyed(text, row["value"])
    return pd.DataFrame(table.values())


def visible_rows(rows: pd.DataFrame, *, detector: str, update: str, epsilon: float) -> pd.DataFrame:
    """The rows of one strength that say how visible the noise is, with the ASR on the widest subset."""
    chosen = rows[(rows["detector"] == detector) & (rows["update"] == update) & (rows["epsilon"] == epsilon)]
    widest = "hard" if (chosen["subset"] == "hard").any() else "all"
    return chosen[(chosen["metric"] != "asr") | (chosen["subset"] == widest)]


def roc_figure(found: Mapping[str, Mapping[str, Sequence[Shot]]]) -> Figure:
    """FDDB's curves under every perturbation, a panel for each detector (down) and kind of curve (across).

    Dashed lines are the numbers of false positives at which the table reads the curves.

    Args:
        found: detector -> perturbation -> its images.
    """
    if not found:
        raise NotMeasured("Not measured.")
    figure, axes = _panels(len(found), len(KINDS), sharex=True)
    for line, (detector, by) in zip(axes, found.items(), strict=True):
        limits = [full * len(by[NONE]) / N_IMAGES for full in FALSE_POSITIVES]
        for name, shots in by.items():
            curves = roc(shots)
            if curves is None:
                continue
            for axis, kind in zip(line, KINDS, strict=True):
                rate = np.concatenate(([0.0], getattr(curves, kind)))
                false = np.concatenate(([0.0], curves.false_positives))
                colour = METHOD_COLOURS.get(name, INK)
                label = method_name(name)
                axis.plot(false, 100 * rate, color=colour, lw=1.6, drawstyle="steps-post", label=label)
        for axis, kind in zip(line, KINDS, strict=True):
            for limit in limits:
                axis.axvline(limit, color="#767676", ls="--", lw=0.8)
            axis.set_title(f"{detector_name(detector)}, {kind}: {len(by[NONE])} images", loc="left", fontsize=10)
            axis.set_xlim(0, 1.5 * max(limits))
            axis.set_ylim(-2, 102)
        line[0].set_ylabel("true positives (%)")
    for axis in axes[-1]:
        axis.set_xlabel("false positives in all images")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def strength_figure(rows: pd.DataFrame, update: str) -> Figure:
    """ASR against epsilon with one update rule, a panel for each detector (down) and subset (across)."""
    chosen = rows[(rows["metric"] == "asr") & (rows["update"] == update)]
    if chosen.empty:
        raise NotMeasured("Not measured.")
    detectors, subsets = (list(dict.fromkeys(chosen[key])) for key in ("detector", "subset"))
    ticks = sorted(set(chosen["epsilon"]))
    figure, axes = _panels(len(detectors), len(subsets), sharex=True)
    for axis, (detector, subset) in zip(axes.flat, product(detectors, subsets), strict=True):
        panel = chosen[(chosen["detector"] == detector) & (chosen["subset"] == subset)]
        for offset, name in enumerate(PRESETS):
            line = panel[panel["perturbation"] == name].sort_values("epsilon")
            x = np.log2(line["epsilon"].to_numpy(dtype=float)) + (offset - len(PRESETS) / 2) * 0.03
            method_intervals(axis, x, line, name, fmt="o-")
            axis.set_ylim(-4, 104)
        axis.set_xticks([float(np.log2(e)) for e in ticks], [f"{e:g}" for e in ticks])
        axis.set_xlim(np.log2(min(ticks)) - 0.3, np.log2(max(ticks)) + 0.3)
        axis.set_title(f"{detector_name(detector)}, {subset}", loc="left", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("attack success (%)")
    for axis in axes[-1]:
        axis.set_xlabel(f"epsilon of {update.upper()} (of 255)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def bins_figure(rows: pd.DataFrame, update: str, epsilon: float) -> Figure:
    """ASR by the height of a face, and by the number of faces of its image: a row of panels for each detector."""
    at = rows[(rows["update"] == update) & (rows["epsilon"] == epsilon)]
    metrics = ("asr_by_height", "asr_by_faces")
    if at.empty:
        raise NotMeasured("Not measured.")
    detectors = list(dict.fromkeys(at["detector"]))
    figure, axes = _panels(len(detectors), len(metrics), width=4.5)
    for axis, (detector, metric) in zip(axes.flat, product(detectors, metrics), strict=True):
        every = at[(at["metric"] == metric) & (at["detector"] == detector)]
        chosen = every[every["n"] > 0]
        bins = [b for b in dict.fromkeys(every["subset"]) if b in set(chosen["subset"])]
        names = [p for p in PRESETS if p in set(chosen["perturbation"])]
        for offset, name in enumerate(names):
            line = chosen[chosen["perturbation"] == name].set_index("subset").reindex(bins)
            method_intervals(axis, np.arange(len(bins)) + (offset - (len(names) - 1) / 2) * 0.1, line, name)
            axis.set_ylim(-4, 104)
        faces = chosen.drop_duplicates("subset").set_index("subset")["n_faces"].reindex(bins)
        axis.set_xticks(
            range(len(bins)), [f"{str(b).rsplit(' ', 1)[0]}\n({n:.0f})" for b, n in faces.items()], fontsize=8
        )
    for axis, detector in zip(axes[:, 0], detectors, strict=True):
        axis.set_ylabel("attack success (%)")
        axis.set_title(f"{detector_name(detector)}, {update.upper()}, epsilon {epsilon:g}", loc="left", fontsize=10)
    axes[-1, 0].set_xlabel("height of the face in pixels (faces in the bin)")
    axes[-1, 1].set_xlabel("faces of the image (faces in the bin)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def transfer_table(rows: pd.DataFrame, subset: str) -> pd.DataFrame:
    """ASR in percent of the noise of each detector (lines) on each (columns), for every perturbation and treatment."""
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows[(rows["metric"] == "asr") & (rows["subset"] == subset)].to_dict("records"):
        key = (row["treatment"], row["perturbation"], row["detector"])
        start = {"treatment": key[0], "perturbation": method_name(key[1]), "noise of": detector_name(key[2])}
        value, _, interval = percent(row).partition(" ")
        table.setdefault(key, start)[f"on {detector_name(row['target'])}"] = f"{value} <small>{interval}</small>"
    order = list(dict.fromkeys(rows["treatment"]))
    return pd.DataFrame([table[key] for key in sorted(table, key=lambda k: (order.index(k[0]), *k[1:]))]).fillna("–")


def transfer_figure(
    rows: pd.DataFrame, subset: str, perturbation: str, treatments: Sequence[str], *, narrow: bool = False
) -> Figure:
    """Heat maps: noise made on one detector (lines) against the faces it hides from another (columns), in percent.

    Args:
        rows: of the transfer study.
        subset: of which faces.
        perturbation: of which noise.
        treatments: a map for each, what was done to the attacked photograph.
        narrow: for a phone, maps one below another.
    """
    at = (rows["metric"] == "asr") & (rows["subset"] == subset) & (rows["perturbation"] == perturbation)
    chosen = rows[at]
    names = in_order(chosen["detector"])
    titles = [detector_name(name) for name in names]
    n = len(treatments)
    lines, columns = (n, 1) if narrow else (1, n)
    size = (3.7, 2.5 * n + 1) if narrow else (2.5 * n + 1, 3.2)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True, sharex=True)
    for axis, treatment in zip(axes.flat, treatments, strict=True):
        group = chosen[chosen["treatment"] == treatment].set_index(["detector", "target"])["value"]
        values = np.array([[100 * group.get((source, target), np.nan) for target in names] for source in names])
        axis.imshow(values, cmap="Blues", vmin=0, vmax=100)
        for (line, column), value in np.ndenumerate(values):
            colour = "white" if value > 55 else "black"
            text = "–" if np.isnan(value) else f"{value:.0f}"
            axis.text(column, line, text, ha="center", va="center", color=colour, fontsize=11)
        axis.set_xticks(range(len(names)), titles, fontsize=8, rotation=25)
        axis.set_yticks(range(len(names)), titles, fontsize=8)
        axis.grid(visible=False)
        axis.set_title(
            "as it is" if treatment == "none" else treatment.replace("jpeg", "JPEG"), loc="left", fontsize=10
        )
    for axis in axes[:, 0]:
        axis.set_ylabel("noise made on")
    figure.supxlabel("faces hidden from (%)", fontsize=9)
    epsilon = chosen["epsilon"].max()
    figure.suptitle(f"{method_name(perturbation)}, epsilon {epsilon:g} of 255", fontsize=11)
    return figure


def _panels(lines: int, columns: int, *, width: float = 3.2, sharex: bool = False) -> tuple[Figure, NDArray[Any]]:
    size = (width * columns, 2.5 * lines + 0.7)
    return plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True, sharex=sharex)
