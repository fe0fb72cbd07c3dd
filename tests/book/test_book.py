"""The book as a reader gets it: strictly built from notebooks stored clean, on pages that need no network."""

from __future__ import annotations

import ast
import importlib.util
import json
import logging
import re
import shutil
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
PARAMETERS = {"detector", "images", "profile"}


# Stored notebooks


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def stored(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf8"))


def test_notebooks_are_stored_without_outputs(stored: dict[str, Any]) -> None:
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert "papermill" not in stored["metadata"]
    assert "widgets" not in stored["metadata"]


def test_cells_have_ids_that_a_person_chose(stored: dict[str, Any]) -> None:
    assert (stored["nbformat"], stored["nbformat_minor"]) >= (4, 5)
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(set(ids)) == len(ids)
    drawn = [i for i in ids if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8}", i)]
    assert not drawn, "ids drawn at random change with every edit; name the cells"


def test_notebooks_take_the_three_parameters_and_default_to_the_quick_profile(stored: dict[str, Any]) -> None:
    tagged = [cell for cell in stored["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    found = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse("".join(tagged[0]["source"])).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert found.keys() >= PARAMETERS
    assert found["profile"] == "quick"


def test_notebooks_use_the_environments_kernel(stored: dict[str, Any]) -> None:
    assert stored["metadata"]["kernelspec"]["name"] == "python3"


def test_results_have_one_maker_each() -> None:
    declared = [json.loads(path.read_text())["metadata"].get("lip", {}) for path in NOTEBOOKS]
    made = [name for lip in declared for name in lip.get("results", [])]
    assert len(set(made)) == len(made)


def test_every_page_is_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    inner = [section["file"] for chapter in toc["chapters"] for section in chapter.get("sections", [])]
    listed = {toc["root"], *(chapter["file"] for chapter in toc["chapters"]), *inner}
    pages = {path.stem for path in (ROOT / "book").iterdir() if path.suffix in {".md", ".ipynb"}}
    assert listed == pages


# Built pages


class _Loads(HTMLParser):
    """Addresses that a page loads by itself, as against those it links to."""

    loading = frozenset({"src", "srcset", "href", "data", "poster", "xlink:href"})

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in self.loading and tag not in {"a", "area", "form"}:
                self.addresses.append(value)


def _pages(html: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(html.glob("*.html")):
        yield path.name, path.read_text(encoding="utf8")


def _written(html: Path) -> Iterator[tuple[str, str]]:
    """The pages that somebody wrote, without those that Sphinx adds."""
    added = ("genindex.html", "search.html", "py-modindex.html", "index.html")
    return ((name, text) for name, text in _pages(html) if name not in added)


def test_pages_load_nothing_from_elsewhere(html: Path) -> None:
    for name, text in _pages(html):
        loads = _Loads()
        loads.feed(text)
        addresses = [a for a in loads.addresses if not a.startswith("data:")]
        assert not [a for a in addresses if re.search(r"(https?:)?//(?!www\.w3\.org)", a)], name
        text = re.sub(r"data:[\w/+-]+;base64,[\w+/=]+", "", text)
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text), name
        assert "unpkg.com" not in text, name
        assert "cdn" not in re.sub(r"<(pre|code|p|td|a)\b.*?</\1>", "", text, flags=re.DOTALL).lower(), name
    for path in html.rglob("*.css"):
        text = path.read_text(encoding="utf8")
        assert not re.search(r"(@import\s+(url\()?|url\(\s*)['\"]?(https?:)?//", text), path.name


def test_every_file_a_page_loads_is_there(html: Path) -> None:
    for name, text in _pages(html):
        loads = _Loads()
        loads.feed(text)
        for address in loads.addresses:
            if address.startswith(("data:", "#")):
                continue
            assert (html / re.split(r"[?#]", address)[0]).exists(), f"{name}: {address}"


def test_formulas_are_mathml_that_a_browser_draws_itself(html: Path) -> None:
    formulas = [
        piece for _, text in _pages(html) for piece in re.findall(r'class="math[^"]*"[^>]*>(.*?)</', text, re.S)
    ]
    assert len(formulas) > 50
    assert not [piece for piece in formulas if "<math" not in piece]
    assert not [name for name, text in _pages(html) if "mathjax" in text.lower().split("</head>")[0]]


def test_every_picture_says_what_it_shows(html: Path) -> None:
    for name, text in _written(html):
        for alt in re.findall(r'<img\b(?![^>]*\bclass="logo)[^>]*?\balt="([^"]*)"', text):
            assert len(alt) > 10, f"{name}: {alt!r}"
            assert not re.search(r"_images/|\.(png|svg|webp)$", alt), f"{name}: {alt}"
        assert not re.search(r"<img\b(?![^>]*\balt=)", text), name
        drawings = re.findall(r'<svg class="lip-chart[^>]*>', text)
        assert all(re.search(r'role="img" aria-label="[^"]{20,}"', drawing) for drawing in drawings), name


def test_drawings_of_a_page_share_no_ids(html: Path) -> None:
    for name, text in _pages(html):
        drawings = re.findall(r'<svg class="lip-chart.*?</svg>', text, re.DOTALL)
        ids = [set(re.findall(r'\bid="([^"]*)"', drawing)) for drawing in drawings]
        assert sum(map(len, ids)) == len(set().union(*ids)), name


def test_computed_tables_name_their_columns_and_rows(html: Path) -> None:
    found = 0
    for name, text in _pages(html):
        for table in re.findall(r'<div class="lip-table".*?</table>', text, re.S):
            found += 1
            assert re.search(r'<th scope="col"', table), name
            assert not re.search(r"<th>", table), name
    assert found > 5


def test_headings_leave_no_level_out(html: Path) -> None:
    for name, text in _written(html):
        article = text[text.index("<article") : text.index("</article")]
        levels = [int(level) for level in re.findall(r"<h([1-6])\b", article)]
        assert levels[0] == 1, name
        gaps = [(a, b) for a, b in pairwise(levels) if b > a + 1]
        assert not gaps, f"{name}: {gaps}"


def test_links_between_pages_lead_somewhere(html: Path) -> None:
    """Every page, file and anchor that a page links to is there, and nobody is written to."""
    anchors: dict[str, set[str]] = {}

    def has(page: Path, anchor: str) -> bool:
        if page.name not in anchors:
            anchors[page.name] = set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf8")))
        return anchor in anchors[page.name]

    for name, text in _pages(html):
        assert "mailto:" not in text, name
        for address in set(re.findall(r'<a\b[^>]*?\bhref="([^"]*)"', text)):
            if re.match(r"[a-z]+:", address) or address in ("", "#"):
                continue
            path, _, anchor = unescape(address).partition("#")
            page = html / unquote(path.partition("?")[0]) if path else html / name
            assert page.exists(), f"{name}: {address}"
            if anchor and page.suffix == ".html":
                assert has(page, unquote(anchor)), f"{name}: {address}"


def test_pages_describe_themselves_and_have_an_icon(html: Path) -> None:
    for name, text in _written(html):
        for tag in ("description", "og:title", "og:description", "og:image"):
            found = re.findall(rf'<meta (?:name|property)="{tag}" content="([^"]+)"', text)
            assert len(found) == 1, f"{name}: {tag}"
        assert 'rel="icon"' in text, name


def test_notebooks_to_download_are_as_stored_and_results_are_beside_them(html: Path) -> None:
    for path in NOTEBOOKS:
        assert (html / "notebooks" / path.name).read_bytes() == path.read_bytes()
        assert (html / "_sources" / path.name).read_bytes() == path.read_bytes()
    for path in sorted((ROOT / "results" / "full").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf8"))
        if document.get("rows"):
            table = html / "data" / "full" / f"{path.stem}.csv"
            assert (html / "data" / "full" / path.name).read_bytes() == path.read_bytes()
            assert len(pd.read_csv(table)) == len(document["rows"])


def test_pages_do_not_show_where_they_were_built(html: Path) -> None:
    for path in [*html.glob("*.html"), *html.glob("_sources/*")]:
        assert str(ROOT) not in path.read_text(encoding="utf8"), path.name


def test_every_notebook_became_a_page_with_its_outputs(html: Path) -> None:
    for path in NOTEBOOKS:
        page = (html / f"{path.stem}.html").read_text(encoding="utf8")
        executed = json.loads((ROOT / "_build" / "executed" / "quick" / path.name).read_text(encoding="utf8"))
        code = [cell for cell in executed["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        assert all(cell["execution_count"] for cell in code), path.name
        assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
        noise = [output for cell in code for output in cell["outputs"] if output.get("name") == "stderr"]
        assert not noise, f"{path.name} writes to stderr: {noise[0]['text']}"
        assert "{{" not in re.sub(r"<(pre|code)\b.*?</\1>", "", page, flags=re.DOTALL), path.name


def test_every_module_is_on_one_api_page(html: Path) -> None:
    text = "".join(text for name, text in _pages(html) if name.startswith("api_"))
    modules = _extension("lip_api").modules()
    assert {"lipcore.detectors.base", "lipcore.attacks.presets", "lipcore.receptive_field"} <= set(modules)
    for name in modules:
        assert text.count(f'id="module-{name}"') == 1, name


def test_the_apis_first_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "book" / "api.md").read_text(encoding="utf8"), re.S)
    assert code is not None
    shutil.copyfile(ROOT / "data" / "crowds" / "images" / "000000462371.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1], "api.md", "exec"), {})
    assert (tmp_path / "hidden.png").is_file()


def test_the_references_are_listed(html: Path) -> None:
    page = (html / "references.html").read_text(encoding="utf8").lower()
    for word in ("gloss over faces", "centerface", "effective receptive field", "finding tiny faces"):
        assert word in page


def test_prose_cites_numbers_of_the_results(html: Path) -> None:
    """Each substitution used in a stored notebook's prose stands on its page as the results file has it."""
    names = _extension("lip_results").substitutions(ROOT / "results", ROOT / "results" / "quick")
    for path in NOTEBOOKS:
        prose = "".join(
            "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"
        )
        page = (html / f"{path.stem}.html").read_text(encoding="utf8")
        for name in re.findall(r"\{\{\s*(\w+)\s*\}\}", prose):
            if name in names and re.fullmatch(r"[\w.,%-]+", str(names[name])):
                assert str(names[name]) in page, f"{path.name}: {name}"


# Numbers in prose


def _extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _result(path: Path, **summary: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"summary": summary}))


def test_the_full_run_is_preferred_and_the_builds_own_is_beside_it(tmp_path: Path) -> None:
    _result(tmp_path / "full" / "ipi.json", asr=51.5, faces=9)
    _result(tmp_path / "quick" / "ipi.json", asr=40.0, faces=9)
    _result(tmp_path / "quick" / "erf.json", ratio=0.25)
    names = _extension("lip_results").substitutions(tmp_path, tmp_path / "quick")
    assert {key: str(value) for key, value in names.items()} == {
        "ipi_asr": "51.5", "ipi_faces": "9", "ipi_run": "full", "own_ipi_asr": "40", "own_ipi_faces": "9",
        "erf_ratio": "0.25", "erf_run": "quick", "own_erf_ratio": "0.25",
    }  # fmt: skip


def test_an_experiments_numbers_are_all_of_one_run(tmp_path: Path) -> None:
    """What the full run has not measured does not fall back to the quick one, and what no run knows stays unknown."""
    _result(tmp_path / "full" / "ipi.json", asr=51.5, far=None)
    _result(tmp_path / "quick" / "ipi.json", asr=40.0, far=3.0, near=2.0)
    names = _extension("lip_results").substitutions(tmp_path, tmp_path / "quick")
    assert {key: str(value) for key, value in names.items() if key.startswith("ipi")} == {
        "ipi_asr": "51.5", "ipi_far": "not measured", "ipi_near": "not measured", "ipi_run": "full",
    }  # fmt: skip
    assert str(names["own_ipi_near"]) == "2"
    assert "ipi_asre" not in names
    _result(tmp_path / "custom" / "mine" / "ipi.json", near=7.0)
    custom = _extension("lip_results").substitutions(tmp_path, tmp_path / "custom" / "mine")
    assert (str(custom["ipi_near"]), custom["ipi_asr"], custom["ipi_run"]) == ("7", "not measured", "custom")


def test_the_posters_numbers_have_names() -> None:
    names = _extension("lip_results").poster(ROOT / "data" / "poster")
    assert len(names) == 5 + 27 + 4
    printed = {
        "ipi_imp_1_40_asr": "100",
        "ipi_imp_9_40_asr": "51.5",
        "wider_lip_a_hard_ap": "23.6",
        "coco_lp_ar": "2.2",
    }
    assert {name: str(names[f"poster_{name}"]) for name in printed} == printed


def test_a_readers_own_run_is_preferred_in_their_book(tmp_path: Path) -> None:
    _result(tmp_path / "full" / "ipi.json", asr=51.5)
    _result(tmp_path / "full" / "erf.json", ratio=0.25)
    _result(tmp_path / "custom" / "quick-0a" / "ipi.json", asr=12.0)
    names = _extension("lip_results").substitutions(tmp_path, tmp_path / "custom" / "quick-0a")
    assert (str(names["ipi_asr"]), names["ipi_run"]) == ("12", "custom")
    assert (str(names["erf_ratio"]), names["erf_run"]) == ("0.25", "full")


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (12.345, "12.3"),
        (100.0, "100"),
        (1234.5, "1,234"),
        (0.01234, "0.0123"),
        (-3.0, "-3"),
        (64, "64"),
        (6400, "6,400"),
        ("no", "no"),
    ],
)
def test_how_numbers_print(tmp_path: Path, value: float | str, printed: str) -> None:
    _result(tmp_path / "quick" / "x.json", y=value)
    assert str(_extension("lip_results").substitutions(tmp_path, tmp_path / "quick")["x_y"]) == printed


def test_one_row_of_the_full_run_in_prose(tmp_path: Path) -> None:
    row = {"metric": "asr", "detector": "a", "value": 0.5, "ci_low": 0.25, "ci_high": 0.75, "n": 8, "flags": ["x", "y"]}
    text = json.dumps({"rows": [row, row | {"detector": "b", "value": None}]})
    (tmp_path / "s.json").write_text(text)
    full = _extension("lip_results").Full(tmp_path)
    assert full("s", "asr", detector="a", interval=True) == "50 [25, 75]"
    assert full("s", "asr", detector="a", count="n") == "4 of 8"
    assert (full("s", "asr", detector="a", entry="n"), full("s", "asr", detector="a", entry="flags")) == ("8", "x; y")
    assert full("s", "asr", detector="b") == full("s", "asr", detector="b", count="n") == "not measured"
    with pytest.raises(ValueError, match="2 rows of s have"):
        full("s", "asr")


def test_names_and_shares_in_prose() -> None:
    say = _extension("lip_results").Say()
    assert (say.name("hr-mini"), say.name("mine")) == ("HR-mini", "mine")
    assert (say.percent(0.6956), say.percent("not measured")) == ("69.6", "not measured")


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    _result(tmp_path / "quick" / "x.json", y=None)
    assert _extension("lip_results").substitutions(tmp_path, tmp_path / "quick")["x_y"] == "not measured"


@pytest.mark.parametrize("text", ['{"summary": {"y": [1]}}', '{"summary": {"y": true}}', "[]", "{"])
def test_a_result_that_cannot_be_used_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "x.json").write_text(text)
    logging.getLogger("sphinx").propagate = True
    assert _extension("lip_results").substitutions(tmp_path, tmp_path / "quick") == {}
    assert "x.json gives no numbers" in caplog.text
