"""The pages in a real browser, wide and narrow, light and dark: nothing loaded from elsewhere, no error, no page that
scrolls sideways, no serious violation that axe-core finds, and sliders and tabs that work by keyboard.

Without a Chromium on this machine these tests are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests: playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no browser tests: axe is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser tests: there is no Chromium on this machine")

SIZES = {"wide": {"width": 1400, "height": 900}, "narrow": {"width": 390, "height": 844}}
#: A page and all it loads but fonts and the theme's own files, which come once for all pages (0.7 MB).
HEAVIEST = 1_500_000
PAGES = sorted(p.stem for p in (Path(__file__).parents[2] / "book").iterdir() if p.suffix in {".md", ".ipynb"})
#: The theme's own: its side bars come as nested landmarks, and its code blocks scroll.
RULES = {"rules": {"landmark-unique": {"enabled": False}}, "resultTypes": ["violations"], "preload": False}
#: All of them in the light; in the dark only what depends on colours.
THEMES = {"light": RULES, "dark": {**RULES, "runOnly": ["color-contrast", "link-in-text-block"]}}
#: Parts of the API's pages that come from the same template as those before them, and their lines in the contents:
#: looked at in one of the four combinations, for they are most of what axe does.
REPEATED = {
    "exclude": [
        ["section > section:has(dl.py):nth-of-type(n+4)"],
        ["dl.py:nth-of-type(n+4)"],
        [".bd-toc li li:nth-of-type(n+4)"],
        [".bd-toc li:has(code):nth-of-type(n+4)"],
    ]
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        running = p.chromium.launch(executable_path=CHROMIUM, args=options)
        yield running
        running.close()


@pytest.fixture(scope="module", params=SIZES)
def context(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    opened = browser.new_context(viewport=SIZES[request.param], color_scheme="light", reduced_motion="reduce")
    opened.set_default_timeout(180_000)  # a machine may be busy with other tests
    yield opened
    opened.close()


class Visit:
    """A page that was opened, and what happened meanwhile."""

    def __init__(self, context: Any, address: str) -> None:
        self.requests: list[str] = []
        self.bytes = 0
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address, wait_until="load")


@pytest.fixture(scope="module", params=PAGES)
def visit(request: pytest.FixtureRequest, context: Any, html: Path) -> Iterator[Visit]:
    opened = Visit(context, (html / f"{request.param}.html").as_uri())
    yield opened
    opened.page.close()


def test_a_page_loads_little_and_from_its_folder_alone_without_an_error(visit: Visit, html: Path) -> None:
    assert not visit.errors
    here = [url for url in visit.requests if url.startswith(html.as_uri())]
    assert [url for url in visit.requests if url not in here and not url.startswith(("data:", "blob:"))] == []
    files = {Path(html, url.removeprefix(f"{html.as_uri()}/").split("?")[0].split("#")[0]) for url in here}
    theme = {f for f in files if f.suffix in {".css", ".js", ".woff", ".woff2", ".ttf"} and "_static" in f.parts}
    weights = {f.name: f.stat().st_size for f in files - theme}
    assert sum(weights.values()) < HEAVIEST, weights
    assert sum(f.stat().st_size for f in theme if "font" not in f.as_posix()) < HEAVIEST / 2, "the theme has grown"


def test_a_page_does_not_scroll_sideways(visit: Visit) -> None:
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    wide = """[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .slice(0, 3).map(e => e.outerHTML.slice(0, 120))"""
    assert width <= visit.page.viewport_size["width"], visit.page.evaluate(wide)


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_no_serious_violation(visit: Visit, theme: str) -> None:
    visit.page.emulate_media(color_scheme=theme)
    visit.page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    whole = theme == "light" and visit.page.viewport_size == SIZES["wide"]
    found = axe.Axe().run(visit.page, None if whole else REPEATED, THEMES[theme]).response["violations"]
    serious = [
        (
            v["id"],
            v["help"],
            [(node["html"][:160], node["any"][0]["message"] if node["any"] else "") for node in v["nodes"][:3]],
        )
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not serious


def test_a_chapters_key_figure_is_seen_whole(visit: Visit) -> None:
    """At 390 px as well: its own drawing for phones, or one that fits."""
    figure = visit.page.locator("main figure, main .lip-compare").first
    if not figure.count():
        pytest.skip("a page without figures")
    parts = figure.locator("svg.lip-chart, img").all()
    boxes = [part.bounding_box() for part in parts if part.is_visible()]
    assert boxes
    for box in boxes:
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= visit.page.viewport_size["width"] + 1


def test_a_chart_is_in_the_colours_of_the_theme(visit: Visit) -> None:
    ink = """[...document.querySelectorAll('main svg.lip-chart text')]
        .filter(e => e.style.fill === 'currentcolor').slice(0, 1).map(e => getComputedStyle(e).fill)"""
    base = "getComputedStyle(document.querySelector('main figure')).color"
    found = visit.page.evaluate(ink)
    if not found:
        pytest.skip("a page without charts")
    assert found == [visit.page.evaluate(base)]


@pytest.fixture
def first_page(browser: Any, html: Path) -> Iterator[Any]:
    context = browser.new_context(viewport=SIZES["wide"])
    context.set_default_timeout(180_000)
    page = context.new_page()
    page.goto((html / "paper.html").as_uri(), wait_until="load")
    yield page
    context.close()


def test_the_slider_moves_by_keyboard_and_says_where_it_is(first_page: Any) -> None:
    slider = first_page.locator(".lip-compare input[type=range]").first
    stage = first_page.locator(".lip-stage").first
    slider.focus()
    said = slider.get_attribute("aria-valuetext")
    before = stage.evaluate("e => e.style.getPropertyValue('--cut')")
    for _ in range(5):
        first_page.keyboard.press("ArrowLeft")
    assert stage.evaluate("e => e.style.getPropertyValue('--cut')") != before
    assert slider.get_attribute("aria-valuetext") != said
    assert "clean" in said


def test_what_the_slider_says_covers_no_picture(first_page: Any) -> None:
    stage = first_page.locator(".lip-stage").first.bounding_box()
    lines = [line for line in first_page.locator(".lip-said").first.locator("p").all() if line.is_visible()]
    assert len(lines) == 2
    assert all(line.bounding_box()["y"] >= stage["y"] + stage["height"] for line in lines)


def test_tabs_change_the_picture_by_keyboard(first_page: Any) -> None:
    tabs = first_page.locator(".lip-tabs input[type=radio]")
    assert tabs.count() >= 2
    tabs.first.focus()
    visible = "() => [...document.querySelectorAll('.lip-compare .lip-after')].map(e => !e.hidden)"
    before = first_page.evaluate(visible)
    first_page.keyboard.press("ArrowRight")
    after = first_page.evaluate(visible)
    assert sum(before) == sum(after) == 1
    assert before != after


def test_without_javascript_the_pictures_are_there(browser: Any, html: Path) -> None:
    context = browser.new_context(viewport=SIZES["narrow"], java_script_enabled=False)
    page = context.new_page()
    page.goto((html / "paper.html").as_uri(), wait_until="load")
    pictures = page.locator(".lip-compare img")
    assert pictures.count() >= 2
    for i in range(2):
        assert pictures.nth(i).is_visible()
        assert pictures.nth(i).get_attribute("alt")
    context.close()


def test_explore_filters_sorts_and_plots(browser: Any, html: Path) -> None:
    context = browser.new_context(viewport=SIZES["wide"])
    context.set_default_timeout(180_000)
    page = context.new_page()
    page.goto((html / "explore.html").as_uri(), wait_until="load")
    page.locator(".lip-explore select").first.select_option("full/mechanism")
    count = page.locator(".lip-explore-count")
    page.wait_for_function("document.querySelector('.lip-explore caption')?.textContent.startsWith('mechanism')")
    every = count.inner_text()
    page.get_by_label("metric").select_option(index=1)
    assert count.inner_text() != every
    head = page.locator("th", has_text="value").first
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    shown = page.locator("tbody tr").all()
    at = page.locator("thead th").all_inner_texts().index("value ▲")
    values = [
        float(line.locator("td").nth(at).inner_text())
        for line in shown[:20]
        if line.locator("td").nth(at).inner_text() != "–"
    ]
    assert values == sorted(values)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download these rows").click()
    assert Path(download.value.path()).read_text().startswith("detector,")
    context.close()
