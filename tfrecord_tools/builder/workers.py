"""Worker processes that each take one task after the other; one that dies costs no more than its task."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection, forkserver
from typing import Any, Generic, Protocol, TypeVar

from tfrecord_tools.core.progress import Progress

# Seconds of a processor for one image, whose pixels and scans are limited: 100 megapixels take 2 to 5, as JPEG 2000 21.
TIME_LIMIT = 60.0
_POLL = 0.25  # seconds between updates of the count
_STOPPING = 10.0  # seconds that a worker has to remove what it has not finished
# Otherwise NumPy's BLAS starts one thread per core in each worker, and they compete for the cores.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class Task(Protocol):
    """Images to work on, in order."""

    def place(self, done: int) -> str:
        """Words for the image that is worked on when `done` are finished."""

    def without(self, image: int, reason: str) -> Task | None:
        """Returns the task with one image left out for a reason; None if it has no such image."""


Given = TypeVar("Given", bound=Task)
Result = TypeVar("Result")
Function = Callable[[Given, Callable[[int], None]], Result]


class StoppedError(RuntimeError):
    """Raised inside a task when the parent has stopped."""


class WorkerError(RuntimeError):
    """A worker process that ended without a result, most often killed for lack of memory."""


def prepare(preload: Sequence[str]) -> None:
    """Starts the process that workers are forked from, which imports modules meanwhile.

    Args:
      preload: Modules to import once for all workers, which share their memory where the platform allows it.
    """
    if _context().get_start_method() == "forkserver":
        forkserver.set_forkserver_preload(list(preload))
        with _environment(dict.fromkeys(_ONE_THREAD, "1")):
            forkserver.ensure_running()


def end() -> None:
    """Waits for the process that workers are forked from, so that their processor time counts as this one's."""
    with contextlib.suppress(AttributeError, OSError):  # not public; without it only the accounting is lost
        forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _context() -> Any:
    # Not "fork", which copies threads' locks; "forkserver" forks from a clean process.
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def run(
    function: Function[Given, Result], tasks: Sequence[Given], workers: int, progress: Progress
) -> Generator[Result, None, None]:
    """Yields function(task, count) of each task as they finish, in any order.

    The first exception of a task is raised here after the other workers have stopped; so is Ctrl-C. An image that
    crashes its worker, or takes longer than TIME_LIMIT, is left out, and its task begins again.

    Args:
      function: Takes a task and a function to call with 0 before each image and with 1 after it.
      tasks: Its first arguments.
      workers: Number of processes.
      progress: Receives the count of images.

    Raises:
      WorkerError: a process ended without a result; names its image.
    """
    waiting, finished, shown = collections.deque(tasks), 0, 0.0
    busy: dict[Any, _Worker[Given]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = _start(function, waiting.popleft())
                busy[worker.pipe] = worker
            for pipe in connection.wait(list(busy), _POLL):
                worker = busy[pipe]
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    del busy[pipe]
                    waiting.appendleft(worker.lost())
                    continue
                if isinstance(message, int):
                    worker.done += message
                    continue
                finished += worker.done
                if waiting and isinstance(message, _Done):
                    worker.give(waiting.popleft())
                else:
                    busy.pop(pipe).stop()
                if not isinstance(message, _Done):
                    raise message
                yield message.result
            if time.monotonic() - shown >= _POLL:
                shown = time.monotonic()
                progress.show(finished + sum(worker.done for worker in busy.values()))
    finally:
        for worker in busy.values():
            worker.pipe.close()  # stops it at its next image
        for worker in busy.values():
            worker.stop()
        progress.end(finished + sum(worker.done for worker in busy.values()))


@dataclasses.dataclass(frozen=True)
class _Done:
    """Message of a finished task."""

    result: Any


@dataclasses.dataclass
class _Worker(Generic[Given]):
    """A worker process. done: number of finished images of its task."""

    process: Any
    pipe: Any
    task: Given
    done: int = 0

    def give(self, task: Given) -> None:
        """Gives it a task."""
        self.task, self.done = task, 0
        with contextlib.suppress(OSError):  # it is dead, which reading tells
            self.pipe.send(task)

    def stop(self) -> None:
        """Waits until it has ended."""
        self.pipe.close()
        self.process.join(_STOPPING)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def lost(self) -> Any:
        """Returns the task of a process that has died, without the image that killed it; WorkerError otherwise."""
        self.stop()
        code = self.process.exitcode
        why = {-signal.SIGPROF: f"took longer than {TIME_LIMIT:.0f} s of a processor"}
        why |= {-crash: f"crashed the decoder ({crash.name})" for crash in _CRASHES}
        task = self.task.without(self.done, why[code]) if code in why else None
        if task is not None:
            return task
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        how += ", most often for lack of memory; try fewer --workers" if code == -signal.SIGKILL else ""
        raise WorkerError(
            f"a worker process died at {self.task.place(self.done)}: {how}; the finished shards are kept, go on with "
            "--resume"
        )


def _start(function: Function[Given, Result], task: Given) -> _Worker[Given]:
    context = _context()
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function), daemon=True)
    with _environment(dict.fromkeys(_ONE_THREAD, "1")), _main_hidden():
        process.start()
    theirs.close()
    worker = _Worker(process, ours, task)
    worker.give(task)
    return worker


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Hides the command from a new process, which would import all of it and needs a small part."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


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


def _work(pipe: Any, function: Function[Any, Any]) -> None:
    """Runs a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def count(images: int) -> None:
        # The decoder is C code, which only a signal ends. Time of a processor, as a busy machine proves no image slow.
        signal.setitimer(signal.ITIMER_PROF, 0 if images else TIME_LIMIT)
        try:
            pipe.send(images)
        except OSError as error:
            raise StoppedError from error

    with contextlib.suppress(EOFError, OSError, StoppedError):
        while True:
            task = pipe.recv()
            message: _Done | Exception
            try:
                message = _Done(function(task, count))
            except StoppedError:
                raise
            except Exception as error:
                error.add_note(traceback.format_exc())
                message = error
            pipe.send(message)


def _die_with_parent() -> None:
    """Ends the worker with its parent, or it would write on beside a resumed build if the parent gets SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
