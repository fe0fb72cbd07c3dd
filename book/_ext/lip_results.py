"""Numbers in prose: every scalar of a results file's ``summary`` is a MyST substitution.

``results/full/interference.json`` with ``"summary": {"asr_imp": 51.5}`` makes ``{{ interference_asr_imp }}`` say 51.5.

==========================  =============================================================================
``{{ experiment_key }}``    the number the book stands by: of your own detector or photographs where this
                            is their book, else of the full run where there is one, else of this build's
``{{ own_... }}``           the number of this build's own run (the quick one, if nothing else was asked)
``{{ experiment_run }}``    which run ``{{ experiment_... }}`` speaks of: ``quick``, ``full`` or ``custom``
``{{ poster_table_... }}``  the poster's number in ``data/poster/table.csv``: ``{{ poster_ipi_imp_9_40_asr }}``
``{{ version }}``           of this edition; ``{{ released }}``: its date; ``{{ pdf_link }}``: to the PDF if any
``{{ citation }}``          BibTeX of this edition, from ``CITATION.cff`` (on a line of its own)
``{{ notebooks_table }}``   a table of what each notebook took in this build (on a line of its own)
``{{ runs_table }}``        a table of what is measured in the full and in this build's run, and what it cost
``{{ full(...) }}``         one value of the full run's rows: ``{{ full("wider_attack", "asr", detector="hr-mini") }}``
``{{ say.name(KEY) }}``     a detector's name for readers: ``{{ say.name(interference_detector) }}`` says HR-mini
``{{ say.percent(KEY) }}``  a share in percent, with one digit: ``{{ say.percent(hr_mini_eval_ap_easy) }}``
==========================  =============================================================================

The run of this build is the folder named by LIPCORE_RUN, ``results/quick`` by default. All numbers of an experiment
are of one run: what that run has not, or as null, prints as "not measured". A name that no run of the experiment has is
a warning, and so fails the strict build.
Jinja filters work: ``{{ '%.2f' | format(interference_asr_imp) }}``.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from lipcore.report.style import detector_name

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURED = "not measured"
logger = logging.getLogger(__name__)


class Number(float):
    """A float that prints with three significant digits, and from 1,000 on as a whole number; formats as any float."""

    def __str__(self) -> str:
        return f"{self:,.0f}" if abs(self) >= 1000 else f"{self:.3g}"


class Whole(int):
    """An int that prints with commas from 1,000 on; formats as any int."""

    def __str__(self) -> str:
        return f"{self:,}"


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """``{experiment: summary}`` of the results files in ``folder``; a file that cannot be used is a warning."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            summary = json.loads(path.read_text(encoding="utf8")).get("summary", {})
            found[re.sub(r"\W", "_", path.stem)] = {str(key): _scalar(value) for key, value in summary.items()}
        except (ValueError, AttributeError) as error:
            logger.warning("%s gives no numbers: %s", path.name, error)
    return found


def _scalar(value: Any) -> str | Whole | Number:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"a summary holds strings and numbers, not {value!r}")
    if isinstance(value, str):
        return value
    return Number(value) if isinstance(value, float) else Whole(value)


def substitutions(results: Path, own: Path) -> dict[str, str | int | Number]:
    """All names a page may use, from the folder ``results`` and this build's own folder in it."""
    custom = own.parent.name == "custom"
    runs = {"full": summaries(results / "full"), "custom" if custom else own.name: summaries(own)}
    names: dict[str, str | int | Number] = {}
    for run, experiments in sorted(runs.items(), key=lambda item: item[0] == ("custom" if custom else "full")):
        for experiment, summary in experiments.items():  # the run that counts comes last and wins as a whole
            others = (other.get(experiment, {}) for other in runs.values())
            names |= {f"{experiment}_{key}": NOT_MEASURED for other in others for key in other}
            names |= {f"{experiment}_{key}": value for key, value in summary.items()}
            names[f"{experiment}_run"] = run
    for experiment, summary in summaries(own).items():
        names |= {f"own_{experiment}_{key}": value for key, value in summary.items()}
    return names


def poster(folder: Path) -> dict[str, Number]:
    """The poster's numbers by table, method and whatever else tells a row apart; ``folder`` holds a file a table."""
    names = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf8") as file:
            for row in csv.DictReader(file):
                parts = [text for column, text in row.items() if column not in ("table", "claims", "value")]
                name = "_".join(["poster", path.stem, *parts]).lower().replace("-", "_")
                names[name] = Number(row["value"])
    return names


class Say:
    """A number or a name as prose has it. An object, for Sphinx keeps no function among its settings."""

    def name(self, detector: str) -> str:
        """A detector's name for readers."""
        return detector_name(detector)

    def percent(self, share: float | str) -> str:
        """A share times 100; what is not measured stays so."""
        return share if isinstance(share, str) else f"{100 * share:.1f}"


class Full:
    """The value of one row of the full run's results, for prose: ``full("wider_attack", "asr", detector="hr-mini")``.

    Args:
        folder: of the results files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        study: str,
        metric: str,
        *,
        scale: float = 100,
        digits: int = 0,
        interval: bool = False,
        entry: str = "value",
        count: str = "",
        **where: Any,
    ) -> str:
        """The value times ``scale``, with its interval where asked for.

        Args:
            study: the name of a results file.
            metric: of the row.
            scale: 100 makes percent of a share.
            digits: behind the point.
            interval: print the bounds as well.
            entry: another one of the row instead, as it is, such as ``"n"``.
            count: of a share, print "3 of 30"; the entry that it is a share of, such as ``"n_faces"``.
            **where: what else the row must have; one row, and one alone, must fit.

        Raises:
            ValueError: not one row fits; the message says how many do.
        """
        rows = _rows(self.folder / f"{study}.json")
        wanted = {"metric": metric, **where}
        fitting = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
        if len(fitting) != 1:
            raise ValueError(f"{len(fitting)} rows of {study} have {wanted}")
        if entry != "value":
            found = fitting[0][entry]
            return "; ".join(map(str, found)) if isinstance(found, list) else str(found)
        value, low, high = (fitting[0][key] for key in ("value", "ci_low", "ci_high"))
        if value is None:
            return NOT_MEASURED
        if count:
            return f"{round(value * fitting[0][count])} of {fitting[0][count]}"
        text = f"{scale * value:z.{digits}f}"
        return f"{text} [{scale * low:z.{digits}f}, {scale * high:z.{digits}f}]" if interval else text


@functools.cache
def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf8"))["rows"]
    return rows


def notebooks_table(stage: Path) -> str:
    """Markdown table of the seconds each executed notebook in ``stage`` took."""
    rows, total = [], 0.0
    for path in sorted(stage.glob("*.ipynb")):
        metadata = json.loads(path.read_text(encoding="utf8"))["metadata"].get("papermill", {})
        if seconds := metadata.get("duration"):
            profile = metadata.get("parameters", {}).get("profile", "")
            rows.append(f"| {path.stem} | {profile} | {seconds:.0f} |")
            total += seconds
    rows.append(f"| all | | {total:.0f} |")
    return "\n".join(["| notebook | profile | seconds |", "|:--|:--|--:|", *rows])


def runs_table(folders: list[Path]) -> str:
    """Markdown table of the results files in ``folders``: what they rest on and what they cost."""
    rows = []
    for path in sorted({path for folder in folders for path in folder.glob("*.json")}):
        made = json.loads(path.read_text(encoding="utf8")).get("provenance", {})
        data, commit = made.get("dataset", {}), str(made.get("git_commit", ""))
        images, faces, seconds = data.get("n_images", ""), data.get("n_faces", ""), made.get("seconds", 0.0)
        cells = [path.stem, path.parent.name, images, faces, f"{seconds:,.0f}", made.get("device", ""), commit[:7]]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    head = ["| experiment | run | images | faces | seconds | device | commit |", "|:--|:--|--:|--:|--:|:--|:--|"]
    return "\n".join([*head, *rows])


def about(citation: Path) -> dict[str, str]:
    """Version and date of this edition, and how to cite it, from the file that says so."""
    said = yaml.safe_load(citation.read_text(encoding="utf8"))
    fields = {
        "author": "{" + " and ".join(author["name"] for author in said["authors"]) + "}",
        "title": said["title"],
        "version": str(said["version"]),
        "date": str(said["date-released"]),
    }
    bibtex = "".join(f"  {key:7} = {{{value}}},\n" for key, value in fields.items())
    return {
        "version": fields["version"],
        "released": fields["date"],
        "citation": f"```bibtex\n@software{{lipbook,\n{bibtex}}}\n```",
    }


def _pdf() -> str:
    if (ROOT / "_build" / "lip-book.pdf").is_file():
        return '<a href="lip-book.pdf">the whole book as one PDF</a>'
    return "`make pdf` prints the whole book into one file"


def _add(app: Sphinx, config: Config) -> None:
    own = ROOT / os.environ.get("LIPCORE_RUN", "results/quick")
    config.myst_substitutions = {
        "notebooks_table": notebooks_table(Path(app.srcdir)),
        "runs_table": runs_table([ROOT / "results" / "full", own]),
        **about(ROOT / "CITATION.cff"),
        "pdf_link": _pdf(),
        "full": Full(ROOT / "results" / "full"),
        "say": Say(),
        **poster(ROOT / "data" / "poster"),
        **substitutions(ROOT / "results", own),
        **config.myst_substitutions,
    }


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
