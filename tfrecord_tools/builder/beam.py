"""The same build on many machines: `workers.run` for any Apache Beam runner.

Tasks, results and messages go through files in a job folder beside the shards, which every worker can reach anyhow:

    OUT/.beam-JOB/00003.task     what to do; a worker that finds it gone gives up, so that removing the folder stops all
    OUT/.beam-JOB/00003.result   JSON: what was done, there only once it is done
    OUT/.beam-JOB/00003.error    why the last attempt failed

So results arrive one by one while a runner is still at work, whatever the runner, and the size of the tasks (5 million
images take 0.7 GB) never meets a runner's limit on the size of a job's description (10 MB on Dataflow).
Apache Beam is an extra and is imported only when it is used.
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

from tfrecord_tools.core import paths

Task = TypeVar("Task")
Result = TypeVar("Result")

_JOB_NAME = re.compile(r"\.beam-[0-9a-f]{32}")
_DIRECT = "directrunner"  # Beam compares in lower case
_POLL = 0.25  # seconds between two looks at the results on a disk
_POLL_REMOTE = 5.0  # the same for object stores, where each look is a request that is billed
_STOPPING = 30.0  # seconds that workers get to notice that they should stop
_GRACE = 5.0  # seconds from a stop to the end of worker processes on this machine, so that they can tidy up
_WAITING_THREAD = "run_worker"  # Beam's name for its threads that each wait for the end of one worker process


class BeamError(RuntimeError):
    """The build cannot run on Beam as asked, or a shard failed there; the message says why and what to do."""


class StoppedError(RuntimeError):
    """Raised inside a task when nobody waits for its result any more."""


class Progress(Protocol):
    """What is told how far the build is; see `workers.Progress`."""

    def show(self, done: int) -> None:
        """Shows the count of images done."""

    def end(self, done: int) -> None:
        """Leaves the last state."""


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

    function: at the top level of a module that workers can import; returns a dataclass, or a list of them.
    runner, options: as Beam knows them, e.g. "DirectRunner", ["--direct_num_workers=2"]. folder: where the tasks
    write, local or remote, within reach of all workers; nothing of ours stays in it. decode: from JSON to a result.
    versions: of what the bytes depend on, by name; a worker where they differ from those here refuses to work.
    A task may run twice, also at the same time: a runner tries again what failed or what seems lost.
    Raises BeamError with the message of a task that failed in the end. Closing the generator stops the workers.
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
    """Raises BeamError if Beam is not installed, has no such runner or does not take these options; starts nothing."""
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
    """Those of builds that are running in this folder, or were killed there."""
    return [path for path in folder.iterdir() if _JOB_NAME.fullmatch(path.name)]


# ------------------------------------------------------------------------------------------- the job folder


@dataclasses.dataclass(frozen=True)
class _Job:
    """The files of one run. count: of tasks."""

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
        """Whole or not at all, and never into the folder of a job that has ended."""
        if not self.path(index, "task").exists():
            raise StoppedError(f"task {index}: its build has ended")
        temporary = paths.temporary(self.path(index, kind))
        temporary.write_bytes(json.dumps(content, default=dataclasses.asdict).encode())
        paths.commit(temporary, self.path(index, kind))

    def new_receipts(self, waiting: set[int]) -> list[tuple[int, dict[str, Any]]]:
        try:
            names = {path.name for path in self.folder.iterdir()}
        except FileNotFoundError as error:
            raise BeamError(f"{self.folder} is gone: another build was started in the same --out") from error
        indices = [index for index in sorted(waiting) if f"{index:05d}.result" in names]
        return [(index, json.loads(self.path(index, "result").read_bytes())) for index in indices]

    def errors(self, waiting: set[int]) -> list[str]:
        found = [self.path(index, "error") for index in sorted(waiting)]
        return [json.loads(path.read_bytes())["message"] for path in found if path.exists()]


def _attempt(
    index: int,
    job: _Job,
    function: Callable[[Any, Callable[[int], None]], Any],
    versions: Callable[[], dict[str, str]],
    expected: dict[str, str],
) -> int:
    """Runs in a worker: does one task and leaves its result, or its error, in the job folder."""
    task = job.read_task(index)
    watch = _Watch(job.path(index, "task"))
    try:
        _check_versions(expected, versions())
        result = function(task, watch.count)
    except StoppedError:
        raise
    except Exception as error:
        job.write_json(index, "error", {"message": str(error) or type(error).__name__})
        raise  # the runner decides whether to try again
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
    """Counts images, and stops the task when its build has ended."""

    def __init__(self, path: paths.AnyPath) -> None:
        self.images = 0
        self._path = path
        self._interval = _POLL_REMOTE if paths.is_remote(path) else _POLL
        self._looked = time.monotonic()

    def count(self, images: int) -> None:
        """Raises StoppedError if nobody waits any more."""
        self.images += images
        if time.monotonic() - self._looked > self._interval:
            if not self._path.exists():
                raise StoppedError(f"{self._path}: its build has ended")
            self._looked = time.monotonic()


# ----------------------------------------------------------------------------------------------- the runner


class _Execution:
    """A pipeline at work in a thread, for some runners block until all is done."""

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
        """Whether it has ended, after at most that time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def lost_worker(self) -> bool:
        """Whether a worker process on this machine ended before its time; only where Beam waits for them itself."""
        threads = _waiting_threads() - self._foreign
        self.lost = bool(self._waiting - threads) and not self.wait(_GRACE)  # at the end all of them go
        self._waiting |= threads
        return self.lost

    def stop(self) -> None:
        """Ends it; removing the job folder stops workers that the runner cannot reach."""
        if self._result is not None and self._thread.is_alive():
            with contextlib.suppress(NotImplementedError):  # some runners cannot
                self._result.cancel()
        # Beam never notices that a worker process is lost; its thread is a daemon and goes with this process.
        self._thread.join(0 if self.lost else _STOPPING)

    def _execute(self) -> None:
        beam = _import_beam()
        try:
            runner = _runner(self._runner, self._options, self._job)
            pipeline = beam.Pipeline(runner=runner, options=self._options)
            indices = pipeline | "Tasks" >> beam.Create(range(self._job.count), reshuffle=False)
            # Without a shuffle between them one worker would be given all the tasks.
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
    return f"{len(waiting)} of {job.count} shards are missing, and the runner names no reason; go on with --resume"


def _runner(name: str, options: Any, job: _Job) -> Any:
    """What to give to `beam.Pipeline`.

    Beam's own DirectRunner first tries Prism, a Go program that it downloads and that runs all Python in one process.
    The FnApiRunner is what it falls back to, and what --direct_running_mode and --direct_num_workers are for. It would
    wait for ever for a worker process that was killed, and its workers outlive a killed parent: hence our own ones.
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
    logging.getLogger("apache_beam.runners.portability").setLevel(logging.ERROR)  # it warns of just this
    command = [sys.executable, "-m", __name__, str(job.folder), str(os.getpid())]
    # exec: Beam starts it through a shell, which would stand between parent and worker
    environment = environments.SubprocessSDKEnvironment.from_command_string(f"exec {shlex.join(command)}")
    return fn_api_runner.FnApiRunner(environment)


def _work(folder: str, parent: int) -> None:
    """A worker process on this machine: `python -m tfrecord_tools.beam JOB_FOLDER PARENT`, started by Beam."""
    # What goes wrong in a task reaches the user as one message, through the job folder; Beam prints it over and over.
    logging.disable()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 -- open as long as the process lives
    threading.Thread(target=_end_with_job, args=(paths.path(folder), parent), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _end_with_job(folder: paths.AnyPath, parent: int) -> None:
    while folder.exists():
        if os.getppid() != parent:  # it was killed; a worker that writes on would disturb a resumed build
            os._exit(1)
        time.sleep(_POLL)
    time.sleep(_GRACE)
    os._exit(0)


def _import_beam() -> Any:
    before = logging.root.manager.disable
    logging.disable()  # it warns of libraries for BigQuery
    try:
        import apache_beam
    except ImportError as error:
        raise BeamError(f"Apache Beam is not installed ({error}); pip install 'melanoma-tf[beam]'") from error
    finally:
        logging.disable(before)
    logging.getLogger("apache_beam.typehints").setLevel(logging.ERROR)  # it tells of every annotation of ours
    return apache_beam


def _options(runner: str, options: Sequence[str]) -> Any:
    """Beam's options; those that the DirectRunner would pass over in silence are an error."""
    _import_beam()
    from apache_beam.options import pipeline_options

    parsed = pipeline_options.PipelineOptions(list(options))
    try:
        known, given = parsed.get_all_options(), parsed.get_all_options(retain_unknown_options=True)
    except SystemExit as error:  # argparse has said on standard error what is wrong
        raise BeamError(f"--beam_options {','.join(options)!r}: not what Apache Beam takes") from error
    unknown = sorted(given.keys() - known.keys())
    if unknown and runner.lower() == _DIRECT:
        names = ", ".join(f"--{name}" for name in unknown)
        raise BeamError(f"--beam_options: {runner} has no {names}; expected e.g. --direct_num_workers=2")
    return parsed


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]))
