"""The small face among large ones as a table for the book."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lipcore.report.style import detector_name, method_name

#: Columns of the table: metric -> (heading, factor, format).
COLUMNS = {
    "asr_small": ("small face hidden, %", 100.0, ".1f"),
    "logit_drop_small": ("its logit falls by", 1.0, ".2f"),
    "logit_drop": ("all nine fall by", 1.0, ".2f"),
    "psnr": ("PSNR, dB", 1.0, ".1f"),
}
#: The column of counts: on how many images the small face's logit falls further.
AHEAD = "further than under IMP-I"


def small_table(document: Mapping[str, Any]) -> pd.DataFrame:
    """One line for each detector, cell, epsilon and perturbation that is measured.

    Args:
        document: the results of the study.
    """
    found: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in document["rows"]:
        key = tuple(row[k] for k in ("detector", "small", "large", "pitch", "epsilon", "perturbation"))
        if row["metric"] == "ahead_small":
            found[key][AHEAD] = f"on {round(row['value'] * row['n'])} of {row['n']} images"
        if row["metric"] not in COLUMNS or row["value"] is None:
            continue
        heading, factor, form = COLUMNS[row["metric"]]
        bounds = (
            "" if row["ci_low"] is None else f" [{factor * row['ci_low']:{form}}, {factor * row['ci_high']:{form}}]"
        )
        line = found.setdefault(key, {})
        line[heading] = f"{factor * row['value']:{form}}{bounds}"
        if row["metric"] == "asr_small":
            line["n"] = str(row["n"])
    return pd.DataFrame(
        {
            "detector": detector_name(detector),
            "faces": f"{small} px amid {large} px, {pitch} px apart",
            "ε": f"{epsilon:g}",
            "method": "IMP-I on it alone" if name == "alone" else method_name(name),
            **line,
        }
        for (detector, small, large, pitch, epsilon, name), line in found.items()
    ).fillna("")
