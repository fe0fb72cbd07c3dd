"""Pages that need no network and leave nobody out.

sphinx-thebe, which makes pages live through a public Binder, names a script elsewhere on each page even when it is
switched off, and so does myst-nb for widgets. The theme asks for its fonts ahead of time in a way that browsers refuse
for a page opened from a disk, loads its icons twice, as a font and as a script of 1.5 MB, complains where no theme is
chosen, its side bar's switches have no name, and wide tables and figures cannot be scrolled by keyboard. Docutils calls
the references a list, and puts more than items into it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def _no_widgets(app: Sphinx, config: Config) -> None:
    config.nb_ipywidgets_js = {}


def _drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "script_files" in context:
        context["script_files"] = [script for script in context["script_files"] if "thebe" not in _described(script)]


def _described(script: Any) -> str:
    """A script's file, or the code it holds."""
    return f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {}).get('body', '')}"


def tidy(page: str) -> str:
    """A page of the theme with what it leaves out."""
    page = re.sub(r'\s*<link rel="preload" as="font"[^>]*>', "", page)
    page = re.sub(r'\s*<script src="[^"]*/fontawesome/[^"]*"></script>', "", page)
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = page.replace(' role="doc-biblioentry"', "")
    page = page.replace('data-default-mode=""', 'data-default-mode="auto"')
    page = page.replace('localStorage.getItem("mode") || ""', 'localStorage.getItem("mode") || "auto"')
    page = re.sub(r'<summary>(?=\s*<span class="toctree-toggle")', '<summary aria-label="Pages below this one">', page)
    page = page.replace(
        '<div class="pst-scrollable-table-container">', '<div class="pst-scrollable-table-container" tabindex="0">'
    )
    page = re.sub(r'<figure(?! class="lip-compare)(?![^>]*tabindex)', '<figure tabindex="0"', page)
    return re.sub(r'<th class="(head[^"]*)"', r'<th scope="col" class="\1"', page)


def _tidy(app: Sphinx, exception: Exception | None) -> None:
    if exception is None:
        for path in Path(app.outdir).glob("*.html"):
            path.write_text(tidy(path.read_text(encoding="utf8")), encoding="utf8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _no_widgets)
    app.connect("html-page-context", _drop_thebe, priority=900)
    app.connect("build-finished", _tidy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
