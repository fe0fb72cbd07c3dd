"""What all tests share."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each worker; read before torch starts its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and all their processes inherit it; here it is as for a user.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("lipcore", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("lipcore")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache, an empty one."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's top folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """This process's environment without what a test run adds to it: for commands that a user would type."""
    added = {"OMP_NUM_THREADS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PROFILE", "DETECTOR", "IMAGES"}
    added |= {"LIPCORE_RESULTS", "LIPCORE_RUN"}
    return {k: v for k, v in os.environ.items() if k not in added and not k.startswith("PYTEST_")}


@pytest.fixture(scope="session")
def html(root: Path, clean_environment: dict[str, str]) -> Path:
    """The strictly built pages; `make test` has built them already, and then this takes a second or two."""
    build = root / "_build"
    build.mkdir(exist_ok=True)
    with (build / "test.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "doit", "book"],
            cwd=root, env=clean_environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return build / "html"
