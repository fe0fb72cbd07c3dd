"""Figures and tables of the attacks on region proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipcore.attacks.attack import Attack
from lipcore.attacks.presets import PRESETS
from lipcore.attacks.updates import update_rule
from lipcore.boxes import iou_matrix
from lipcore.detectors.base import Detections
from lipcore.detectors.rpn import Proposals
from lipcore.images import quantise
from lipcore.metrics.coco import METRICS
from lipcore.report.plotting import draw_boxes, method_intervals, show
from lipcore.report.style import FALSE, INK, TRUE, method_name
from lipcore.studies.benchmarks.attack_runs import NONE
from lipcore.studies.benchmarks.coco_attack import CocoSettings, find_targets
from lipcore.studies.benchmarks.coco_table import BASELINES, SIDES

#: The poster's two columns, as this table names them; which AR it means is not said.
POSTER_METRICS = {"ar": "ar100", "ap": "ap"}


def proposal_table(
    rows: pd.DataFrame,
    reported: Sequence[Mapping[str, Any]],
    *,
    detector: str,
    epsilon: float,
    variant: str = "objects",
) -> pd.DataFrame:
    """The table: a line for each perturbation, the poster's below it, a column for each metric.

    Args:
        rows: of the study.
        reported: the poster's numbers, in percent.
        detector: whose rows; the boxes that nobody learned stand below the clean line.
        epsilon: at which strength.
        variant: of the instances.
    """
    poster = {(r["method"], POSTER_METRICS[r["metric"]]): r["value"] for r in reported}
    columns = {**{m: m.upper().replace("AR", "AR@") for m in METRICS}, "asr": "objects lost", "ssim": "SSIM"}
    at = rows["metric"].isin(list(columns)) & (rows["subset"] == "all") & (rows["variant"] == variant)
    table: dict[str, dict[str, Any]] = {}
    for row in rows[at & (rows["epsilon"] == epsilon)].to_dict("records"):
        naive = row["detector"] in BASELINES
        if not naive and row["detector"] != detector:
            continue
        line = row["detector"] if naive else row["perturbation"]
        entry = table.setdefault(line, {"perturbation": line if naive else method_name(line)})
        known = poster.get((method_name(row["perturbation"]), row["metric"]))
        entry[columns[row["metric"]]] = f"{row['value']:.3f}" if row["metric"] == "ssim" else _short(row)
        if known is not None and not naive:
            beside = table.setdefault(f"{line} poster", {"perturbation": f"{method_name(line)}, poster"})
            beside[columns[row["metric"]]] = f"{known:g}"
    order = [NONE, f"{NONE} poster", *BASELINES, *(line for p in PRESETS for line in (p, f"{p} poster"))]
    return pd.DataFrame([table[p] for p in order if p in table]).fillna("–")


def _short(row: Mapping[Any, Any]) -> str:
    """A share with its interval in percent, one digit: these numbers are small."""
    value, low, high = (100 * float(row[k]) for k in ("value", "ci_low", "ci_high"))
    return f"{value:.1f} <small>[{low:.1f}, {high:.1f}]</small>"


def recall_figure(rows: pd.DataFrame, detector: str, *, narrow: bool = False) -> Figure:
    """AR@100, AP and the share of objects lost against epsilon, a line a perturbation; below one another if narrow."""
    chosen = rows[(rows["detector"] == detector) & (rows["subset"] == "all") & (rows["variant"] == "objects")]
    lines, columns = (3, 1) if narrow else (1, 3)
    size = (3.7, 7.6) if narrow else (10.5, 3.4)
    figure, panels = plt.subplots(lines, columns, figsize=size, squeeze=False)
    axes = panels.ravel()
    for axis, (metric, title) in zip(axes, (("ar100", "AR@100"), ("ap", "AP"), ("asr", "objects lost")), strict=True):
        own = chosen[chosen["metric"] == metric]
        for name in PRESETS:
            line = own[own["perturbation"] == name].sort_values("epsilon")
            if len(line):
                method_intervals(axis, np.log2(line["epsilon"].to_numpy(dtype=float)), line, name, fmt="o-")
        clean = own[own["perturbation"] == NONE]
        if len(clean):
            axis.axhline(100 * float(clean["value"].iloc[0]), color=INK, lw=1, ls="--", label="clean")
        ticks = sorted({e for e in own["epsilon"] if e > 0})
        axis.set_xticks([float(np.log2(e)) for e in ticks], [f"{e:g}" for e in ticks])
        axis.set_xlabel("epsilon (of 255)")
        axis.set_title(f"{title} (%)", loc="left", fontsize=10)
        axis.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3 if narrow else 8)
    return figure


def objects_figure(rows: pd.DataFrame, detector: str, epsilon: float) -> Figure:
    """The share of objects lost by their size and by the number of objects in the image."""
    at = rows[(rows["detector"] == detector) & (rows["epsilon"] == epsilon) & (rows["variant"] == "objects")]
    at = at[(at["metric"] == "asr") & (at["subset"] != "all")]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.3), sharey=True)
    for axis, unit in zip(axes, ("px", "objects"), strict=True):
        own = at[at["subset"].str.endswith(unit) & (at["n_objects"] > 0)]
        bins = list(dict.fromkeys(own["subset"]))
        names = [p for p in PRESETS if p in set(own["perturbation"])]
        for i, name in enumerate(names):
            line = own[own["perturbation"] == name].set_index("subset").reindex(bins)
            method_intervals(axis, np.arange(len(bins)) + (i - (len(names) - 1) / 2) * 0.1, line, name)
        counts = own.drop_duplicates("subset").set_index("subset")["n_objects"].reindex(bins)
        axis.set_xticks(
            range(len(bins)), [f"{str(b).removesuffix(f' {unit}')}\n({n:.0f})" for b, n in counts.items()], fontsize=8
        )
        axis.set_ylim(-4, 104)
    axes[0].set_xlabel(f"root of the object's area in pixels, COCO's bounds {SIDES[1]} and {SIDES[2]} (objects)")
    axes[1].set_xlabel("objects in the image (objects in the bin)")
    axes[0].set_ylabel("objects lost (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure


@torch.no_grad()
def proposals_figure(
    network: Proposals, photos: Mapping[str, Tensor], perturbations: Sequence[str], epsilon: float, most: int = 10
) -> Figure:
    """The best proposals before and after: yellow where one overlaps a clean one by IoU >= 0.5, else red.

    There is no ground truth for these photographs: what is attacked are the best proposals themselves.

    Args:
        network: attacked and shown.
        photos: name -> image (1, 3, H, W).
        perturbations: presets' names.
        epsilon: in grey levels, with I-FGSM.
        most: proposals drawn.
    """
    settings = CocoSettings(instances="proposals", attacked=most)
    columns = (NONE, *perturbations)
    figure, axes = plt.subplots(len(photos), len(columns), figsize=(3 * len(columns), 2.6 * len(photos)), squeeze=False)
    for line, (name, image) in zip(axes, photos.items(), strict=True):
        responses = network(image)
        clean = _first(network.propose(responses), most)
        instances = find_targets(settings, None, responses, clean)
        for axis, perturbation in zip(line, columns, strict=True):
            shown, found = image, clean
            if perturbation != NONE:
                attack = Attack(perturbation, update_rule("i-fgsm", epsilon), settings.matching, settings.extent)
                shown = quantise(attack(network, image, instances=instances).image)
                found = _first(network.propose(network(shown)), most)
            known = (iou_matrix(found.boxes, clean.boxes) >= 0.5).any(dim=1)
            show(axis, shown)
            draw_boxes(axis, found.boxes[~known], FALSE)
            draw_boxes(axis, found.boxes[known], TRUE)
            label = (
                "clean" if perturbation == NONE else f"{method_name(perturbation)}: {int(known.sum())} of {most} kept"
            )
            axis.set_title(f"{name}, {label}" if perturbation == NONE else label, fontsize=9, loc="left")
    return figure


def _first(found: Detections, most: int) -> Detections:
    return Detections(found.boxes[:most], found.scores[:most], found.responses[:most])
