"""Work shared among the workers of a dask cluster, on as many machines as it has.

A unit of work is one future. Only this process writes; a worker loads a detector once and keeps it. Where a worker dies
its units go to another, so nothing is lost, and since what it had not finished was not written, nothing is there twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from lipcore.errors import LipcoreError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_cluster(
    scheduler: str, work: Callable[[Task], Iterable[Result]], tasks: Sequence[Task]
) -> Iterator[tuple[Task, list[Result]]]:
    """Each task with what ``work`` made of it, in the order in which they are finished.

    Args:
        scheduler: the address of the cluster's scheduler, such as ``tcp://host:8786``.
        work: a function that workers can import; lipcore and its data are installed where they run.
        tasks: what it is called with.

    Raises:
        LipcoreError: dask is not installed, nobody answers at the address, or workers died over one task repeatedly.
    """
    try:
        from dask.distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise LipcoreError(f"a cluster needs dask: pip install 'lipcore[cluster]' ({error})") from error
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise LipcoreError(f"no dask scheduler answers at {scheduler}: {error}") from error
    with client:
        waiting = {client.submit(_listed, work, task, pure=False): task for task in tasks}
        try:
            for future in as_completed(list(waiting)):
                yield waiting.pop(future), future.result()
                future.release()
        except KilledWorker as error:
            raise LipcoreError(f"workers died over one unit of work again and again: {error}") from error
        finally:
            client.cancel(list(waiting))


def _listed(work: Callable[[Task], Iterable[Result]], task: Task) -> list[Result]:
    return list(work(task))
