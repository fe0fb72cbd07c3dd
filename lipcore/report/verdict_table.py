"""Verdicts as readers see them: a chip, and beside it effect, interval, images, epsilon and the poster's effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lipcore.report.page import Page, Table, committed
from lipcore.report.style import detector_name

#: Unit of an effect -> (factor, format, name).
UNITS = {
    "share": (100.0, "+.1f", "points"),
    "templates": (100.0, ".0f", "% of templates"),
    "ratio": (1.0, ".2f", "times"),
    "ssim": (1.0, "+.3f", ""),
    "dB": (1.0, "+.1f", "dB"),
    "logits": (1.0, "+.2f", "logits"),
    "coefficient": (1.0, "+.3f", ""),
}

#: Whether contrasts are primary -> title of the fold, and caption.
KINDS = {
    True: (None, "Primary contrasts: effect with its 95 % interval, and the poster's."),
    False: (
        "Secondary contrasts",
        "All other contrasts; p-values are adjusted by Holm's method within a claim and a detector. One from 1,000 "
        "draws of a bootstrap is 0.002 at the least, and is then multiplied by the number of contrasts.",
    ),
}


def chip(word: str) -> str:
    """A word as a coloured label, in HTML."""
    return f'<span class="verdict verdict-{word.replace(" ", "-")}">{word}</span>'


def effect(row: Mapping[str, Any]) -> str:
    """The estimate with its interval and unit; what is not measured is a dash."""
    bounds = [row["ci_low"], row["ci_high"]]
    interval = "" if None in bounds else f" [{', '.join(_number(row, b) for b in bounds)}]"
    return f"{_number(row, row['value'])}{interval} {UNITS[row['unit']][2] if row['value'] is not None else ''}".strip()


def size(row: Mapping[str, Any]) -> str:
    """The estimate alone, in a few characters."""
    unit = {"points": "", "% of templates": " %", "times": " ×"}.get(UNITS[row["unit"]][2], f" {UNITS[row['unit']][2]}")
    return "" if row["value"] is None else f"{_number(row, row['value'])}{unit}".strip()


def printed(row: Mapping[str, Any]) -> str:
    """The poster's effect in the same unit; what it does not print is a dash."""
    return "–" if row["claim"] == "C7" else _number(row, row["poster"])


def _number(row: Mapping[str, Any], value: float | None) -> str:
    """A value in the row's unit; nought has no sign."""
    if value is None:
        return "–"
    factor, form, _ = UNITS[row["unit"]]
    shown = format(factor * value, form)
    return shown if float(shown) else shown.lstrip("+-")


def _outcome(row: Mapping[str, Any]) -> str:
    """Which outcome a row is of, where its claim has several or it is not success."""
    metric = str(row["metric"])
    if row["claim"] in ("C5", "C6"):
        return f" ({metric.upper()})"
    return f" ({metric})" if metric.startswith("logit drop") else ""


def verdict_table(
    rows: Iterable[Mapping[str, Any]], claims: Sequence[str], *, primary: bool = True, dataset: str = ""
) -> pd.DataFrame:
    """The contrasts of some claims as a table, in HTML.

    Args:
        rows: of ``results/full/verdicts.json``.
        claims: "C1" ... "C8", in the order wanted.
        primary: those with a word; otherwise those with an adjusted p-value.
        dataset: only contrasts of a dataset that begins so.
    """
    shown = []
    for row in sorted((r for r in rows if r["claim"] in claims), key=lambda r: claims.index(r["claim"])):
        if row["primary"] != primary or not row["dataset"].startswith(dataset):
            continue
        p = "" if row["p"] is None else f"{row['p']:.3f}"
        noted = "; ".join([*row["flags"], *(["records seen before the rules"] if row["seen"] else [])])
        shown.append(
            {
                "claim": row["claim"],
                "step": row["step"] + _outcome(row),
                "reading": row["reading"],
                "images": row["dataset"],
                "detector": detector_name(row["detector"]),
                **({"verdict": chip(row["word"])} if primary else {"p (Holm)": p}),
                "effect": effect(row),
                "poster": printed(row),
                "n": str(row["n"]),
                "ε": "" if row["epsilon"] is None else f"{row['epsilon']:g}",
                "to note": f"<span class=lip-noted>{noted}</span>",
            }
        )
    return pd.DataFrame(shown)


def verdict_tables(
    claims: Sequence[str], *, dataset: str = "", kinds: Sequence[bool] = (True, False)
) -> Callable[[Page], list[Table]]:
    """For a chapter: the verdicts on some claims as committed, and the secondary contrasts, folded.

    Args:
        claims: "C1" ... "C8".
        dataset: only contrasts of a dataset that begins so.
        kinds: True for the primary contrasts, False for the secondary ones.
    """

    def tables(page: Page) -> list[Table]:
        judged = committed("verdicts")
        made = []
        for primary in kinds:
            fold, caption = KINDS[primary]
            rows = verdict_table(judged["rows"], claims, primary=primary, dataset=dataset)
            made += [] if rows.empty else [Table(rows, caption, fold=fold, sources=(judged,))]
        return made

    return tables
