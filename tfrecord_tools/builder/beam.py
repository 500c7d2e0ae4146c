"""Apache Beam in place of `workers.run`: the same build on many machines.

Tasks, results and messages are files in a job folder beside the shards, which every worker can reach:

    OUT/.beam-JOB/00003.task     the task; a worker stops when it is gone, so removing the folder stops all workers
    OUT/.beam-JOB/00003.result   JSON of the result, written when the task is done
    OUT/.beam-JOB/00003.error    message of the last failed attempt

So results arrive one by one with any runner, and the size of the tasks (0.7 GB for 5 million images) does not count
towards a runner's limit on job descriptions (10 MB on Dataflow). Apache Beam is an extra, imported only when used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pickle
import re
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

from tfrecord_tools.core import json_file, paths

Task = TypeVar("Task")
Result = TypeVar("Result")

_JOB_NAME = re.compile(r"\.beam-[0-9a-f]{32}")
_DIRECT = "directrunner"  # Beam compares in lower case
_POLL = 0.25  # seconds between checks for results on a disk
_POLL_REMOTE = 5.0  # seconds, for object stores, which bill each check as a request
_STOPPING = 30.0  # seconds that workers have to notice a stop
_GRACE = 5.0  # seconds that local worker processes have to clean up after a stop
_WAITING_THREAD = "run_worker"  # Beam's name of the threads that each wait for one worker process


class BeamError(RuntimeError):
    """A build that Beam cannot run, or a failed shard; the message gives the reason and what to do."""


class StoppedError(RuntimeError):
    """Raised inside a task when its build has ended."""


class Progress(Protocol):
    """Interface of `core.progress.Progress`."""

    def show(self, done: int) -> None:
        """Shows the count of images done."""

    def end(self, done: int) -> None:
        """Shows the final count."""


def run(
    function: Callable[[Task, Callable[[int], None]], Result],
    tasks: Sequence[Task],
    runner: str,
    options: Sequence[str],
    progress: Progress,
    folder: str,
    decode: Callable[[Any], Result],
    versions: Callable[[], dict[str, str]],
) -> Generator[Result, None, None]:
    """Yields function(task, count) of each task as they finish, in any order.

    A task may run twice, even at the same time, because runners repeat failed and lost tasks. Closing the generator
    stops the workers.

    Args:
      function: At the top level of a module that workers can import; returns a dataclass, or a list of them.
      tasks: Its first arguments.
      runner: Name of a Beam runner, e.g. "DirectRunner".
      options: Options of the runner, e.g. ["--direct_num_workers=2"].
      progress: Receives the count of images.
      folder: Output folder of the tasks, local or remote, within reach of all workers; no job file stays in it.
      decode: Converts JSON to a result.
      versions: Returns the versions that the bytes depend on, by name; a worker with other ones refuses to work.

    Raises:
      BeamError: Beam cannot run the tasks, or a task failed for good; with its message.
    """
    pipeline_options = _options(runner, options)
    if not tasks:
        return
    job = _Job(paths.path(folder) / f".beam-{uuid.uuid4().hex}", len(tasks))
    remove_leftovers(folder)
    job.write_tasks(tasks)
    attempt = functools.partial(_attempt, job=job, function=function, versions=versions, expected=versions())
    execution = _Execution(job, attempt, runner, pipeline_options)
    poll = _POLL_REMOTE if paths.is_remote(folder) else _POLL
    waiting, done = set(range(len(tasks))), 0
    try:
        execution.start()
        while waiting:
            going_on = not execution.wait(poll) and not execution.lost_worker()
            for index, receipt in job.new_receipts(waiting):
                waiting.remove(index)
                done += receipt["images"]
                yield decode(receipt["result"])
            progress.show(done)
            if not going_on:
                break
        if waiting:
            raise BeamError(_why(job, execution, waiting))
        execution.wait(_STOPPING)
    finally:
        paths.remove_tree(job.folder)
        execution.stop()
        paths.remove_tree(job.folder)  # what a worker wrote between the two
        progress.end(done)


def check(runner: str, options: Sequence[str]) -> None:
    """Raises BeamError if Beam is not installed, or rejects the runner or its options; starts nothing."""
    _options(runner, options)
    from apache_beam.runners import create_runner

    try:
        create_runner(runner)
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        raise BeamError(f"--runner {runner}: {str(error).splitlines()[0]}") from error


def remove_leftovers(folder: str) -> None:
    """Removes the job folders of builds that were killed, which also stops their workers."""
    base = paths.path(folder)
    if not base.exists():
        return
    for path in job_folders(base):
        paths.remove_tree(path)


def job_folders(folder: paths.AnyPath) -> list[paths.AnyPath]:
    """Returns the job folders of builds that are running in this folder, or were killed."""
    return [path for path in folder.iterdir() if _JOB_NAME.fullmatch(path.name)]


# ------------------------------------------------------------------------------------------- the job folder


@dataclasses.dataclass(frozen=True)
class _Job:
    """The job folder of one run. count: number of tasks."""

    folder: paths.AnyPath
    count: int

    def path(self, index: int, kind: str) -> paths.AnyPath:
        return self.folder / f"{index:05d}.{kind}"

    def write_tasks(self, tasks: Sequence[Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, task in enumerate(tasks):
            self.path(index, "task").write_bytes(pickle.dumps(task))

    def read_task(self, index: int) -> Any:
        try:
            return pickle.loads(self.path(index, "task").read_bytes())
        except FileNotFoundError as error:
            raise StoppedError(f"task {index}: its build has ended") from error

    def write_json(self, index: int, kind: str, content: dict[str, Any]) -> None:
        """Writes a file atomically, unless the job has ended."""
        if not self.path(index, "task").exists():
            raise StoppedError(f"task {index}: its build has ended")
        temporary = paths.temporary(self.path(index, kind))
        temporary.write_bytes(json.dumps(content, default=dataclasses.asdict).encode())
        paths.commit(temporary, self.path(index, kind))

    def new_receipts(self, waiting: set[int]) -> list[tuple[int, dict[str, Any]]]:
        try:
            names = {path.name for path in self.folder.iterdir()}
        except FileNotFoundError as error:
            raise BeamError(f"{self.folder} was removed: another build was started in the same --out") from error
        indices = [index for index in sorted(waiting) if f"{index:05d}.result" in names]
        return [(index, self._read(self.path(index, "result"))) for index in indices]

    @staticmethod
    def _read(path: paths.AnyPath) -> dict[str, Any]:
        try:
            return json_file.read(path)
        except ValueError as error:
            raise BeamError(f"{path} is damaged: {error}; go on with --resume") from error

    def errors(self, waiting: set[int]) -> list[str]:
        found = [self.path(index, "error") for index in sorted(waiting)]
        return [self._read(path)["message"] for path in found if path.exists()]


def _attempt(
    index: int,
    job: _Job,
    function: Callable[[Any, Callable[[int], None]], Any],
    versions: Callable[[], dict[str, str]],
    expected: dict[str, str],
) -> int:
    """Runs one task in a worker, and writes its result or error to the job folder."""
    task = job.read_task(index)
    watch = _Watch(job.path(index, "task"))
    try:
        _check_versions(expected, versions())
        result = function(task, watch.count)
    except StoppedError:
        raise
    except Exception as error:
        job.write_json(index, "error", {"message": str(error) or type(error).__name__})
        raise  # the runner decides whether to repeat it
    job.write_json(index, "result", {"result": result, "images": watch.images})
    return index


def _check_versions(expected: dict[str, str], found: dict[str, str]) -> None:
    differing = [
        f"{name} {found.get(name)} instead of {expected.get(name)}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise BeamError(f"a worker has {', '.join(differing)}, which may change the bytes; install the same there")


class _Watch:
    """Counter of images that stops the task when its build has ended."""

    def __init__(self, path: paths.AnyPath) -> None:
        self.images = 0
        self._path = path
        self._interval = _POLL_REMOTE if paths.is_remote(path) else _POLL
        self._checked = time.monotonic()

    def count(self, images: int) -> None:
        """Counts images; raises StoppedError if the build has ended."""
        self.images += images
        if time.monotonic() - self._checked > self._interval:
            if not self._path.exists():
                raise StoppedError(f"{self._path}: its build has ended")
            self._checked = time.monotonic()


# ----------------------------------------------------------------------------------------------- the runner


class _Execution:
    """A pipeline running in a thread, because some runners block until the end."""

    def __init__(self, job: _Job, attempt: Callable[[int], int], runner: str, options: Any) -> None:
        self.error: BaseException | None = None
        self.lost = False
        self._job, self._attempt, self._runner, self._options = job, attempt, runner, options
        self._result: Any = None
        self._foreign = _waiting_threads()  # of another pipeline in this process
        self._waiting: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._execute, name="beam", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Waits at most that time; returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def lost_worker(self) -> bool:
        """Whether a local worker process ended early; known only where Beam waits for them itself."""
        threads = _waiting_threads() - self._foreign
        self.lost = bool(self._waiting - threads) and not self.wait(_GRACE)  # at the end, all of them vanish
        self._waiting |= threads
        return self.lost

    def stop(self) -> None:
        """Cancels the pipeline; removing the job folder stops workers that the runner cannot reach."""
        if self._result is not None and self._thread.is_alive():
            with contextlib.suppress(NotImplementedError):  # some runners cannot cancel
                self._result.cancel()
        # Beam does not notice a lost worker process; its daemon thread ends with this process.
        self._thread.join(0 if self.lost else _STOPPING)

    def _execute(self) -> None:
        beam = _import_beam()
        try:
            runner = _runner(self._runner, self._options, self._job)
            pipeline = beam.Pipeline(runner=runner, options=self._options)
            indices = pipeline | "Tasks" >> beam.Create(range(self._job.count), reshuffle=False)
            # Without a shuffle, one worker would get all tasks.
            spread = indices | "Spread" >> beam.Reshuffle()
            _ = spread | "Write" >> beam.Map(self._attempt)
            self._result = pipeline.run()
            state = self._result.wait_until_finish()
            if str(state) != "DONE":
                raise BeamError(f"{self._runner}: the job ended as {state}")
        except Exception as error:
            self.error = error


def _waiting_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == _WAITING_THREAD}


def _why(job: _Job, execution: _Execution, waiting: set[int]) -> str:
    messages = job.errors(waiting)
    if messages:
        return messages[0] if len(messages) == 1 else f"{len(messages)} shards failed, first: {messages[0]}"
    if execution.lost:
        return "a worker process died (out of memory?); try fewer --direct_num_workers, then --resume"
    if execution.error is not None:
        return f"{len(waiting)} of {job.count} shards are missing: {execution.error}"
    return f"{len(waiting)} of {job.count} shards are missing, and the runner gives no reason; continue with --resume"


def _runner(name: str, options: Any, job: _Job) -> Any:
    """The runner for `beam.Pipeline`.

    Beam's DirectRunner prefers Prism, a Go program that it downloads, which runs all Python in one process and ignores
    --direct_running_mode and --direct_num_workers. So this takes its fallback, the FnApiRunner, with worker processes
    of our own: it would wait forever for a killed worker of its own, and those outlive a killed parent.
    """
    if name.lower() != _DIRECT:
        return name
    from apache_beam.options import pipeline_options
    from apache_beam.runners.portability import fn_api_runner
    from apache_beam.transforms import environments

    direct = options.view_as(pipeline_options.DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return fn_api_runner.FnApiRunner()
    direct.direct_running_mode = "in_memory"  # or it would start its own worker processes
    logging.getLogger("apache_beam.runners.portability").setLevel(logging.ERROR)  # it warns about this mode
    command = [sys.executable, "-m", __name__, str(job.folder), str(os.getpid())]
    # exec replaces the shell that Beam starts, so that this process is the worker's parent
    environment = environments.SubprocessSDKEnvironment.from_command_string(f"exec {shlex.join(command)}")
    return fn_api_runner.FnApiRunner(environment)


def _work(folder: str, parent: int) -> None:
    """Runs a local worker process, started by Beam as `python -m tfrecord_tools.builder.beam JOB_FOLDER PARENT`."""
    # A task's error reaches the user once, through the job folder; Beam would print it many times.
    logging.disable()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 -- open as long as the process lives
    threading.Thread(target=_end_with_job, args=(paths.path(folder), parent), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _end_with_job(folder: paths.AnyPath, parent: int) -> None:
    while folder.exists():
        if os.getppid() != parent:  # killed; a surviving worker would disturb a resumed build
            os._exit(1)
        time.sleep(_POLL)
    time.sleep(_GRACE)
    os._exit(0)


def _import_beam() -> Any:
    before = logging.root.manager.disable
    logging.disable()  # it warns about missing BigQuery libraries
    try:
        import apache_beam
    except ImportError as error:
        raise BeamError(f"Apache Beam is not installed ({error}); pip install 'melanoma-tf[beam]'") from error
    finally:
        logging.disable(before)
    logging.getLogger("apache_beam.typehints").setLevel(logging.ERROR)  # it logs every type annotation
    return apache_beam


def _options(runner: str, options: Sequence[str]) -> Any:
    """Parses Beam's options; rejects those that the DirectRunner would ignore."""
    _import_beam()
    from apache_beam.options import pipeline_options

    parsed = pipeline_options.PipelineOptions(list(options))
    try:
        known, given = parsed.get_all_options(), parsed.get_all_options(retain_unknown_options=True)
    except SystemExit as error:  # argparse has written the reason to standard error
        raise BeamError(f"--beam_options {','.join(options)!r}: rejected by Apache Beam") from error
    unknown = sorted(given.keys() - known.keys())
    if unknown and runner.lower() == _DIRECT:
        names = ", ".join(f"--{name}" for name in unknown)
        raise BeamError(f"--beam_options: {runner} has no {names}; expected e.g. --direct_num_workers=2")
    return parsed


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]))
