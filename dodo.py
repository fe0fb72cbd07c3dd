"""The pipeline: notebook x profile -> executed copy -> results -> book.

``make book`` calls it, and so can you: ``doit`` (the book, quick profile), ``doit list --all``, ``doit notebook``, or
with parameters ``doit profile=full detector=package.module:factory images=FOLDER``.

What is asked for, and how a notebook says what it makes and needs, is in ``lipcore/report/runs.py``.

- A notebook runs again when it, what it uses of lipcore, ``data/``, the results it reads, or your photographs or
  detector file changed.
- It gets ``profile``, and ``detector`` and ``images`` where you give them; paths are relative to this folder. Where to
  write its results stands in the environment as LIPCORE_RUN: ``results/<profile>``, or a folder of its own under
  ``results/custom`` for a detector or photographs of yours, which never touches the project's own results.
- Of the quick profile two notebooks run at once where the system can fork, each on half of the cores, the longest
  first: they do little at a time, and threads that wait for one another take longer than one alone. Those of the full
  profile run one at a time, on every core, since some of them measure times. No two builds meet.
- Kernels have settings of their own: what IPython, Jupyter and matplotlib are set to in a reader's home folder changes
  no figure.
- A notebook that fails leaves its partial copy in ``_build/reports``, and hides no other.
- The book is built from a staged copy in which the executed notebooks replace the stored ones; a warning is an error,
  and ``_build/html`` is replaced only by a build that passed.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit.exceptions import TaskFailed

from lipcore.report.runs import (
    BOOK,
    BUILD,
    PROFILES,
    RESULTS,
    Run,
    defaults_of,
    in_turn,
    notebooks,
    requested,
    results_of,
)
from lipcore.report.sources import modules, used

ROOT = Path(__file__).resolve().parent
STAGE, HTML, BUILT = BUILD / "stage", BUILD / "html", BUILD / "built.txt"
PDF = BUILD / "lip-book.pdf"
#: Seconds that a cell may take; one of the full profile measures for hours, and goes on where it was stopped.
CELL_TIMEOUT = {"quick": 3600, "full": None}
#: Notebooks that run at once, where the system can fork.
AT_ONCE = 2 if sys.platform == "linux" else 1
#: Settings and caches of the kernels' own, in the place of the reader's.
PRIVATE = BUILD / "private"
LOCKS = BUILD / "locks"

BUILD.mkdir(exist_ok=True)
DOIT_CONFIG = {
    "default_tasks": ["book"],
    "backend": "sqlite3",
    "dep_file": str(BUILD / "doit.sqlite3"),
    "verbosity": 2,
    "continue": True,  # one failing notebook does not hide the next
    "num_process": AT_ONCE if AT_ONCE > 1 else 0,
}
if AT_ONCE > 1:
    multiprocessing.set_start_method("fork", force=True)  # doit hands its tasks over by forking


# Tasks


def _library(notebook: Path | None = None) -> list[str]:
    """The shipped data, but nothing that is generated, and the library: what of it ``notebook`` uses, or all of it."""
    code = modules(ROOT).values() if notebook is None else used(notebook, ROOT)
    data = [p for p in Path("data").rglob("*") if p.is_file() and not p.is_relative_to("data/generated")]
    return sorted({*(str(p.relative_to(ROOT)) for p in code), *map(str, data)})


def _end_in_words() -> None:
    """Ctrl-C ends this and what it started without a traceback."""
    first = os.getpid()

    def stop(*_: object) -> None:
        if os.getpid() == first:
            print("stopped; what is finished stays, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(130)

    signal.signal(signal.SIGINT, stop)


def task_notebook() -> Iterator[dict[str, Any]]:
    """Execute a notebook of the book."""
    _end_in_words()
    yield {"basename": "notebook", "name": None, "doc": "Execute the notebooks."}
    run = requested()
    full = [] if run.profile == "full" else [str(path) for path in sorted((RESULTS / "full").glob("*.json"))]
    for path in in_turn():
        defaults_of(path)
        reads = [str(run.results / f"{name}.json") for name in results_of(path, "reads")]
        yield {
            "name": f"{run.variant}:{path.stem}",
            "actions": [(execute, [path, run])],
            "file_dep": [str(path), *_library(path), *full, *reads, *run.sources],
            "targets": [
                str(run.executed / path.name),
                *(str(run.results / f"{name}.json") for name in results_of(path)),
            ],
        }


def task_book() -> dict[str, Any]:
    """Build the book from the executed notebooks, warnings as errors."""
    run = requested()
    executed = [str(run.executed / path.name) for path in notebooks()]
    pages = [p for p in BOOK.rglob("*") if p.is_file() and p.suffix not in {".ipynb", ".pyc"}]
    results = {run.results / f"{name}.json" for path in notebooks() for name in results_of(path)}
    results |= set((RESULTS / "full").glob("*.json"))
    return {
        "actions": [(locked, [run, stage, build])],
        "file_dep": sorted({"_config.yml", *executed, *map(str, pages), *map(str, results), *_library()}),
        "task_dep": [f"notebook:{run.variant}:{path.stem}" for path in in_turn()],
        "uptodate": [lambda: (HTML / "index.html").is_file() and BUILT.is_file() and BUILT.read_text() == run.variant],
    }


def task_pdf() -> dict[str, Any]:
    """Print the whole book into one PDF; needs a Chromium."""
    run = requested()
    return {
        "actions": [(locked, [run, stage, print_pdf, stage, build])],
        "file_dep": [str(run.executed / path.name) for path in notebooks()],
        "task_dep": ["book"],
        "uptodate": [False],
    }


# Actions


def locked(run: Run, *steps: Callable[[Run], TaskFailed | None]) -> TaskFailed | None:
    """The steps in turn, up to one that fails, while nothing else is run or built in this folder."""
    with _lock("notebook"):
        return next(filter(None, (step(run) for step in steps)), None)


def execute(path: Path, run: Run) -> TaskFailed | None:
    """Runs one notebook; its executed copy appears only when every cell passed."""
    with _lock(path.name), _lock("notebook", shared=run.profile == "quick"):
        return _execute(path, run)


def _execute(path: Path, run: Run) -> TaskFailed | None:
    import papermill

    target, report = run.executed / path.name, run.reports / path.name
    for folder in (run.executed, run.reports, run.results):
        folder.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    others = _stamps(path, run)
    _prepare_environment(run)
    print(f"{path.name} ({run.variant}) ...", flush=True)
    start, before = time.monotonic(), os.times()
    try:
        papermill.execute_notebook(
            str(path),
            str(report),
            parameters=run.parameters(),
            kernel_name="python3",
            cwd=".",
            progress_bar=False,
            execution_timeout=CELL_TIMEOUT[run.profile],
            extra_arguments=["--IPKernelApp.log_level=40"],  # kernels greet every user with a warning
        )
    except papermill.PapermillExecutionError as error:
        return TaskFailed(
            f"{path} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\nThe copy up to there: {report}"
        )
    except Exception as error:  # a dead kernel or a cell over its time
        return TaskFailed(f"{path} could not be run: {type(error).__name__}: {error}\nThe copy up to there: {report}")
    if missing := [name for name in results_of(path) if not (run.results / f"{name}.json").is_file()]:
        return TaskFailed(f"{path} declares results that it did not write to {run.results}: {', '.join(missing)}")
    if touched := [str(other) for other, stamp in _stamps(path, run).items() if stamp != others[other]]:
        wrote = ", ".join(touched)
        return TaskFailed(f"{path} must write to {run.results} only (see LIPCORE_RUN), but wrote {wrote}")
    _finish(report, target)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{path.name} ({run.variant}) took {time.monotonic() - start:.1f} s, {cpu:.1f} s of one core", flush=True)
    return None


def _finish(report: Path, target: Path) -> None:
    """Hides the injected cell from the pages, drops paths, and puts the executed copy in its place."""
    executed = json.loads(report.read_text(encoding="utf8"))
    for cell in executed["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
    for key in ("input_path", "output_path"):
        executed["metadata"]["papermill"].pop(key, None)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(executed, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    part.replace(target)
    report.unlink()


def _stamps(path: Path, run: Run) -> dict[Path, int]:
    """When the results of the same names in other folders were written: a run must leave those alone."""
    files = (RESULTS / profile / f"{name}.json" for profile in PROFILES for name in results_of(path))
    return {f: f.stat().st_mtime_ns if f.is_file() else 0 for f in files if f.parent != run.results}


def _prepare_environment(run: Run) -> None:
    """What a kernel and a build inherit, whatever the reader's shell and home folder have set."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        folder = ROOT / PRIVATE / name.lower()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_PATH", "MATPLOTLIBRC", "PYTHONSTARTUP"):
        os.environ.pop(name, None)
    os.environ["LIPCORE_RUN"] = run.results.as_posix()
    if run.profile == "quick" and AT_ONCE > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // AT_ONCE)))
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not the home folder's
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, str(ROOT)])


@contextlib.contextmanager
def _lock(name: str, *, shared: bool = False) -> Iterator[None]:
    """Waits for that lock of this folder, in whatever process it is held.

    "notebook" is that of all that runs or builds: shared by notebooks that may run at once, held alone by what may not.
    """
    try:
        import fcntl
    except ImportError:  # Windows: trust the reader
        yield
        return
    LOCKS.mkdir(exist_ok=True)
    with (LOCKS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def stage(run: Run) -> None:
    """A copy of ``book/`` in which the executed notebooks replace the stored ones."""
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.copytree(BOOK, STAGE, ignore=shutil.ignore_patterns("*.ipynb", "__pycache__", ".ipynb_checkpoints"))
    for path in notebooks():
        shutil.copyfile(run.executed / path.name, STAGE / path.name)


def build(run: Run) -> TaskFailed | None:
    """The strict build of the stage; then its pages replace the old ones."""
    print(f"book ({run.variant}): building the pages, a warning is an error ...", flush=True)
    start = time.monotonic()
    if failed := _jupyter_book(run, "html"):
        return failed
    pages = STAGE / "_build" / "html"
    if PDF.is_file():
        shutil.copyfile(PDF, pages / PDF.name)
    BUILT.unlink(missing_ok=True)
    shutil.rmtree(HTML, ignore_errors=True)
    shutil.move(pages, HTML)
    BUILT.write_text(run.variant)
    print(f"book ({run.variant}): built in {time.monotonic() - start:.1f} s", flush=True)
    return None


def print_pdf(run: Run) -> TaskFailed | None:
    """All pages as one, printed by a Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        return TaskFailed(f"a PDF is printed by a browser, and none of {', '.join(names)} is installed here")
    print("pdf: all chapters as one page, printed ...", flush=True)
    PDF.unlink(missing_ok=True)
    if failed := _jupyter_book(run, "singlehtml"):
        return failed
    page = (STAGE / "_build" / "singlehtml" / "paper.html").resolve()
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [
        browser,
        "--headless",
        "--disable-gpu",
        *root,
        "--no-pdf-header-footer",
        f"--print-to-pdf={PDF.resolve()}",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=False)
    if done.returncode or not PDF.is_file():
        return TaskFailed(f"{browser} did not print: {done.stderr[-2000:]}")
    print(f"pdf: {PDF}, {PDF.stat().st_size / 1e6:.1f} MB", flush=True)
    return None


def _jupyter_book(run: Run, builder: str) -> TaskFailed | None:
    """Builds the stage, a warning is an error."""
    log = BUILD / "reports" / f"book-{builder}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(STAGE)]
    command += ["--config", "_config.yml", "--path-output", str(STAGE), "--builder", builder]
    command += ["--all", "-W", "--keep-going"]
    _prepare_environment(run)
    environment = {**os.environ, "LIPCORE_RUN": run.results.as_posix(), "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf8", check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    log.write_text(said, encoding="utf8")
    if done.returncode or not list((STAGE / "_build" / builder).glob("*.html")):
        lines = [line for line in said.splitlines() if line.strip()]
        warnings = [line for line in lines if re.search("WARNING|ERROR|[Ee]rror:", line)] or lines[-30:]
        return TaskFailed("the strict build failed:\n" + "\n".join(warnings) + f"\nAll it said: {log}")
    return None
