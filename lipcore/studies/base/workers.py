"""Work shared among processes, each on a core of its own; what is done comes back as it is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch

from lipcore.errors import LipcoreError, LipcoreWarning, notes

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int,
    *,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    threads: int = 1,
) -> Iterator[Result]:
    """The result of ``work`` for each task, in the order in which they are finished.

    The processes end with this one, however it ends, and at once where an error or Ctrl-C stops the work.

    Args:
        work: a function at the top of a module, which other processes can import.
        tasks: what it is called with.
        jobs: processes.
        start: called once in each process, with ``arguments``; it must leave torch's threads as they are.
        arguments: see ``start``.
        threads: of each process; 0 leaves torch's own choice.

    Raises:
        LipcoreError: one of the processes was ended from outside.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process whose torch has threads may hang
    pool = ProcessPoolExecutor(jobs, context, _begin, (threads, start, arguments))
    others = multiprocessing.active_children()
    try:
        with _one_thread() if threads == 1 else nullcontext():
            waiting = [pool.submit(work, task) for task in tasks]  # processes begin as tasks are handed over
        for done in as_completed(waiting):
            yield done.result()
    except BaseException as error:
        for process in multiprocessing.active_children():
            if process not in others:
                process.kill()
        if isinstance(error, BrokenExecutor):
            raise LipcoreError(
                "a process that shared the work was ended from outside, or for want of memory; what is recorded stays: "
                "start again to go on, with fewer processes if memory is short"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(threads: int, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("always", LipcoreWarning)
    warnings.showwarning = notes(partial(print, file=sys.stderr))
    if threads:
        torch.set_num_threads(max(2, threads))
    if start:
        start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that begin here get one thread, whatever they ask for.

    They ask for two: torch that asks for one computes 1x1 convolutions by a path that takes up to half as long again.
    """
    name, before = "OMP_THREAD_LIMIT", os.environ.get("OMP_THREAD_LIMIT")
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does the work: this process, several here, or those of a dask cluster.

    Attributes:
        jobs: processes here; 1 does everything in this one.
        threads: of torch, in each process; 0 leaves torch's own choice, of several processes one each.
        scheduler: address of a dask scheduler, whose workers are used instead; "" for none.
    """

    jobs: int = 1
    threads: int = 0
    scheduler: str = ""

    def each(
        self, work: Callable[[Task], Iterable[Result]], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Iterable[Result]]]:
        """Each task with what ``work`` made of it: in this process as it is made, elsewhere as whole tasks end."""
        if not tasks:
            return
        if self.scheduler:
            from lipcore.studies.base.cluster import in_cluster

            yield from in_cluster(self.scheduler, work, tasks)
        elif self.jobs == 1:
            for task in tasks:
                yield task, work(task)
        else:
            listed = partial(_listed, work)
            for place, made in in_processes(listed, list(enumerate(tasks)), self.jobs, threads=self.threads or 1):
                yield tasks[place], made


def _listed(work: Callable[[Task], Iterable[Result]], task: tuple[int, Task]) -> tuple[int, list[Result]]:
    place, what = task
    return place, list(work(what))
