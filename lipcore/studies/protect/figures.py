"""Figures of the study."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipcore.report.style import DETECTORS, detector_name
from lipcore.studies.protect.measure import AND, UNTIL
from lipcore.studies.protect.table import SITUATIONS

#: Columns of the heat map: treatment -> words.
WAYS = {"none": "the file itself", "jpeg 75": "sent as JPEG 75", "half size": "shrunk to half"}
#: Rows of it.
WORDS = {
    "it alone": "the one that looks",
    "all": "all, the one that looks too",
    "all others": "all but the one that looks",
    "another alone": "one other",
}


def heat_map(rows: pd.DataFrame, method: str = "LIP-A", *, narrow: bool = False) -> Figure:
    """Share of the faces hidden by ``method``: whom its noise is made against, beside what happens to the file."""
    pooled = rows[(rows["metric"] == "hidden") & (rows["target"] == "") & (rows["situation"] != "")]
    values = {(r["situation"], r["treatment"]): r for _, r in pooled.iterrows()}
    shown = [s for s in WORDS if s in SITUATIONS and (s, "none") in values]
    grid = [[values[s, t]["value"] if (s, t) in values else float("nan") for t in WAYS] for s in shown]
    figure, axis = plt.subplots(figsize=(3.7 if narrow else 6.4, 0.8 + 0.7 * len(shown)))
    axis.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            _cell(axis, i, j, value)
    across, down = [*WAYS.values()], [f"made against\n{WORDS[s]}" for s in shown]
    faces = [f"\n({values[s, 'none']['n_faces']:.0f} faces)" for s in shown]
    if narrow:
        across, down = ([textwrap.fill(words, 14) for words in names] for names in (across, down))
    down = [words + n for words, n in zip(down, faces, strict=True)]
    axis.set_xticks(range(len(WAYS)), across, fontsize=8 if narrow else 10)
    axis.set_yticks(range(len(shown)), down, fontsize=8 if narrow else 10)
    axis.grid(visible=False)
    figure.suptitle(f"Faces hidden, in %, {method} at epsilon 8", x=0.01, ha="left", fontsize=11)
    axis.tick_params(length=0)
    return figure


def _cell(axis: Axes, i: int, j: int, value: float) -> None:
    if value == value:
        axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color="black" if value > 0.6 else "white")


def who_sees(rows: pd.DataFrame, treatment: str = "none") -> pd.DataFrame:
    """A line for each noise at a fixed epsilon, a column for each detector that looks: faces hidden, in percent, and
    in brackets of how many."""
    chosen = rows[(rows["metric"] == "hidden") & (rows["target"] != "") & (rows["treatment"] == treatment)]
    chosen = chosen[(chosen["strength"] != UNTIL) & (chosen["combine"] == "mass")]
    left_out = chosen["situation"] == "all others"
    left_out &= chosen["detector"].str.contains(AND, regex=False)
    lines = chosen.assign(detector=chosen["detector"].mask(left_out, "")).dropna(subset="value")
    shares = zip(lines["value"], lines["n_faces"], strict=True)
    lines = lines.assign(text=[f"{100 * value:.0f} ({faces:.0f})" for value, faces in shares])
    order = list(dict.fromkeys(lines["detector"]))
    table = lines.pivot(index="detector", columns="target", values="text").reindex(order)
    table = table.reindex(columns=sorted(table.columns, key=lambda name: [*DETECTORS, name].index(name)))
    table.columns = [detector_name(name) for name in table.columns]
    words = [_made_on(sources, rows) if sources else "all but the one that looks" for sources in table.index]
    table.index = pd.Index(words, name="made against")
    return table.fillna("–").reset_index()


def strengths(rows: pd.DataFrame) -> pd.DataFrame:
    """Noise until nothing is found beside that of a fixed epsilon, of one detector and of all."""
    lines = []
    for (sources, strength, combine), group in rows[rows["detector"] != ""].groupby(
        ["detector", "strength", "combine"], sort=False
    ):
        if combine == "mass" and (sources, UNTIL) in set(zip(rows["detector"], rows["strength"], strict=True)):
            values = dict(zip(group["metric"], group["value"], strict=True))
            lines.append(
                {
                    "made against": _made_on(str(sources), rows),
                    "strength": strength,
                    "nothing found on": f"{100 * values['nothing found']:.0f} % of the photographs",
                    "epsilon": f"{values['epsilon']:.1f}",
                    "L2": f"{values['l2']:.2f}",
                    "steps": f"{values['steps']:.0f}",
                    "photographs": int(group["n"].max()),
                }
            )
    return pd.DataFrame(lines)


def combinations(rows: pd.DataFrame) -> pd.DataFrame:
    """Ways to weight the directions of all detectors: faces hidden from each, in percent, on the file itself."""
    chosen = rows[rows["metric"] == "compared"]
    words = {"mass": "by L1 mass at each step", "first": "by L1 mass at the first step", "sum": "not at all"}
    table = (100 * chosen.pivot_table("value", "combine", "target", sort=False)).round(0).astype("Int64").astype(str)
    table.columns = [detector_name(name) for name in table.columns]
    table["photographs"] = chosen.groupby("combine", sort=False)["n"].max().astype(str)
    table.index = pd.Index([words[c] for c in table.index], name="weighted")
    return table.reset_index()


def _made_on(sources: str, rows: pd.DataFrame) -> str:
    """Words for a set of sources."""
    names = sources.split(AND)
    everyone = set(rows["target"]) - {""}
    if len(names) == 1:
        return detector_name(names[0])
    missing = everyone - set(names)
    if not missing:
        return "all"
    return "all but " + ", ".join(detector_name(name) for name in sorted(missing))
