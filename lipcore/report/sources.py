"""Which modules of the library a file of code uses: so that an edit re-runs the chapters it concerns and no other.

Read from the source, without importing anything. A module that is named in a string, as the detectors' registry names
them (``"lipcore.detectors.centerface:CenterFace"``), counts as imported.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path


def modules(root: Path) -> dict[str, Path]:
    """Every module of ``root/lipcore`` by its dotted name; a package stands for its ``__init__.py``."""
    files = sorted((root / "lipcore").rglob("*.py"))
    return {".".join(f.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def code_of(path: Path) -> str:
    """The source of a .py file, or of all code cells of a notebook; IPython's own lines are left out."""
    text = path.read_text(encoding="utf8")
    if path.suffix != ".ipynb":
        return text
    cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join(cell if isinstance(cell, str) else "".join(cell) for cell in cells).split("\n")
    return "\n".join(line for line in lines if not line.startswith(("%", "!")))


def imported(code: str, known: Mapping[str, Path], named: bool = True) -> set[str]:
    """Of the ``known`` modules those that ``code`` imports, wherever in it: in functions and for type checkers too.

    Args:
        code: Python source.
        known: see :func:`modules`.
        named: count those that are only named in a string.
    """
    return set(_named(code, known, named)) & known.keys()


def _named(code: str, known: Mapping[str, Path], strings: bool) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            yield from whole or {node.module}
        elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(":")[0]


@functools.cache
def graph(root: Path) -> dict[str, frozenset[str]]:
    """For every module what it imports or names, and its package; read once."""
    known = modules(root)
    parents = {name: {name.rpartition(".")[0]} & known.keys() for name in known}
    return {name: frozenset(imported(code_of(path), known) | parents[name]) for name, path in known.items()}


def used(path: Path, root: Path) -> list[Path]:
    """The library's files that ``path``, a script or a notebook, uses by way of others too, with their packages."""
    known, found = modules(root), set[str]()
    new = imported(code_of(path), known)
    while new:
        found |= new
        new = set[str]().union(*(graph(root)[name] for name in new)) - found
    return sorted(known[name] for name in found)
