"""lipcore installed as a plain wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

from lipcore import load_image


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """lipcore's wheel, built from a copy of what belongs in it, so that no build folder is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "generated", "*.egg-info")
    for name in ("lipcore", "data"):
        shutil.copytree(root / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    return built


class TestWheel:
    def test_holds_the_package_and_its_data(self, wheel: Path, root: Path) -> None:
        names = set(zipfile.ZipFile(wheel).namelist())
        modules = {str(p.relative_to(root)) for p in (root / "lipcore").rglob("*.py") if "__pycache__" not in p.parts}
        assert modules <= names, "every module is listed in pyproject.toml's packages"
        assert {"lipcore/_data/registry.toml", "lipcore/py.typed"} <= names
        assert {f"lipcore/_data/poster/{t}.csv" for t in ("ipi", "wider", "coco")} <= names
        assert not [n for n in names if "generated" in n or n.startswith(("tests", "book", "results", "build"))]

    def test_finds_its_data_without_a_checkout(self, wheel: Path, tmp_path: Path) -> None:
        """Unpacked as pip does, it reads the registry and the poster from inside the package."""
        zipfile.ZipFile(wheel).extractall(tmp_path / "site")
        code = (
            "import lipcore.paths as p; from lipcore.results import poster; from lipcore.detectors import weights;"
            "print(p.DATA); print(len(poster('ipi')), sorted(weights.registry()))"
        )
        environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        where, rest = done.stdout.splitlines()
        assert Path(where) == tmp_path / "site" / "lipcore" / "_data"
        assert rest.startswith("5 ['centerface'")

    def test_the_five_lines_of_the_readme(self, wheel: Path, tmp_path: Path, root: Path) -> None:
        """In an environment that holds the wheel and its dependencies alone, with the weights that ship."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        python = tmp_path / "venv" / "bin" / "python"
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
        ]
        subprocess.run([*command, str(wheel)], check=True, capture_output=True)
        (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
        (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        (lines,) = re.findall(r"```python\n(.*?load_image.*?)```", (root / "README.md").read_text(), re.DOTALL)
        assert len([line for line in lines.splitlines() if line.strip()]) == 5
        shutil.copy(root / "data" / "crowds" / "images" / "000000005001.jpg", tmp_path / "photo.jpg")
        code = f"import lipcore; print(lipcore.__file__)\n{lines}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LIPCORE"))}
        done = subprocess.run(
            [python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        where, counts = done.stdout.splitlines()
        assert Path(where).is_relative_to(site)
        before, after = (int(n) for n in re.findall(r"\d+", counts))
        assert before > 5
        assert after < before / 2
        change = load_image(tmp_path / "hidden.png").pixels - load_image(tmp_path / "photo.jpg").pixels
        assert 0 < float(change.abs().max()) <= 8
        assert float((change != 0).float().mean()) > 0.1
        assert change.dtype == torch.float32
