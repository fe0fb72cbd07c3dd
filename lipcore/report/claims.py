"""The poster's seven claims, and what this book found of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        experiment: the results that judge it.
        chapter: the page, "" where there is none.
    """

    id: str
    text: str
    poster: str
    experiment: str
    chapter: str = ""


CLAIMS = (
    Claim(
        "C1",
        "Attack success falls as the number of faces grows",
        "1 face 100 %, 9 faces 51.5 %, 64 faces 18.3 %, all at 40 px",
        "interference",
        "interference",
    ),
    Claim(
        "C2",
        "With equal faces, success rises with their distance",
        "9 faces: 51.5 % at 40 px, 56 % at 160, 63.9 % at 240",
        "interference",
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
        "interference",
        "interference",
    ),
    Claim(
        "C5",
        "WIDER FACE: average precision falls and success rises from IMP to LP to LIP",
        "AP easy 46.2, 30.1, 28.2 and 26.5",
        "wider_attack",
        "wider_face",
    ),
    Claim("C6", "COCO proposals: LP far below IMP", "recall 7.9 to 2.2, precision 6.9 to 1.9", "coco_attack", "coco"),
    Claim("C7", "The perturbations cannot be seen", "pictures", "wider_attack", "wider_face"),
)


def claim_table(documents: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The claims with the verdict on each detector that was measured, a line for each.

    Args:
        documents: experiment -> its results; claims of others are not measured.
    """
    rows = []
    for claim in CLAIMS:
        chapter = f'<a href="{claim.chapter}.html">{claim.chapter.replace("_", " ")}</a>' if claim.chapter else ""
        lines = [
            f"{detector}: {verdict_cell(verdict, reason)}"
            for detector, verdict, reason in _judged(documents.get(claim.experiment, {}), claim.id.lower())
        ]
        rows.append(
            {
                "claim": f"<b>{claim.id}</b> {claim.text}",
                "poster (HR)": claim.poster,
                "here": "<br>".join(lines) or verdict_cell("not measured", ""),
                "chapter": chapter,
            }
        )
    return pd.DataFrame(rows)


def _judged(document: Mapping[str, Any], claim: str) -> Iterator[tuple[str, str, str]]:
    """Detector, verdict and reason, as far as the results judge the claim; the detector under study first."""
    summary = document.get("summary", {})
    prefixes = {summary.get("control", summary.get("control_detector")): "control_", summary.get("detector"): ""}
    for detector in document.get("provenance", {}).get("detectors", {}):
        prefix = prefixes.get(detector, f"{detector}_".replace("-", "_"))
        if verdict := summary.get(f"{prefix}{claim}"):
            yield detector, verdict, summary.get(f"{prefix}{claim}_reason", "")


def verdict_cell(verdict: str, reason: str) -> str:
    """A verdict as a coloured label with its reason below it, in HTML."""
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span><br><small>{reason}</small>'
