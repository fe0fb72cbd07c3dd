"""The paper's eight claims, and what this book found of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lipcore.report.style import DETECTORS, detector_name
from lipcore.report.verdict_table import chip, effect, printed, size


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        id: "C1" ... "C8".
        text: what it says.
        poster: the figures it gives.
        chapter: the page, "" where there is none.
    """

    id: str
    text: str
    poster: str
    chapter: str = ""


CLAIMS = (
    Claim(
        "C1",
        "Attack success falls as the number of faces grows",
        "1 face 100 %, 9 faces 51.5 %, 64 faces 18.3 %, all at 40 px",
        "interference",
    ),
    Claim(
        "C2",
        "With equal faces, success rises with their distance",
        "9 faces: 51.5 % at 40 px, 56 % at 160, 63.9 % at 240",
        "interference",
    ),
    Claim(
        "C3",
        "A response's gradient is a 2D Gaussian, its effective receptive field a fraction of the theoretical one",
        "a figure",
        "receptive_fields",
    ),
    Claim(
        "C4",
        "Cropping to the effective receptive field and treating instances separately removes the interference",
        "a figure",
        "interference",
    ),
    Claim(
        "C5",
        "WIDER FACE: average precision falls and success rises from IMP to LP to LIP",
        "hard: AP 45.9, 29.3, 23.6 and 26.6 (IMP, LP, LIP-A, LIP-H); ASR 40.6, 62.1, 69.5 and 65.6",
        "wider_face",
    ),
    Claim("C6", "COCO proposals: LP far below IMP", "recall 7.9 to 2.2, precision 6.9 to 1.9", "coco"),
    Claim(
        "C7",
        "The perturbations cannot be seen",
        "pictures; judged here by SSIM above 0.95, which random signs of epsilon 2 pass too, and PSNR above 35 dB",
        "wider_face",
    ),
    Claim("C8", "LIP outperforms other perturbations, often by a factor of 2 to 10 (the abstract)", "–", "wider_face"),
)


def claim_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Step by step of each claim: the words that were found, for which detectors, and the effect on each.

    Args:
        rows: of ``results/full/verdicts.json``.
    """
    judged = [r for r in rows if r["primary"] and (r["detector"] in DETECTORS or r["word"] == "not measured")]
    table = []
    for claim in CLAIMS:
        own = [r for r in judged if r["claim"] == claim.id]
        name = f'<a href="{claim.chapter}.html">{claim.id}</a>' if claim.chapter else claim.id
        for i, arm in enumerate(dict.fromkeys(map(arm_of, own)) or [""]):
            found = [r for r in own if arm_of(r) == arm]
            labels = dict.fromkeys(map(_label, found))
            line = {"claim": f"<b>{name}</b> {claim.text}", "poster": claim.poster} if i == 0 else {}
            line |= {"step": arm, "found": "".join(_found(l, [r for r in found if _label(r) == l]) for l in labels)}
            table.append(line)
    return pd.DataFrame(table, columns=["claim", "poster", "step", "found"]).fillna("")


#: In the order in which they stand on a line; P-Net's own two come last.
WORDS = (
    "supported", "weaker than claimed", "inconclusive", "contradicted", "exploratory", "not testable", "not measured",
    "as predicted", "not as predicted",
)  # fmt: skip


def arm_of(row: Mapping[str, Any]) -> str:
    """The part of its claim that a row is of, in a few words."""
    claim, step, dataset = row["claim"], str(row["step"]), str(row["dataset"])
    if claim == "C5":
        return step.replace("IMP-I to LP", "IMP to LP").replace(" to ", " → ")
    if claim == "C8":
        return dataset.partition(",")[0]
    if step.startswith("equal visibility"):
        return "hides more at equal PSNR (not about interference)"
    return step.partition(":")[0] if claim in ("C3", "C4", "C7") else ""


def _label(row: Mapping[str, Any]) -> str:
    """The reading of the poster and the outcome that a row is of, and the poster's effect."""
    reading = "" if row["reading"] == "both" else row["reading"]
    outcome = row["metric"].upper() if row["claim"] in ("C5", "C6", "C7") else ""
    separation = "separation alone" if row["step"].endswith("LIP-A - LP") else ""
    poster = "" if row["claim"] == "C8" or printed(row) == "–" else f"poster {printed(row)}"
    return ", ".join(filter(None, (reading, outcome, separation, poster)))


def _found(label: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One line: each word, the most favourable first, with the detectors it is about."""
    words = sorted({r["word"] for r in rows}, key=WORDS.index)
    chips = []
    for word in words:
        of = [r for d in DETECTORS for r in rows if (r["word"], r["detector"]) == (word, d)]
        names = [f'<span title="{effect(r)}, n {r["n"]}">{detector_name(r["detector"])} {size(r)}</span>' for r in of]
        chips.append(f"{chip(word)} {', '.join(names)}".strip())
    return f'<div class="lip-found"><small>{label}</small> {" ".join(chips)}</div>'
