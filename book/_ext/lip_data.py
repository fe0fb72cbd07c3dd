"""What the pages offer for download, and what the page *Explore* shows.

``data/<run>/<study>.json`` and ``.csv`` are the results files and their rows; ``data/<run>/<study>.js`` holds the same
rows for the page *Explore*, column by column, as a script, since a page opened from a disk may not fetch a file.
``notebooks/<name>.ipynb`` and what the theme links to, ``_sources/<name>.ipynb``, are the notebooks as they are stored,
without outputs. The line ``<!-- lip-explore -->`` becomes the page's controls and a list of all files.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from lipcore.report.plotting import folded
from lipcore.studies.base.registry import load_study

ROOT = Path(__file__).resolve().parents[2]
MARKER = "<!-- lip-explore -->"
logger = logging.getLogger(__name__)


def studies(results: Path, own: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """The profile, file and document of every results file, the full run's before this build's."""
    for folder in dict.fromkeys((results / "full", own)):
        for path in sorted(folder.glob("*.json")):
            document = json.loads(path.read_text(encoding="utf8"))
            if document.get("rows"):
                yield document["profile"], path, document


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; what a row lacks is None. Columns that say nothing, all None, are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row.get(name) for row in rows] for name in names}
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV, an empty field for what is not there."""
    by = columns(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(by)
    writer.writerows(zip(*by.values(), strict=True))
    return text.getvalue()


def as_script(key: str, rows: list[dict[str, Any]]) -> str:
    """The rows as a script that hands them to the page; texts are numbered, so that none is written twice."""
    packed: dict[str, Any] = {}
    for name, values in columns(rows).items():
        if any(isinstance(value, str) for value in values):
            words = list(dict.fromkeys(map(str, (v for v in values if v is not None))))
            at = {word: i for i, word in enumerate(words)}
            packed[name] = {"words": words, "at": [None if v is None else at[str(v)] for v in values]}
        else:
            packed[name] = [round(v, 5) if isinstance(v, float) else v for v in values]
    return f"lipExplore({json.dumps(key)},{json.dumps(packed, separators=(',', ':'))});\n"


def of(study: str) -> str:
    """What a study measures, as it says itself."""
    return load_study(study).title


def controls(results: Path, own: Path) -> str:
    """The page's HTML: a menu of the tables, and a list of the files that is there without JavaScript too."""
    options, lines = [], []
    for run, path, document in studies(results, own):
        key = f"{run}/{path.stem}"
        title = f"{path.stem}, {run} run: {of(path.stem)} ({len(document['rows']):,} rows)"
        options.append(f'<option value="{escape(key)}">{escape(title)}</option>')
        links = " · ".join(f'<a href="data/{key}.{form}" download>{form.upper()}</a>' for form in ("csv", "json"))
        lines.append(f"<li>{escape(title)}: {links}</li>")
    files = folded(f"{len(lines)} files", f"<ul>{''.join(lines)}</ul>")
    return (
        '<div class="lip-explore" data-folder="data">\n'
        f'<p class="lip-explore-study"><label>Table <select>{"".join(options)}</select></label></p>\n'
        '<div class="lip-explore-body"></div>\n</div>\n'
        '<h2 id="files">Every table as a file</h2>\n'
        f"{files}\n"
    )


def _own() -> Path:
    return ROOT / os.environ.get("LIPCORE_RUN", "results/quick")


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    if MARKER in source[0]:
        page = f"```{{raw}} html\n{controls(ROOT / 'results', _own())}```"
        source[0] = source[0].replace(MARKER, page)


def _write(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None:
        return
    out = Path(app.outdir)
    for run, path, document in studies(ROOT / "results", _own()):
        folder = out / "data" / run
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)
        (folder / f"{path.stem}.csv").write_text(as_csv(document["rows"]), encoding="utf8")
        (folder / f"{path.stem}.js").write_text(as_script(f"{run}/{path.stem}", document["rows"]), encoding="utf8")
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for folder in (out / "notebooks", out / "_sources"):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / path.name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
