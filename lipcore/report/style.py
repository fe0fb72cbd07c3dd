"""One name, one colour and one place in the order for each detector and each perturbation, everywhere."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt

#: Detectors as readers know them, in the order in which they stand everywhere.
DETECTORS = {
    "hr": "HR",
    "hr-mini": "HR-mini",
    "hr-mini-2": "HR-mini II",
    "hr-mini-short": "HR-mini, short reach",
    "hr-mini-even": "HR-mini, even reach",
    "hr-mini-long": "HR-mini, long reach",
    "centerface": "CenterFace",
    "retinaface": "RetinaFace",
    "ssd-mobilenet": "SSD-MobileNet",
    "tiny-yolo": "Tiny YOLO",
    "rpn": "RPN",
    "rpn-mini": "RPN-mini",
    "pnet": "P-Net",
}
#: Perturbations likewise.
METHODS = {
    "none": "clean",
    "random": "random signs",
    "imp": "IMP",
    "lp-w": "LP-W",
    "imp-i": "IMP-I",
    "lp": "LP",
    "lip-a": "LIP-A",
    "lip-h": "LIP-H",
}
#: What follows the page's theme: letters and lines, and the ground they stand on. Black and white themselves are the
#: same in both themes, as on the colours of a heat map.
INK, GROUND = "#1f2328", "#fefefe"
#: One colour for each perturbation (Okabe and Ito's palette, safe for colour-blind readers).
METHOD_COLOURS = {
    "none": INK,
    "random": "#767676",
    "imp": "#d55e00",
    "lp-w": "#e69f00",
    "imp-i": "#0072b2",
    "lp": "#56b4e9",
    "lip-a": "#009e73",
    "lip-h": "#cc79a7",
}
#: One colour for each detector. ``book/_static/lip.css`` has lighter ones for the dark theme, by these names.
DETECTOR_COLOURS = {
    "hr": INK,
    "hr-mini": "#882255",
    "hr-mini-2": "#dd77aa",
    "hr-mini-short": "#56b4e9",
    "hr-mini-even": "#882255",
    "hr-mini-long": "#d55e00",
    "centerface": "#117733",
    "retinaface": "#332288",
    "ssd-mobilenet": "#999933",
    "tiny-yolo": "#cc6677",
    "rpn": "#aa4499",
    "rpn-mini": "#aa4499",
    "pnet": "#767676",
}
#: One marker for each strength, where several share a panel; another strength has a cross.
EPSILON_MARKERS = {1.0: "^", 2.0: "o", 3.0: "v", 4.0: "s", 8.0: "D", 16.0: "P"}
#: Boxes on photographs.
TRUE, FALSE, LOST = "#ffd700", "#e31a1c", "#ffffff"


def detector_name(name: str) -> str:
    """A detector's name for readers; one that is not known keeps its own."""
    return DETECTORS.get(name, name)


def method_name(name: str) -> str:
    """A perturbation's name for readers."""
    return METHODS.get(name, name)


def epsilon_marker(epsilon: float) -> str:
    """A strength's marker, as matplotlib names it."""
    return EPSILON_MARKERS.get(epsilon, "X")


def in_order(names: Iterable[str]) -> list[str]:
    """Detectors' or perturbations' names, each once, in the order of this module; what it doesn't know comes last."""
    order = [*DETECTORS, *METHODS]
    return sorted(dict.fromkeys(names), key=lambda name: order.index(name) if name in order else len(order))


def style() -> None:
    """Sets matplotlib up for the book: readable on a phone, quiet grids, no frames, letters and ground of the theme."""
    plt.rcParams.update(
        {
            "text.color": INK,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
            "figure.dpi": 110,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "svg.fonttype": "none",
            "svg.hashsalt": "lipcore",
        }
    )
