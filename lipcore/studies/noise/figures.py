"""Figures and tables of the noise itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lipcore.report.pictures import Side, as_photograph, boxed, pairs
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


def noise_pictures(shown: Sequence[Shown]) -> str:
    """HTML: one image under each perturbation, with what is found on it, each beside its noise x 16.

    Boxes: yellow true, red false, white the faces that are lost.
    """
    sides = []
    for item in shown:
        found, wrong = int(item.correct.sum()), int((~item.correct).sum())
        name = method_name(item.perturbation or "none")
        picture = boxed(as_photograph(item.image), item.scene.boxes, LOST, width=1)
        picture = boxed(picture, item.detections.boxes[item.correct], TRUE)
        picture = boxed(picture, item.detections.boxes[~item.correct], FALSE)
        text = f"{name}: {found} of {len(item.scene.boxes)} faces found, {wrong} false"
        sides.append(Side(picture, name, text, f"The photograph, {text}"))
        noise = as_photograph((item.image.cpu() - item.scene.image) * 16 + 127.5)
        v = item.visibility
        text = "no noise" if not item.perturbation else f"its noise x 16: PSNR {v.psnr:.1f} dB, {v.touched:.0%} touched"
        alt = "Grey: no noise" if not item.perturbation else f"The noise of {name}; {v.touched:.0%} of it is not grey"
        sides.append(Side(noise, name, text, alt))
    return pairs(sides)
