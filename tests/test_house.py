"""How the library is laid out: data flows one way, no two modules import each other."""

from __future__ import annotations

import json
from pathlib import Path

import networkx
import pytest

from lipcore.report.sources import code_of, imported, modules, used

#: A module imports from its own floor's package and from lower floors only; the lowest comes first.
FLOORS = (
    ("lipcore.errors", "lipcore.boxes", "lipcore.memory", "lipcore.names", "lipcore.paths", "lipcore"),
    ("lipcore.images",),
    ("lipcore.treatments",),
    ("lipcore.results", "lipcore.datasets"),
    ("lipcore.detectors",),
    ("lipcore.graph",),
    ("lipcore.receptive_field", "lipcore.known_fields"),
    ("lipcore.attacks",),
    ("lipcore.metrics",),
    ("lipcore.training",),
    ("lipcore.report",),
    ("lipcore.studies.base",),
    ("lipcore.studies",),
    ("lipcore.chapters",),
    ("lipcore.photo",),
    ("lipcore.cli",),
)


@pytest.fixture(scope="module")
def graph(root: Path) -> networkx.DiGraph:
    known = modules(root)
    made = networkx.DiGraph()
    made.add_nodes_from(known)
    for name, path in known.items():
        made.add_edges_from((name, other) for other in imported(code_of(path), known, named=False))
    return made


def floor(module: str) -> int:
    fitting = [
        (len(package), number)
        for number, packages in enumerate(FLOORS)
        for package in packages
        if module == package or (package != "lipcore" and module.startswith(package + "."))
    ]
    return max(fitting)[1]


def test_no_two_modules_import_each_other(graph: networkx.DiGraph) -> None:
    assert len(graph) > 80
    assert [sorted(c) for c in networkx.strongly_connected_components(graph) if len(c) > 1] == []
    assert list(networkx.selfloop_edges(graph)) == []


def test_nothing_imports_from_above(graph: networkx.DiGraph) -> None:
    assert [edge for edge in graph.edges if floor(edge[0]) < floor(edge[1])] == []


def test_every_module_stands_on_a_floor(graph: networkx.DiGraph) -> None:
    top = {name for name in graph if name.count(".") == 1}
    named = {package for packages in FLOORS for package in packages}
    assert top - {"lipcore.studies"} <= named, "new packages get a floor"
    assert all(floor(name) >= 0 for name in graph)


def test_no_file_is_longer_than_400_lines(root: Path) -> None:
    files = [
        *root.glob("*.py"),
        *(f for top in ("lipcore", "tests", "bench", "book") for f in (root / top).rglob("*.py")),
    ]
    lengths = {str(f.relative_to(root)): len(f.read_text(encoding="utf8").splitlines()) for f in files}
    assert len(lengths) > 300
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_what_measures_knows_no_attack(graph: networkx.DiGraph) -> None:
    assert not {n for n in networkx.descendants(graph, "lipcore.receptive_field") if n.startswith("lipcore.attacks")}


def test_a_chapter_depends_on_what_it_uses_and_on_no_other(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.ipynb"
    cells = [
        {"cell_type": "code", "source": ["%matplotlib inline\n", "from lipcore.detectors import load_detector\n"]},
        {"cell_type": "markdown", "source": "from lipcore.metrics import wider"},
    ]
    script.write_text(json.dumps({"cells": cells}))
    names = {".".join(p.relative_to(root).with_suffix("").parts) for p in used(script, root)}
    assert {"lipcore.__init__", "lipcore.detectors.__init__", "lipcore.boxes"} <= names, (
        "packages, and what they import"
    )
    assert "lipcore.detectors.centerface" in names, "named by the registry, imported when it is asked for"
    assert not {n for n in names if n.startswith(("lipcore.studies", "lipcore.metrics", "lipcore.report"))}
