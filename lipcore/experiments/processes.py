"""Work shared among processes, each on a core of its own; what is done comes back as it is done."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

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

    Args:
        work: a function at the top of a module, which other processes can import.
        tasks: what it is called with.
        jobs: processes.
        start: called once in each process, with ``arguments``; it must leave torch's threads as they are.
        arguments: see ``start``.
        threads: of each process; 0 leaves torch's own choice.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process whose torch has threads may hang
    pool = ProcessPoolExecutor(jobs, context, _begin, (threads, start, arguments))
    try:
        with _one_thread() if threads == 1 else nullcontext():
            waiting = [pool.submit(work, task) for task in tasks]  # processes begin as tasks are handed over
        for done in as_completed(waiting):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(threads: int, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    if threads:
        torch.set_num_threads(max(2, threads))
    if start:
        start(*arguments)


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
