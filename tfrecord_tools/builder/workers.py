"""Pool of worker processes, with a progress count and a clean stop."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from tfrecord_tools.core.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")

_POLL = 0.25  # seconds between updates of the count
# Otherwise NumPy's BLAS starts one thread per core in each worker, and they compete for the cores.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

_done: Any = None  # in a worker: images finished by all workers
_stop: Any = None  # in a worker: 1 once the parent stops


class StoppedError(RuntimeError):
    """Raised inside a task when the parent has stopped."""


class WorkerError(RuntimeError):
    """A worker process that ended without a result, most often killed for lack of memory."""


def run(
    function: Callable[[Task, Callable[[int], None]], Result],
    tasks: Sequence[Task],
    workers: int,
    progress: Progress,
    preload: Sequence[str] = (),
) -> Generator[Result, None, None]:
    """Yields function(task, count) of each task as they finish, in any order.

    The first exception of a task is raised here after the other workers have stopped; so is Ctrl-C.

    Args:
      function: Takes a task and a function that counts images.
      tasks: Its first arguments.
      workers: Number of processes.
      progress: Receives the count of images.
      preload: Modules to import once for all workers, which share their memory where the platform allows it.

    Raises:
      WorkerError: a process ended without a result.
    """
    # Not "fork", which copies threads' locks; "forkserver" forks from a clean process.
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(list(preload))
    done, stop = context.Value(ctypes.c_longlong), context.Value(ctypes.c_byte, lock=False)
    executor = ProcessPoolExecutor(min(workers, len(tasks)) or 1, context, _start_worker, (done, stop))
    try:
        with _environment(dict.fromkeys(_ONE_THREAD, "1")):  # read when a worker, or what it is forked from, starts
            waiting: set[Future[Result]] = {executor.submit(_run_task, function, task) for task in tasks}
        while waiting:
            finished, waiting = wait(waiting, _POLL, FIRST_COMPLETED)
            progress.show(done.value)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError("a worker process died (out of memory?); try fewer --workers, then --resume") from error
    finally:
        stop.value = 1
        executor.shutdown(wait=True, cancel_futures=True)
        progress.end(done.value)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker(done: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = done, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sets `stop`
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Ends the worker with its parent, or it would write on beside a resumed build if the parent gets SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run_task(function: Callable[[Task, Callable[[int], None]], Result], task: Task) -> Result:
    return function(task, _count)


def _count(images: int) -> None:
    if _stop.value:
        raise StoppedError
    with _done.get_lock():
        _done.value += images
