"""A chapter of the book: figures and tables by name, each with caption, text for those who do not see it, source and
downloads.

A notebook opens one and shows what it has::

    page = open_page(profile, detector)
    page.finding()
    page.figure("distance")
    page.table("success")

What there is, and what it says, stands in :mod:`lipcore.chapters`, in a module of the notebook's name: functions of the
page that return :class:`Chart`, :class:`Table` or :class:`Markup`, one or several of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from matplotlib.figure import Figure

from lipcore.errors import DataError, UnknownName
from lipcore.paths import ROOT
from lipcore.report.pictures import captioned, chart
from lipcore.report.plotting import folded, html_table
from lipcore.report.style import style
from lipcore.results import frame, read_results, shown_and_own

#: Studies that ``make bench`` measures, in an environment of its own.
BENCH = ("lip_bench", "lip_peers")
#: A table with more lines than this is folded.
LONG = 12
#: Title of the fold in which a chapter's own numbers stand, apart from the committed ones.
OWN = "What this build measured by itself, on few images"

Document: TypeAlias = Mapping[str, Any]


class NotMeasured(DataError):
    """What should be shown is in no results file; the message is a sentence for the page."""


@dataclass(frozen=True, kw_only=True)
class Exhibit(ABC):
    """Something that a page shows.

    Attributes:
        fold: it is folded away under this title, "" for not; None leaves that to its length. Neighbours of the same
            title share a fold.
        sources: the results files that it is made from; None for the page's own.
    """

    fold: str | None = None
    sources: Sequence[Document] | None = None

    @property
    def title(self) -> str:
        """Of the fold; "" where it is not folded."""
        return self.fold or ""

    @abstractmethod
    def html(self) -> str:
        """As it stands on the page, without its source."""


@dataclass(frozen=True)
class Chart(Exhibit):
    """A figure, shown as SVG; photographs in it as WebP.

    Attributes:
        figure: it is closed when it is shown.
        caption: HTML; can be read alone.
        alt: what it shows, for those who do not see it.
        narrow: what a phone shows in its place; closed as well.
    """

    figure: Figure
    caption: str
    alt: str
    narrow: Figure | None = None

    def html(self) -> str:
        """The drawing above its caption."""
        return captioned(chart(self.figure, self.alt, self.narrow), self.caption)


@dataclass(frozen=True)
class Table(Exhibit):
    """A table; a long one is folded under its caption's first words.

    Attributes:
        rows: cells may hold HTML; see :func:`lipcore.report.plotting.html_table`.
        caption: HTML.
    """

    rows: pd.DataFrame
    caption: str

    @property
    def title(self) -> str:
        """Of the fold; "" where it is not folded."""
        if self.fold is not None:
            return self.fold
        return self.caption.partition(". ")[0].rstrip(".") if len(self.rows) > LONG else ""

    def html(self) -> str:
        """The table below its caption."""
        return html_table(self.rows, self.caption)


@dataclass(frozen=True)
class Markup(Exhibit):
    """HTML that is ready, with a caption of its own where it needs one."""

    text: str

    def html(self) -> str:
        """The text itself."""
        return self.text


class Shown:
    """HTML that a notebook shows where it stands last in a cell."""

    def __init__(self, html: str) -> None:
        self._html = html

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return "a part of the page"


def committed(study: str) -> dict[str, Any]:
    """The full run of a study, as it comes with the project.

    Raises:
        NotMeasured: there is none.
    """
    path = ROOT / "results" / "full" / f"{study}.json"
    if not path.is_file():
        raise NotMeasured(f"Not measured yet; <code>{command(study, 'full')}</code> measures it.")
    return read_results(path)


def command(study: str, profile: str) -> str:
    """What measures a study."""
    return f"make bench PROFILE={profile}" if study in BENCH else f"lipcore run {study} --profile {profile}"


Makes: TypeAlias = "Callable[[Page], Exhibit | Iterable[Exhibit]]"


class Page:
    """One chapter, and the results it stands by.

    Args:
        name: of the notebook.
        path: of the results file that this build wrote, or that the chapter only reads.
        figures: by name, the one that is the chapter's finding first; each a function of the page.
        tables: likewise.
        profile, detector, images: the notebook's parameters.
        measured: whatever this build has at hand that results files do not hold, such as images.

    Attributes:
        results: those the book stands by: the full run's where there is one, else this build's.

    Raises:
        DataError: there is no results file.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        figures: Mapping[str, Makes],
        tables: Mapping[str, Makes],
        *,
        profile: str = "quick",
        detector: str = "",
        images: str = "",
        measured: Any = None,
    ) -> None:
        style()
        self.name, self.figures, self.tables = name, figures, tables
        self.profile, self.detector, self.images, self.measured = profile, detector, images, measured
        self.results, self._own = shown_and_own(path)
        self._of_reader = path.parent.parent.name == "custom"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Those of ``results``."""
        return frame(self.results)

    @property
    def own(self) -> Document:
        """This build's own results, where those of another run are shown.

        Raises:
            NotMeasured: they are the ones that are shown.
        """
        if self._own is None:
            raise NotMeasured("This build's own run is the one shown above.")
        return self._own

    def finding(self) -> Shown:
        """The chapter's key figure."""
        return self.figure(next(iter(self.figures)))

    def figure(self, name: str) -> Shown:
        """A figure with its caption and where it comes from.

        Raises:
            UnknownName: the chapter has none of that name.
        """
        return self._shown("figure", name, self.figures)

    def table(self, name: str) -> Shown:
        """A table, or several, each with its caption, and where they come from.

        Raises:
            UnknownName: the chapter has none of that name.
        """
        return self._shown("table", name, self.tables)

    def _shown(self, kind: str, name: str, known: Mapping[str, Makes]) -> Shown:
        if name not in known:
            raise UnknownName(f"{kind} of the chapter {self.name}", name, known)
        try:
            made = known[name](self)
            exhibits = [made] if isinstance(made, Exhibit) else list(made)
        except NotMeasured as error:
            return Shown(f'<p class="lip-note">{error}</p>')
        html = ""
        for title, group in groupby(exhibits, lambda exhibit: exhibit.title):
            part = "".join(exhibit.html() for exhibit in group)
            html += folded(title, part) if title else part
        sources = [s for exhibit in exhibits for s in _or_own(exhibit.sources, self.results)]
        lines = "".join(dict.fromkeys(map(self.source, sources)))
        return Shown(f'<div id="{kind}-{name.replace(" ", "-")}">{html}{lines}</div>')

    def source(self, document: Document) -> str:
        """HTML that says what numbers come from, and where to have it: notebook, results, command, images, commit."""
        p, study, profile = document["provenance"], document["experiment"], document["profile"]
        file = f"data/{profile}/{study}"
        detector = f" --detector {self.detector}" if self._of_reader and self.detector else ""
        cost = f"{p['seconds']:,.0f} s of computing on {p['device'] or 'cpu'} · " if p["seconds"] >= 1 else ""
        n, names = p["dataset"]["n_images"], "image" if p["dataset"]["n_images"] == 1 else "images"
        return (
            f'<p class="made-by">Shown by <a href="notebooks/{self.name}.ipynb" download>{self.name}.ipynb</a>, '
            f"made by <code>{command(study, profile)}{detector}</code>: "
            f'<a href="{file}.csv" download>CSV</a>, <a href="{file}.json" download>JSON</a> · '
            f"{n:,} {names} · {cost}commit {p['git_commit'][:8] or 'unknown'}</p>"
        )


def _or_own(sources: Sequence[Document] | None, own: Document) -> Sequence[Document]:
    return (own,) if sources is None else sources
