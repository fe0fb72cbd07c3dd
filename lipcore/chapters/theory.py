"""What cropping and separating can do: each statement's check, as code and as numbers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from lipcore.report.page import Exhibit, Makes, Markup, Page, Table
from lipcore.report.style import METHODS, method_name
from lipcore.studies.base.study import Run
from lipcore.studies.theory import study


def open_page(profile: str, detector: str, images: str = "") -> Page:
    """Checks every statement and opens the chapter."""
    path = study.Theory().run(Run(profile=profile, detector=detector))
    return Page("theory", path, FIGURES, TABLES, profile=profile, detector=detector, images=images)


def checked(statement: str, function: Callable[..., Any]) -> Makes:
    """The code of a check, and what it found."""

    def shown(page: Page) -> Iterator[Exhibit]:
        code = escape(inspect.getsource(function))
        yield Markup(f'<div class="highlight"><pre>{code}</pre></div>')
        found = page.rows[page.rows["metric"] == statement]
        sides = {"left": found["value"].map("{:.4g}".format), "right": found["bound"].map("{:.4g}".format)}
        said = {"what": found["what"].map(readable), "holds": found["holds"].map({True: "yes", False: "no"})}
        yield Table(
            found[["image"]].assign(what=said["what"], **sides, holds=said["holds"]),
            "Both sides of the inequality, and whether it holds.",
        )

    return shown


def readable(text: str) -> str:
    """With the perturbations' names as readers know them."""
    longest = sorted(METHODS, key=len, reverse=True)
    return re.sub(rf"(?<![\w-])({'|'.join(longest)})(?![\w-])", lambda found: method_name(found[1]), text)


FIGURES: dict[str, Makes] = {}
TABLES: dict[str, Makes] = {
    "crop": checked("crop", study.crop),
    "largest": checked("largest", study.largest),
    "separation": checked("separation", study.separation),
    "weak face": checked("weak face", study.weak_face),
    "square root": checked("square root", study.square_root),
    "saturation": checked("saturation", study.saturation),
}
