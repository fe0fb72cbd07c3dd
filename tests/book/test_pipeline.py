"""The pipeline on a toy book: what runs, what does not, what it says, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode, v4

from lipcore.report import runs

PARAMETERS = 'detector = "centerface"\nimages = ""\nprofile = "quick"'
WRITE = """
import json, os, pathlib
import lipcore.boxes
folder = pathlib.Path(os.environ["LIPCORE_RUN"])
summary = {"value": 12.345, "detector": detector, "images": images}
_ = (folder / "toy.json").write_text(json.dumps({"summary": summary}))
print("sees", sorted(p.name for p in pathlib.Path(images).iterdir()) if images else "no photographs")
"""


def notebook(*cells: NotebookNode, parameters: str = PARAMETERS, **lip: list[str]) -> NotebookNode:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = v4.new_notebook(metadata={"kernelspec": kernel, "lip": lip})
    tagged = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="parameters")
    made.cells = [cells[0], tagged, *cells[1:]]
    return made


@dataclass(frozen=True)
class Toy:
    """A checkout with a book of its own, and what a reader types in it."""

    folder: Path
    environment: dict[str, str]

    def write(self, name: str, made: NotebookNode) -> None:
        nbformat.write(made, self.folder / "book" / f"{name}.ipynb")

    def doit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "doit", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def passes(self, *arguments: str) -> str:
        done = self.doit(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def page(self, name: str) -> str:
        return (self.folder / "_build" / "html" / f"{name}.html").read_text(encoding="utf8")


@pytest.fixture
def toy(root: Path, tmp_path: Path, clean_environment: dict[str, str]) -> Toy:
    folder = tmp_path / "a checkout"
    for name in ("book/_ext", "book/_static", "lipcore"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dodo.py", "_config.yml", "CITATION.cff", "book/references.bib", "data/registry.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    (folder / "book" / "_toc.yml").write_text("format: jb-book\nroot: toy\n")
    toy = Toy(folder, {k: v for k, v in clean_environment.items() if k != "PYTHONPATH"})
    tables = "{{ notebooks_table }}\n\n{{ runs_table }}"
    text = "# Toy\n\nThe value is {{ toy_value }} by {{ toy_detector }} ({{ toy_run }}).\n\n" + tables
    toy.write("toy", notebook(v4.new_markdown_cell(text), v4.new_code_cell(WRITE), results=["toy"]))
    return toy


def test_runs_once_and_then_only_what_changed(toy: Toy) -> None:
    first = toy.passes()
    assert "toy.ipynb (quick) took" in first
    assert "book (quick): built" in first
    result = json.loads((toy.folder / "results/quick/toy.json").read_text())
    assert result["summary"] == {"value": 12.345, "detector": "centerface", "images": ""}
    page = toy.page("toy")
    assert "The value is 12.3 by centerface (quick)." in page
    assert "Parameters" not in page, "papermill's injected cell shows"
    assert str(toy.folder) not in page
    executed = nbformat.read(toy.folder / "_build/executed/quick/toy.ipynb", as_version=4)
    assert str(toy.folder) not in json.dumps(executed)

    again = toy.passes()
    assert "took" not in again
    assert "built" not in again

    (toy.folder / "lipcore" / "boxes.py").open("a").write("\n# changed\n")
    assert "toy.ipynb (quick) took" in toy.passes("notebook")
    (toy.folder / "lipcore" / "results.py").open("a").write("\n# changed\n")
    assert "took" not in toy.passes("notebook"), "it does not use that"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("detectr=centerface", "unknown parameter detectr; valid: detector, images, profile"),
        ("profile=quik", "unknown profile 'quik'; valid: quick, full"),
        ("detector=centreface", "unknown detector 'centreface'; valid: centerface, "),
        ("detector=no_such.module:make", "there is no module 'no_such.module'"),
        ("images=no such folder", "images 'no such folder' is not a folder"),
        ("images=lipcore/py.typed", "is not a folder"),
    ],
)
def test_wrong_parameters_are_told(monkeypatch: pytest.MonkeyPatch, root: Path, argument: str, message: str) -> None:
    monkeypatch.chdir(root)
    name, _, value = argument.partition("=")
    monkeypatch.setattr(runs.doit_cmd, "_CMDLINE_VARS", {name: value})
    with pytest.raises(runs.InvalidDodoFile) as error:
        runs.requested.__wrapped__()
    assert message in str(error.value)


def test_wrong_parameters_are_refused_before_anything_runs(toy: Toy) -> None:
    done = toy.doit("notebook", "profile=quik")
    assert done.returncode != 0
    assert "unknown profile 'quik'; valid: quick, full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (toy.folder / "_build" / "executed").exists()


def test_a_notebook_must_know_every_parameter(toy: Toy) -> None:
    toy.write("toy", notebook(v4.new_markdown_cell("# Toy"), parameters='detector = "centerface"'))
    done = toy.doit("notebook")
    assert done.returncode != 0
    assert "knows no parameter images, profile" in done.stderr


def test_a_failing_notebook_leaves_a_report_and_hides_no_other(toy: Toy) -> None:
    broken = notebook(v4.new_markdown_cell("# Broken"), v4.new_code_cell("print('so far')"), v4.new_code_cell("1 / 0"))
    toy.write("a_broken", broken)
    done = toy.doit("notebook")
    assert done.returncode != 0
    assert "a_broken.ipynb failed in cell" in done.stderr + done.stdout
    assert "ZeroDivisionError" in done.stderr + done.stdout
    report = toy.folder / "_build/reports/quick/a_broken.ipynb"
    assert "so far" in report.read_text()
    assert "toy.ipynb (quick) took" in done.stdout
    assert not (toy.folder / "_build/executed/quick/a_broken.ipynb").exists()

    broken.cells[-1].source = "1 / 1"
    toy.write("a_broken", broken)
    resumed = toy.passes("notebook")
    assert "a_broken.ipynb (quick) took" in resumed
    assert "toy.ipynb (quick) took" not in resumed
    assert not report.exists()


def test_a_notebook_that_only_reads_comes_after_those_that_write(toy: Toy) -> None:
    read = "import os, pathlib\nprint((pathlib.Path(os.environ['LIPCORE_RUN']) / 'toy.json').read_text())"
    toy.write("a_summary", notebook(v4.new_markdown_cell("# Summary"), v4.new_code_cell(read)))
    assert re.findall(r"(\w+)\.ipynb \(quick\) took", toy.passes("notebook")) == ["toy", "a_summary"]
    (toy.folder / "results/quick/toy.json").write_text('{"summary": {"value": 1}}')
    assert re.findall(r"(\w+)\.ipynb \(quick\) took", toy.passes("notebook")) == ["a_summary"]


def test_declared_results_must_be_written(toy: Toy) -> None:
    toy.write("toy", notebook(v4.new_markdown_cell("# Toy"), results=["toy"]))
    done = toy.doit("notebook")
    assert done.returncode != 0
    assert "declares results that it did not write to results/quick: toy" in done.stderr + done.stdout


@pytest.mark.slow
def test_a_readers_detector_and_photographs_have_a_book_of_their_own(toy: Toy, tmp_path: Path) -> None:
    toy.passes()
    before = (toy.folder / "results/quick/toy.json").read_bytes()
    photos = tmp_path / "holiday 'photos' & more"
    photos.mkdir()
    (photos / "one face.jpg").write_bytes(b"not read by the toy")
    (toy.folder / "mine.py").write_text("def make():\n    ...\n")
    given = ("detector=mine:make", f"images={photos}")

    assert "took" in toy.passes(*given)
    page = toy.page("toy")
    assert "by mine:make (custom)" in page
    assert "one face.jpg" in page
    assert str(tmp_path) not in page
    assert (toy.folder / "results/quick/toy.json").read_bytes() == before
    assert len(list((toy.folder / "results/custom").glob("*/toy.json"))) == 1
    assert "took" not in toy.passes(*given)

    (photos / "another.jpg").write_bytes(b"")
    assert "took" in toy.passes("notebook", *given)

    back = toy.passes()  # the project's own book again: built anew, nothing executed
    assert "took" not in back
    assert "by centerface (quick)" in toy.page("toy")


def test_a_readers_run_may_not_write_over_other_results(toy: Toy, tmp_path: Path) -> None:
    (toy.folder / "results/quick").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    careless = WRITE + 'pathlib.Path("results/quick/toy.json").write_text("{}")'
    toy.write("toy", notebook(v4.new_markdown_cell("# Toy"), v4.new_code_cell(careless), results=["toy"]))
    done = toy.doit("notebook", f"images={tmp_path / 'photos'}")
    assert done.returncode != 0
    assert "but wrote results/quick/toy.json" in done.stderr + done.stdout


def test_a_number_nobody_measured_fails_the_build_and_keeps_the_old_pages(toy: Toy) -> None:
    toy.passes()
    before = toy.page("toy")
    text = "# Toy\n\nThe value is {{ toy_valeu }}."
    toy.write("toy", notebook(v4.new_markdown_cell(text), v4.new_code_cell(WRITE), results=["toy"]))
    done = toy.doit()
    assert done.returncode != 0
    assert "'toy_valeu' is undefined" in done.stderr + done.stdout
    assert toy.page("toy") == before


@pytest.mark.slow
def test_the_readers_own_settings_change_nothing(toy: Toy, tmp_path: Path) -> None:
    """IPython's, Jupyter's and matplotlib's, in the home folder and where the shell points; the place is not shown."""
    home = tmp_path / "home"
    (home / ".ipython/profile_default/startup").mkdir(parents=True)
    (home / ".ipython/profile_default/startup/mine.py").write_text("leaked = 'ipython'\n")
    (home / ".config/matplotlib").mkdir(parents=True)
    for place in (home / ".config/matplotlib", home):
        (place / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 77\n")
    (home / ".jupyter").mkdir()
    (home / ".jupyter/jupyter_config.py").write_text("raise SystemExit('leaked')\n")
    toy.environment.update(
        HOME=str(home), IPYTHONDIR=str(home / ".ipython"), MATPLOTLIBRC=str(home), MPLCONFIGDIR=str(home),
        JUPYTER_CONFIG_DIR=str(home / ".jupyter"),
    )  # fmt: skip
    look = "import matplotlib\nprint('settings:', 'leaked' in globals(), matplotlib.rcParams['text.usetex'])"
    toy.write(
        "toy", notebook(v4.new_markdown_cell("# Toy"), v4.new_code_cell(look), v4.new_code_cell(WRITE), results=["toy"])
    )
    toy.passes("notebook")
    executed = (toy.folder / "_build/executed/quick/toy.ipynb").read_text()
    assert "settings: False False" in executed
    assert str(tmp_path) not in executed


@pytest.mark.slow
def test_a_cell_that_never_ends_is_stopped(toy: Toy) -> None:
    dodo = toy.folder / "dodo.py"
    dodo.write_text(dodo.read_text().replace('CELL_TIMEOUT = {"quick": 3600', 'CELL_TIMEOUT = {"quick": 2'))
    toy.write(
        "toy", notebook(v4.new_markdown_cell("# Toy"), v4.new_code_cell("while True:\n    pass"), results=["toy"])
    )
    done = toy.doit("notebook")
    assert done.returncode != 0
    assert re.search("toy.ipynb could not be run: CellTimeoutError", done.stdout + done.stderr)


@pytest.mark.slow
def test_ctrl_c_ends_everything_in_words(toy: Toy) -> None:
    """As a terminal sends it: to all processes of the command, which may have begun others."""
    begun = toy.folder / "begun"
    wait = f"import os, pathlib, time\n_ = pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\ntime.sleep(300)"
    toy.write("toy", notebook(v4.new_markdown_cell("# Toy"), v4.new_code_cell(wait), results=["toy"]))
    running = subprocess.Popen(
        [sys.executable, "-m", "doit", "notebook"],
        cwd=toy.folder, env=toy.environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(lambda: begun.is_file() and begun.read_text() != "")
    os.killpg(running.pid, signal.SIGINT)
    assert "stopped; what is finished stays" in (said := running.communicate(timeout=60)[1])
    assert "Traceback" not in said
    assert running.returncode == 130
    until(lambda: not Path(f"/proc/{begun.read_text()}").exists())


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_no_two_builds_meet(toy: Toy) -> None:
    """While another process runs or builds in the folder, nothing is staged."""
    fcntl = pytest.importorskip("fcntl")
    toy.passes("notebook")
    with (toy.folder / "_build/locks/notebook.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, "-m", "doit", "book"],
            cwd=toy.folder, env=toy.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(5)
        assert not (toy.folder / "_build/stage").exists()
    assert waiting.communicate(timeout=300)[0].count("built in") == 1
    assert (toy.folder / "_build/html/index.html").is_file()
