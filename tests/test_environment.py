"""The environments people can make are one and the same: pyproject.toml, the lock and environment.yml agree."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wanted(project: dict[str, Any]) -> dict[str, Requirement]:
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


@pytest.fixture(scope="module")
def conda(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "environment.yml").read_text())


@pytest.fixture(scope="module")
def lock(root: Path) -> str:
    return (root / "requirements.txt").read_text()


@pytest.fixture(scope="module")
def locked(lock: str) -> dict[str, set[str]]:
    """Locked versions by name; there may be one for each Python version."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def test_environment_yml_names_what_pyproject_names(conda: dict[str, Any], wanted: dict[str, Requirement]) -> None:
    lines = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert lines[-1] == "-e ."
    assert {canonicalize_name(r.name): str(r) for r in map(Requirement, lines[:-1])} == {
        name: str(requirement) for name, requirement in wanted.items()
    }


def test_environment_yml_asks_for_the_same_python(conda: dict[str, Any], project: dict[str, Any]) -> None:
    python = next(entry for entry in conda["dependencies"] if isinstance(entry, str) and entry.startswith("python"))
    assert python.removeprefix("python").startswith(project["requires-python"])


def test_environment_yml_names_what_the_book_stands_on(conda: dict[str, Any]) -> None:
    text = str(conda)
    for name in ("jupyter-book", "torch", "numpy", "matplotlib", "pandas", "papermill", "nbval"):
        assert name in text


def test_the_lock_satisfies_pyproject(locked: dict[str, set[str]], wanted: dict[str, Requirement]) -> None:
    for name, requirement in wanted.items():
        if name == "torch":
            continue
        assert name in locked, f"{name} is not locked: make lock"
        for version in locked[name]:
            assert requirement.specifier.contains(version), f"{name}=={version} is not {requirement}: make lock"


def test_torch_is_pinned_but_not_locked(locked: dict[str, set[str]], wanted: dict[str, Requirement]) -> None:
    assert str(wanted["torch"].specifier).startswith("==")
    assert "torch" not in locked
    assert not [name for name in locked if name.startswith(("nvidia", "triton"))]


def test_what_torch_asks_for_is_locked_before_it(root: Path, lock: str) -> None:
    """So that torch's own step, which has no hashes, fetches nothing else; the CUDA libraries come with CUDA builds."""
    asked = [Requirement(line) for line in importlib.metadata.requires("torch") or []]
    asked = [r for r in asked if not (r.marker and "extra" in str(r.marker))]
    asked = [r for r in asked if not r.name.startswith(("nvidia", "triton", "cuda"))]
    lines = (root / "requirements-torch.in").read_text().splitlines()
    named = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {canonicalize_name(r.name): r.specifier for r in named} == {
        canonicalize_name(r.name): r.specifier for r in asked
    }
    assert "sys_platform == 'none'" not in lock
    makefile = (root / "Makefile").read_text()
    assert "$(DONE)/$(TORCH): $(DONE)/requirements" in makefile
    assert "$(DONE)/requirements: requirements.txt $(DONE)/venv" in makefile


def test_the_benchmarks_lock_pins_what_they_ask_for_and_lipcore_needs(root: Path, project: dict[str, Any]) -> None:
    asked = (root / "bench" / "requirements.in").read_text().splitlines()
    wanted = [Requirement(line) for line in (*asked, *project["dependencies"]) if not line.startswith("#")]
    text = (root / "bench" / "requirements.lock").read_text()
    pins = {canonicalize_name(name): pin for name, pin in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)}
    assert "torch" not in pins
    for requirement in wanted:
        if requirement.name != "torch":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), (
                f"{requirement}: make lock"
            )


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-weights.txt", "bench/requirements.lock"])
def test_every_locked_line_has_hashes(root: Path, name: str) -> None:
    text = (root / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    assert all("--hash=sha256:" in line for line in lines)


@pytest.mark.parametrize(
    "name",
    [
        *("requirements.txt", "requirements-weights.txt", "environment.yml", "pyproject.toml"),
        *("bench/requirements.in", "bench/requirements.lock"),
    ],
)
def test_no_file_names_an_index_or_a_place_on_a_disk(root: Path, name: str) -> None:
    text = (root / name).read_text()
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|file:/|://[^\s/]*simple| @ ", text)


def test_make_lists_its_verbs(root: Path, clean_environment: dict[str, str]) -> None:
    done = subprocess.run(["make"], cwd=root, env=clean_environment, capture_output=True, text=True, check=True)
    for verb in ("book", "test", "slow", "full", "bench", "serve", "lock", "clean"):
        assert f"make {verb}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DETECTR=x"], "unknown variable DETECTR"),
        ([".venv/.done/venv", "--always-make", "PYTHON=no-such-python"], "There is no 'no-such-python' here"),
        ([".venv/.done/venv", "--always-make", "PYTHON=./old"], "Python 3.11 or later is needed"),
    ],
)
def test_make_says_what_is_wrong(
    root: Path, tmp_path: Path, clean_environment: dict[str, str], arguments: list[str], message: str
) -> None:
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 1;; -V) echo Python 3.9.1;; esac\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", *arguments], cwd=tmp_path, env=clean_environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_actions_are_pinned_by_commit(root: Path) -> None:
    """A tag can be moved to other code; a commit cannot."""
    used = [line.strip() for path in (root / ".github").rglob("*.yml") for line in path.read_text().splitlines()]
    used = [line for line in used if "uses:" in line]
    assert len(used) >= 6
    assert all(re.fullmatch(r"- uses: \S+@[0-9a-f]{40}  # v[\d.]+", f"- {line.removeprefix('- ')}") for line in used)
