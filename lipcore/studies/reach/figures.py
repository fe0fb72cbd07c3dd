"""Interference against distance for a short, an even and a long reach, in pixels and in fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lipcore.report.plotting import intervals
from lipcore.report.style import DETECTOR_COLOURS, INK, in_order
from lipcore.results import frame
from lipcore.studies.reach.study import ENDED, SIDE


def reach_figure(results: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """The coefficient of IMP-I by distance: between edges in pixels, and between centres in sides of each one's e_i.

    Args:
        results: of the study.
        narrow: for a phone, one panel below the other.
    """
    rows = frame(results)
    sides = rows[rows["metric"] == "e_side"].set_index("detector")["value"].to_dict()
    figure = plt.figure(figsize=(3.7, 5.6) if narrow else (7.2, 3.4))
    panels = figure.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
    for axis in panels:
        axis.axhline(0, color="#767676", lw=0.8)
        axis.axhline(ENDED, color="#767676", lw=0.8, ls=":")
    for name in in_order(rows["detector"].dropna()):
        own = rows[(rows["detector"] == name) & (rows["metric"] == "interference")].sort_values("distance")
        colour = DETECTOR_COLOURS.get(name, INK)
        for axis, x in zip(panels, (own["distance"], (own["distance"] + SIDE) / sides[name]), strict=True):
            label = f"{name.removeprefix('hr-mini-')}: e$_i$ of {sides[name]:.0f} px"
            intervals(axis, x, own, fmt="o-", color=colour, label=label)
    panels[0].set_xlabel("between the faces' edges, pixels")
    panels[1].set_xlabel("between their centres, in sides of the own e$_i$")
    panels[0].set_ylabel("interference coefficient (IMP-I)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=1 if narrow else 3, fontsize=9
    )
    return figure
