"""Each notebook shows what its chapter has: every figure and table once, none that is not there, the finding first."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from lipcore.report.sources import code_of

ROOT = Path(__file__).resolve().parents[2]
#: A notebook for each, of the same name.
CHAPTERS = sorted(p.stem for p in (ROOT / "lipcore" / "chapters").glob("*.py") if p.stem != "__init__")


def calls(chapter: str) -> list[tuple[str, str]]:
    """What the cells of a notebook ask their page for, in order: (kind, name)."""
    lines = code_of(ROOT / "book" / f"{chapter}.ipynb").splitlines()
    return [found.groups() for found in (re.fullmatch(r'page\.(\w+)\("?([^"]*)"?\)', line) for line in lines) if found]


def test_each_notebook_is_a_chapter() -> None:
    assert sorted(p.stem for p in (ROOT / "book").glob("*.ipynb")) == CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_notebook_shows_all_that_its_chapter_has(chapter: str) -> None:
    module = importlib.import_module(f"lipcore.chapters.{chapter}")
    asked = calls(chapter)
    shown = [("figure", next(iter(module.FIGURES))) if kind == "finding" else (kind, name) for kind, name in asked]
    assert sorted(shown) == sorted([*(("figure", n) for n in module.FIGURES), *(("table", n) for n in module.TABLES)])
    if module.FIGURES:
        assert asked[0][0] == "finding", "a chapter opens with its key figure"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_cell_of_a_notebook_shows_one_thing(chapter: str) -> None:
    lines = [line for line in code_of(ROOT / "book" / f"{chapter}.ipynb").splitlines() if line.strip()]
    plumbing = ("import ", "from ", "page = open_page(", "page.", "detector = ", "images = ", "profile = ")
    plumbing += ("model = ", "photo = ", "attacked = Attack(", "before_and_after(")
    assert [line for line in lines if not line.startswith(plumbing)] == []
    assert "IPython" not in "".join(lines)
