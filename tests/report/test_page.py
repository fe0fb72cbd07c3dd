"""What a chapter shows: by name, with captions, texts for those who do not see it, sources, downloads, folds."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

import lipcore.report.page as module
from lipcore.errors import DataError, LipcoreError, UnknownName
from lipcore.report.page import Chart, Markup, NotMeasured, Page, Table, committed
from lipcore.report.pictures import chart
from lipcore.report.style import INK, METHOD_COLOURS
from lipcore.results import Dataset, DetectorInfo, write_results
from lipcore.studies.base.registry import STUDIES, load_study
from lipcore.studies.base.study import Run


def written(path: Path, profile: str, value: float) -> Path:
    row = {"detector": "pnet", "metric": "asr", "value": value, "ci_low": 0.0, "ci_high": 1.0, "n": 3}
    return write_results(
        path,
        experiment="example",
        profile=profile,
        config={},
        rows=[row],
        reported=[],
        summary={},
        detectors=[DetectorInfo("pnet", "0" * 64, "")],
        dataset=Dataset("images", "0" * 12, 3, 7),
        seed=0,
        seconds=1234.0,
    )


def line(page: Page | None = None) -> Figure:
    figure, axis = plt.subplots(figsize=(2, 2))
    axis.plot([0, 1], [0.123456789, 1], "o-", color=METHOD_COLOURS["imp-i"])
    return figure


def picture() -> Figure:
    figure, axis = plt.subplots(figsize=(5, 2))
    axis.imshow([[0.0, 1.0], [2.0, 3.0]])
    return figure


def lines(count: int) -> pd.DataFrame:
    return pd.DataFrame({"method": ["LP"] * count, "ASR": range(count)})


def absent(page: Page) -> Table:
    raise NotMeasured("Not measured.")


FIGURES = {
    "first": lambda page: Chart(line(), "Success & distance.", "A line that rises"),
    "seen": lambda page: Chart(picture(), "A photograph.", "What is on it", sources=()),
    "both": lambda page: Chart(line(), "Success.", "A line that rises", line()),
}
TABLES = {
    "short": lambda page: Table(lines(12), "Success. Small: intervals."),
    "long": lambda page: Table(lines(13), "Success. Small: intervals."),
    "many": lambda page: [
        Table(lines(1), "One."),
        Table(lines(2), "Two.", fold="More"),
        Markup("<p>Three</p>", fold="More"),
    ],
    "own": lambda page: Table(lines(1), "Own.", sources=(page.own, page.results, page.own)),
    "absent": absent,
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for of in (module, module.shown_and_own.__globals__):
        monkeypatch.setattr(of, "ROOT", tmp_path) if of is module else monkeypatch.setitem(of, "ROOT", tmp_path)
    return tmp_path / "results"


@pytest.fixture
def page(results: Path) -> Page:
    written(results / "full" / "example.json", "full", 0.5)
    return Page("chapter", written(results / "quick" / "example.json", "quick", 0.25), FIGURES, TABLES)


def html(shown: module.Shown) -> str:
    return shown._repr_html_()


def test_the_full_run_is_shown_and_this_builds_own_beside_it(page: Page) -> None:
    assert page.rows["value"].tolist() == [0.5]
    assert page.own["rows"][0]["value"] == 0.25


def test_a_figure_has_caption_text_source_and_downloads(page: Page) -> None:
    before = plt.get_fignums()
    text = html(page.figure("first"))
    assert "<figcaption>Success & distance.</figcaption>" in text
    assert re.search(r'<svg class="lip-chart" role="img" aria-label="A line that rises"', text)
    assert 'href="notebooks/chapter.ipynb"' in text
    assert 'href="data/full/example.csv"' in text
    assert 'href="data/full/example.json"' in text
    assert "<code>lipcore run example --profile full</code>" in text
    assert "3 images · 1,234 s" in text
    assert plt.get_fignums() == before


def test_what_a_page_says_makes_its_numbers_can(page: Page, results: Path) -> None:
    """Of those studies that ``lipcore run`` refuses, whatever is asked, ``make bench`` makes them."""
    refused = []
    for name in STUDIES:
        if "raise LipcoreError" in inspect.getsource(type(load_study(name)).run):
            with pytest.raises(LipcoreError, match=f"{name} is measured by `make bench`"):
                load_study(name).run(Run(profile="full"))
            refused.append(name)
    assert refused == list(module.BENCH)
    document = page.results | {"experiment": "lip_peers"}
    assert "made by <code>make bench PROFILE=full</code>" in page.source(document)
    with pytest.raises(NotMeasured, match="<code>make bench PROFILE=full</code> measures it"):
        committed("lip_peers")


def test_a_chart_is_a_whole_drawing_and_no_longer_than_it_must_be(page: Page) -> None:
    drawn = re.search(r"<svg.*</svg>", html(page.figure("first")))
    assert drawn is not None
    tree = ElementTree.fromstring(drawn[0].replace("xlink:href", "href"))
    assert [node.tag for node in tree.iter() if node.tag in ("metadata", "style")] == []
    assert not re.search(r'(?: [dxy]="|translate\(|rotate\()[^")]*\.\d{2}', drawn[0])
    assert "font-family" not in drawn[0], "the page's style sheet names it"
    known = {node.get("id") for node in tree.iter()}
    named = re.findall(r'(?:url\(|href=")#(\w+)', drawn[0])
    assert named
    assert set(named) <= known
    assert [node.text for node in tree.iter("text")].count("0.5") >= 1, "letters stay letters"


def test_lines_that_are_drawn_alike_are_one_path() -> None:
    figure, axis = plt.subplots()
    axis.errorbar([1, 2, 3], [1, 2, 3], yerr=[0.1, 0.2, 0.3], ecolor="#ff0001")
    axis.errorbar([1, 2], [3, 2], yerr=[0.1, 0.2], ecolor="#ff0002")
    drawn = chart(figure, "Error bars")
    three, two = (re.findall(rf'<path d="([^"]*)"[^>]*stroke:#ff000{n}[^>]*/>', drawn) for n in (1, 2))
    assert [path.count("M") for path in three + two] == [3, 2]


def test_a_chart_is_in_the_colours_of_the_pages_theme(page: Page) -> None:
    text = html(page.figure("first"))
    assert "stroke:currentcolor" in text
    assert INK not in text
    assert "var(--lip-0072b2,#0072b2)" in text
    assert "#ffffff" not in text, "it has no ground of its own"


def test_charts_share_no_ids(page: Page) -> None:
    one, other = (set(re.findall(r'\bid="(\w+)"', html(page.figure(name)))) for name in ("first", "seen"))
    assert one
    assert not one & other


def test_a_phone_gets_a_drawing_of_its_own(page: Page) -> None:
    text = html(page.figure("both"))
    assert re.findall(r'<svg class="lip-chart ([\w-]+)"', text) == ["lip-wide", "lip-narrow"]
    assert text.count('aria-label="A line that rises"') == 2


def test_a_wide_drawing_says_that_it_goes_on(page: Page) -> None:
    assert "lip-scrolls" not in html(page.figure("first"))
    assert 'class="lip-chart lip-scrolls"' in html(page.figure("seen"))


def test_photographs_are_webp_and_what_no_result_made_has_no_source(page: Page) -> None:
    text = html(page.figure("seen"))
    assert "data:image/webp;base64," in text
    assert "image/png" not in text
    assert "made-by" not in text


def test_the_finding_is_the_first_figure(page: Page) -> None:
    assert html(page.finding()) == html(page.figure("first"))


def test_long_tables_are_folded_under_what_they_are(page: Page) -> None:
    assert "<details" not in html(page.table("short"))
    assert "<summary>Success</summary>" in html(page.table("long"))


def test_neighbours_share_a_fold_and_a_source_is_named_once(page: Page) -> None:
    text = html(page.table("many"))
    assert text.count("<details") == 1
    assert text.index("One.") < text.index("<summary>More") < text.index("Two.") < text.index("Three")
    assert text.count("made-by") == 1
    own = html(page.table("own"))
    assert re.findall(r"data/(\w+)/example.csv", own) == ["quick", "full"]


def test_what_is_not_measured_says_so_and_hides_nothing_else(page: Page, results: Path) -> None:
    assert html(page.table("absent")) == '<p class="lip-note">Not measured.</p>'
    alone = Page("chapter", results / "full" / "example.json", FIGURES, TABLES)
    assert "the one shown above" in html(alone.table("own"))
    with pytest.raises(NotMeasured, match="lipcore run other --profile full"):
        committed("other")
    assert committed("example")["profile"] == "full"


def test_a_wrong_name_lists_the_right_ones(page: Page) -> None:
    with pytest.raises(UnknownName, match=r"unknown figure of the chapter chapter 'frist'.*Did you mean 'first'"):
        page.figure("frist")
    with pytest.raises(UnknownName, match="valid: short, long"):
        page.table("first")


def test_a_chapter_needs_results(results: Path) -> None:
    with pytest.raises(DataError, match="no results"):
        Page("chapter", results / "quick" / "example.json", FIGURES, TABLES)


def test_a_readers_own_results_name_their_detector(results: Path) -> None:
    path = written(results / "custom" / "quick-ab" / "example.json", "quick", 0.1)
    own = Page("chapter", path, FIGURES, TABLES, detector="mine:make")
    assert "lipcore run example --profile quick --detector mine:make" in html(own.figure("first"))
