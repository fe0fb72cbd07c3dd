"""The API's pages: ``<!-- lip-api PACKAGE first second -->`` becomes one section per module of PACKAGE, from the
docstrings, those named first, those named with a minus left out. Of ``lipcore`` itself the modules that are in no
package of its own; the names that it hands out are documented where they are made.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MARKER = re.compile(r"<!-- lip-api (\S+)(.*?) -->")
#: What reStructuredText would take for markup in a docstring.
MARKUP = re.compile(r"(?<!\\)(\||\*(?==)|(?<=\w)@(?=\w))")
SECTION = """
## `{name}`

```{{eval-rst}}
.. automodule:: {name}
{members}```
"""
#: Of modules that draw, whose functions nobody calls but their chapter, the first lines alone are listed.
DRAWS = "figures"
MEMBERS = "   :members:\n   :show-inheritance:\n"


def modules(package: str = "lipcore") -> list[str]:
    """Every public module of ``package`` and below it that holds code, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{package} is not installed in the environment that builds the book")
    top = Path(spec.origin).parent
    names = []
    for path in sorted(top.rglob("*.py")):
        parts = [package, *path.relative_to(top).with_suffix("").parts]
        name = ".".join(part for part in parts if part != "__init__")
        if name == "lipcore" or any(part.startswith("_") for part in name.split(".")) or not _holds_code(path):
            continue
        names.append(name)
    return sorted(names)


def _holds_code(path: Path) -> bool:
    """Whether a module defines something of its own; a bare ``__init__`` does not."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    return any(isinstance(node, kinds) for node in ast.parse(path.read_text(encoding="utf8")).body)


def listed(package: str, first: list[str]) -> list[str]:
    """The modules of one page, those of ``first`` (names in the package) before the others."""
    names = modules(package)
    if package == "lipcore":
        names = [name for name in names if name.count(".") == 1 and not _is_package(name)]
    left = tuple(f"{package}.{name[1:]}" for name in first if name.startswith("-"))
    names = [name for name in names if not name.startswith(left)] if left else names
    begin = [f"{package}.{name}" for name in first if not name.startswith("-")]
    if missing := set(begin) - set(names):
        raise RuntimeError(f"there is no module {', '.join(sorted(missing))}; valid: {', '.join(names)}")
    return [*begin, *(name for name in names if name not in begin)]


def _is_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    def sections(found: re.Match[str]) -> str:
        names = listed(found[1], found[2].split())
        return "\n".join(SECTION.format(name=n, members="" if n.endswith(DRAWS) else MEMBERS) for n in names)

    source[0] = MARKER.sub(sections, source[0])


def _escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """In a docstring |x| is an absolute value, w *= 2 a product and AR@100 no address."""
    for i, line in enumerate(lines):
        text = line.strip()
        if text.startswith(">>>") or (text.startswith("|") and text.endswith("|") and text.count("|") > 2):
            continue  # code, or a row of a table
        pieces = re.split(r"(``.*?``)", line)
        lines[i] = "".join(
            p if p.startswith("``") else re.sub(r"(?<!\\)(\||\*(?==)|(?<=\w)@(?=\w))", r"\\\1", p) for p in pieces
        )


def _said_by_the_base(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Of a study's methods those that every study has are documented once, with the base."""
    from lipcore.studies.base.study import Study

    module = getattr(obj, "__module__", None) or getattr(getattr(obj, "fget", None), "__module__", "")
    own = module.startswith("lipcore.studies.") and not module.startswith("lipcore.studies.base.")
    return True if what == "class" and own and hasattr(Study, name) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _escape, priority=900)
    app.connect("autodoc-skip-member", _said_by_the_base)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
