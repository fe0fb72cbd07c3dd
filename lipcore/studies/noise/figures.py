"""Figures and tables of the noise itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from lipcore.report.plotting import draw_boxes, show
from lipcore.report.style import FALSE, LOST, TRUE, method_name
from lipcore.studies.noise.study import Shown


def visibility_table(rows: pd.DataFrame) -> pd.DataFrame:
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
        entry = table.setdefault(row["perturbation"], {"perturbation": method_name(row["perturbation"])})
        entry[titles.get(row["metric"], {"touched": "touched (%)", "l2": "L2"}.get(row["metric"], row["metric"]))] = (
            text
        )
    return pd.DataFrame(table.values()).fillna("–")


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
        name = method_name(item.perturbation or "none")
        left.set_title(f"{name}: {found} of {len(item.scene.boxes)} found, {wrong} false", loc="left", fontsize=10)
        noise = (item.image.cpu() - item.scene.image) * 16 + 127.5
        show(right, noise.clamp(0, 255))
        v = item.visibility
        label = "no noise" if not item.perturbation else f"noise x 16 · PSNR {v.psnr:.1f} dB · {v.touched:.0%} touched"
        right.set_title(label, loc="left", fontsize=10)
    return figure


def _aspect(image: Tensor) -> float:
    return float(image.shape[2] / image.shape[3])
