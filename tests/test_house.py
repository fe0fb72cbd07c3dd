"""How the library is laid out: data flows one way, no two modules import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx
import pytest

#: A module imports from its own floor's package and from lower floors only; the lowest comes first.
FLOORS = (
    ("lipcore.errors", "lipcore.boxes", "lipcore.images", "lipcore.memory", "lipcore.paths", "lipcore"),
    ("lipcore.results", "lipcore.datasets"),
    ("lipcore.detectors",),
    ("lipcore.receptive_field", "lipcore.known_fields"),
    ("lipcore.attacks",),
    ("lipcore.metrics",),
    ("lipcore.training",),
    ("lipcore.report",),
    ("lipcore.studies.base",),
    ("lipcore.studies",),
    ("lipcore.cli",),
)


def modules(root: Path) -> dict[str, Path]:
    found = {}
    for path in sorted((root / "lipcore").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of lipcore that a file imports, wherever in it: in functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (whole & known.keys()) or {node.module or ""}
    return names & known.keys()


@pytest.fixture(scope="module")
def graph(root: Path) -> networkx.DiGraph:
    known = modules(root)
    made = networkx.DiGraph()
    made.add_nodes_from(known)
    made.add_edges_from((name, other) for name, path in known.items() for other in imported(path, known))
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


def test_what_measures_knows_no_attack(graph: networkx.DiGraph) -> None:
    assert not {n for n in networkx.descendants(graph, "lipcore.receptive_field") if n.startswith("lipcore.attacks")}
