"""Pages that need no network: they load nothing but files of the book.

Jupyter Book adds every script under ``_static`` to every page, so MathJax would load twice; and sphinx-thebe, which
makes pages live through a public Binder, names a script elsewhere on each page even when it is switched off.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def _keep_mathjax_to_pages_with_math(app: Sphinx, config: Config) -> None:
    config.html_js_files = [entry for entry in config.html_js_files if entry != config.mathjax_path]
    config.nb_ipywidgets_js = {}


def _drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "script_files" in context:
        context["script_files"] = [script for script in context["script_files"] if "thebe" not in _described(script)]


def _described(script: Any) -> str:
    """A script's file, or the code it holds."""
    return f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {}).get('body', '')}"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _keep_mathjax_to_pages_with_math)
    app.connect("html-page-context", _drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
