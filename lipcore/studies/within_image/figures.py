"""Where interference ends: one figure of every detector, and the cells that nobody measured."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipcore.report.plotting import epsilon_marks, intervals
from lipcore.report.style import DETECTOR_COLOURS, GROUND, INK, detector_name, epsilon_marker, in_order
from lipcore.studies.within_image.study import Config


def coefficient_rows(within: Mapping[str, Any], sides: Mapping[str, float], earlier: Mapping[str, Any]) -> pd.DataFrame:
    """IMP-I's coefficient in every cell measured, with the distance in sides of the ERF.

    Args:
        within: the results within images.
        sides: detector -> side of its ERF in pixels.
        earlier: the results of the first grids, whose cells stand where the same detector and epsilon were measured.
    """
    made = []
    for document, new in ((within, True), (earlier, False)):
        for r in document["rows"]:
            known = r["metric"] == "interference" and r["perturbation"] == "imp-i" and r["detector"] in sides
            if known and r["value"] is not None and r["faces"] > 1:
                made.append(r | {"sides": r["distance"] / sides[r["detector"]], "new": new, "side": r.get("side", 40)})
    rows = pd.DataFrame(made)
    if rows.empty:
        return rows
    matched = set(zip(rows[rows["new"]]["detector"], rows[rows["new"]]["epsilon"], strict=True))
    at = [new or (d, e) in matched for d, e, new in zip(rows["detector"], rows["epsilon"], rows["new"], strict=True)]
    return rows[at].sort_values(["detector", "sides", "faces"])


def where_it_ends(rows: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Coefficient against distance over the ERF's side, a colour for each detector.

    Filled: within the image, by rules written first; hollow: the first grids. Larger points: more faces. A shape for
    each epsilon, a little to the right of the one below it.

    Args:
        rows: of :func:`coefficient_rows`.
        narrow: for a phone.
    """
    figure, axis = plt.subplots(figsize=(3.7, 4.6) if narrow else (7.2, 4.0))
    axis.axhline(0, color="#767676", lw=0.8)
    axis.axvline(1, color="#767676", lw=0.8, ls=":")
    detectors = in_order(rows["detector"]) if len(rows) else []
    for row in rows.to_dict("records"):
        colour = DETECTOR_COLOURS.get(row["detector"], INK)
        size = 3 + 0.7 * float(row["faces"]) ** 0.5
        face, alpha = (colour, 1.0) if row["new"] else (GROUND, 0.55)
        look: dict[str, Any] = {"mfc": face, "elinewidth": 0.8, "alpha": alpha, "zorder": 3 if row["new"] else 2}
        look["fmt"] = epsilon_marker(row["epsilon"])
        apart = 1 + 0.025 * math.log2(row["epsilon"])  # bars of two strengths would hide one another
        intervals(axis, [apart * row["sides"]], pd.DataFrame([row]), color=colour, ms=size, **look)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    label = "distance of the faces, in sides of the square\nthat holds 90 % of a response's gradient"
    axis.set_xlabel(label if narrow else label.replace("\n", " "))
    axis.set_ylabel("interference coefficient (IMP-I)")
    title = textwrap.wrap(f"Alone against all, {_epsilons(rows)}", 42 if narrow else 100)
    axis.set_title("\n".join(title), loc="left", fontsize=10 if narrow else 11)
    marks = [Line2D([], [], lw=4, color=DETECTOR_COLOURS.get(d, INK), label=detector_name(d)) for d in detectors]
    for new, label in ((True, "within the image"), (False, "the first grids")):
        fill = INK if new else GROUND
        marks.append(Line2D([], [], marker="o", ls="", color=INK, mfc=fill, label=label))
    marks += epsilon_marks(rows["epsilon"] if len(rows) else [])
    figure.legend(handles=marks, loc="outside lower center", ncols=2 if narrow else 4, fontsize=9)
    return figure


def _epsilons(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "not measured"
    at: dict[str, list[str]] = {}
    for detector in in_order(rows["detector"]):
        at[detector] = [f"{e:g}" for e in sorted(set(rows[rows["detector"] == detector]["epsilon"]))]
    return "epsilon " + ", ".join(f"{' and '.join(at[d])} ({detector_name(d)})" for d in at)


def unmeasured(config: Config, rows: Sequence[Mapping[str, Any]]) -> str:
    """The cells that the study asks for and has no, or too few, images of."""
    done = {
        (r["detector"], r["faces"], r["distance"], r["side"], r["epsilon"]): r["n"]
        for r in rows
        if r["metric"] == "asr" and r["perturbation"] == "imp-i"
    }
    missing: dict[str, list[str]] = {}
    for part in config.parts:
        for epsilon in part.epsilons:
            for faces, distance, side in part.cells:
                n = done.get((part.detector, faces, distance, side, epsilon), 0)
                if n < part.images:
                    text = f"{faces} faces of {side} px at {distance} px, epsilon {epsilon:g} ({n} of {part.images})"
                    missing.setdefault(part.detector, []).append(text)
    if not missing:
        return "<p>Every cell is measured.</p>"
    listed = "".join(f"<li>{detector_name(d)}: {'; '.join(of)}</li>" for d, of in missing.items())
    return f"<p>Not measured, or on fewer images than planned:</p><ul>{listed}</ul>"
