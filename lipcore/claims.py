"""The poster's seven claims, and what this book found of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Claim:
    """One claim of the poster.

    Attributes:
        id: "C1" ... "C7".
        text: what it says.
        poster: the figures it gives.
        experiment: the results that judge it, "" where this book has not measured it.
        chapter: the page.
    """

    id: str
    text: str
    poster: str
    experiment: str = ""
    chapter: str = ""


CLAIMS = (
    Claim(
        "C1",
        "Attack success falls as the number of faces grows",
        "1 face 100 %, 9 faces 51.5 %, 64 faces 18.3 %, all at 40 px",
        "ipi_synthetic",
        "interference",
    ),
    Claim(
        "C2",
        "With equal faces, success rises with their distance",
        "9 faces: 51.5 % at 40 px, 56 % at 160, 63.9 % at 240",
        "ipi_synthetic",
        "interference",
    ),
    Claim(
        "C3",
        "A response's gradient is a 2D Gaussian, its effective receptive field a fraction of the theoretical one",
        "a figure",
        "receptive_fields",
        "receptive_fields",
    ),
    Claim(
        "C4",
        "Cropping to the effective receptive field and treating instances separately removes the interference",
        "a figure",
        "ipi_synthetic",
        "interference",
    ),
    Claim(
        "C5",
        "WIDER FACE: average precision falls from IMP to LP to LIP",
        "easy 46.2, 30.1, 28.2 and 26.5",
        "wider_attack",
        "wider_face",
    ),
    Claim("C6", "COCO proposals: LP far below IMP", "recall 7.9 to 2.2, precision 6.9 to 1.9"),
    Claim("C7", "The perturbations cannot be seen", "pictures", "wider_attack", "wider_face"),
)


def claim_table(summaries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The claims with the verdicts of the detector under study and of the control.

    An experiment that studied another detector says which, in the reason.

    Args:
        summaries: experiment -> the ``summary`` of its results.
    """
    main = next(iter(summaries.values()))["detector"]
    control = next(iter(summaries.values())).get("control", "control")
    rows = []
    for claim in CLAIMS:
        summary = summaries.get(claim.experiment, {})
        row = {"claim": f"<b>{claim.id}</b> {claim.text}", "poster (HR)": claim.poster}
        for prefix, name in (("", main), ("control_", control)):
            verdict = summary.get(f"{prefix}{claim.id.lower()}", "not measured")
            reason = summary.get(f"{prefix}{claim.id.lower()}_reason", "")
            studied = summary.get("detector" if prefix == "" else "control", name)
            row[name] = verdict_cell(verdict, reason if studied == name else f"on {studied}: {reason}")
        row["chapter"] = (
            f'<a href="{claim.chapter}.html">{claim.chapter.replace("_", " ")}</a>' if claim.chapter else ""
        )
        rows.append(row)
    return pd.DataFrame(rows)


def verdict_cell(verdict: str, reason: str) -> str:
    """A verdict as a coloured label with its reason below it, in HTML."""
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span><br><small>{reason}</small>'
