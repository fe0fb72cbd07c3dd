"""What ``import lipcore`` offers: at once, by name, with units."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toys

import lipcore
from lipcore.attacks.presets import PRESETS
from lipcore.detectors import load_detector
from lipcore.names import FACE_DETECTORS, PERTURBATIONS, REGISTRY, TRIALS


def test_every_name_is_there() -> None:
    for name in lipcore.__all__:
        assert getattr(lipcore, name) is not None
    assert set(dir(lipcore)) == {*lipcore.__all__, "__version__"}


def test_type_checkers_know_the_same_names(root: Path) -> None:
    stub = ast.parse((root / "lipcore" / "__init__.pyi").read_text())
    names = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == sorted(lipcore.__all__)


@pytest.mark.parametrize("module", ["lipcore.attacks.attack", "lipcore.attacks.hiding", "lipcore.detectors"])
def test_examples_are_true(module: str) -> None:
    tested = doctest.testmod(importlib.import_module(module), extraglobs={}, raise_on_error=False)
    assert tested.attempted
    assert not tested.failed


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_detectors'"):
        lipcore.load_detectors  # noqa: B018


@pytest.mark.parametrize("name", [n for n in lipcore.__all__ if n != "PRESETS"])
def test_the_first_line_says_the_unit(name: str) -> None:
    assert "0..255" in getattr(lipcore, name).__doc__.splitlines()[0]


@pytest.mark.parametrize("module", ["lipcore", "lipcore.cli"])
def test_importing_takes_no_time(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'numpy', 'scipy', 'pandas', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_takes_less_than_half_a_second() -> None:
    """Of CPU time, which other processes hardly change; the best of three."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [str(Path(sys.executable).with_name("lipcore")), "--help"]
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 0.5


def test_the_names_are_those_of_what_they_name() -> None:
    assert tuple(PRESETS) == PERTURBATIONS
    assert set(FACE_DETECTORS) == set(REGISTRY) - {"rpn", "rpn-mini", *TRIALS}


def test_a_detector_says_where_it_is() -> None:
    assert load_detector("toys:make").device == torch.device("cpu")
    assert toys.Toy().to("meta").device.type == "meta"
