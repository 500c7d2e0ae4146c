"""Workers that are killed, crash or never come back, in truth."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import io
import os
import resource
import signal
import subprocess
import time

import pytest

from tests.support.builds import command, contents, settings
from tests.support.images import SKIN
from tests.support.process import descendants, is_running, wait_for, workers_of
from tfrecord_tools import build
from tfrecord_tools.builder import workers
from tfrecord_tools.records import shards
from tfrecord_tools.records.manifest import Manifest

pytestmark = pytest.mark.integration
LIMIT = 1.0  # seconds


@dataclasses.dataclass(frozen=True)
class Images:
    """A task whose images say what happens."""

    name: str
    images: tuple[str, ...]

    def place(self, done):
        return f"image {done} of {self.name}"

    def without(self, image, reason):
        changed = (*self.images[:image], reason, *self.images[image + 1 :])
        return dataclasses.replace(self, images=changed) if image < len(self.images) else None


def work(task, count):
    """Done in a worker: returns what became of each image."""
    workers.TIME_LIMIT = LIMIT
    for image in task.images:
        count(0)
        if image == "segfault":
            ctypes.string_at(0)
        elif image == "abort":
            os.abort()
        elif image == "endless":
            sum(range(10**15))  # C code that holds the lock of the interpreter
        elif image == "asleep":
            time.sleep(1.5 * LIMIT)
        elif image == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        elif image == "exit":
            os._exit(7)
        elif image == "error":
            raise shards.ShardError(f"{task.name} cannot be written")
        count(1)
    return task


def run(tasks, number=2):
    progress = workers.Progress(sum(len(task.images) for task in tasks), io.StringIO())
    return {found.name: found.images for found in workers.run(work, tasks, number, progress)}


@pytest.fixture(autouse=True)
def short_limit(monkeypatch):
    monkeypatch.setattr(workers, "TIME_LIMIT", LIMIT)  # in its message; `work` sets it in the workers


@pytest.mark.parametrize("number", [1, 2, 5])
def test_every_task_is_done_once(number):
    tasks = [Images(f"t{index}", ("sound",) * index) for index in range(7)]
    assert run(tasks, number) == {task.name: task.images for task in tasks}


def test_images_that_crash_or_never_end_are_left_out_and_all_others_done():
    tasks = [
        Images("a", ("sound", "segfault", "sound", "endless", "sound")),
        Images("b", ("sound", "abort")),
        Images("c", ("asleep", "sound")),  # waiting takes no time of a processor
    ]
    assert run(tasks) == {
        "a": ("sound", "crashed the decoder (SIGSEGV)", "sound", "took longer than 1 s of a processor", "sound"),
        "b": ("sound", "crashed the decoder (SIGABRT)"),
        "c": ("asleep", "sound"),
    }


@pytest.mark.parametrize(
    ("end", "how"),
    [("SIGKILL", "SIGKILL, most often for lack of memory; try fewer --workers"), ("exit", "exit code 7")],
)
def test_a_worker_that_is_killed_is_named_with_its_image(end, how):
    tasks = [Images("a", ("sound", "sound", end)), Images("b", ("sound",) * 4)]
    with pytest.raises(workers.WorkerError) as caught:
        run(tasks)
    expected = f"a worker process died at image 2 of a: {how}; the finished shards are kept, go on with --resume"
    assert str(caught.value) == expected
    wait_for(lambda: len(workers_of(os.getpid())) == 0)


def test_an_error_of_a_task_is_raised_here_and_stops_the_others():
    with pytest.raises(shards.ShardError, match="a cannot be written") as caught:
        run([Images("a", ("sound", "error")), Images("b", ("asleep",) * 100)])
    assert str(caught.value) == "a cannot be written"
    assert "in work" in caught.value.__notes__[0]  # where it happened
    wait_for(lambda: len(workers_of(os.getpid())) == 0)


def spin(data, slow):
    """A converter that never ends for one image."""
    workers.TIME_LIMIT = LIMIT
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    while data.startswith(slow):
        sum(range(10**7))
    return [data], 64, 48


def test_a_shard_is_written_without_the_image_that_takes_too_long(tmp_path):
    sources = []
    for index in range(4):
        path = tmp_path / f"ISIC_{index}.jpg"
        path.write_bytes(b"slow" if index == 2 else SKIN)
        sources.append(shards.Source(path.stem, path.name, str(path), "IP_1", "", "IP_1", 0, 50, 3, 1, 0, "isic2020"))
    converter = functools.partial(spin, slow=b"slow")
    (tmp_path / "out").mkdir()
    task = shards.ShardTask("train00", "train", 0, (str(tmp_path / "out"),), converter, tuple(sources))
    progress = workers.Progress(4, io.StringIO())
    (written,) = workers.run(shards.write_shard, [task], 1, progress)
    (result,) = written.results
    assert (result.name, result.records) == ("train00-3.tfrec", 3)
    reason = "took longer than 1 s of a processor"
    assert result.quarantined == (shards.Quarantined("ISIC_2", "ISIC_2.jpg", reason),)
    # The killed attempt leaves its temporary file, which the end of a build removes.
    assert [path.name for path in (tmp_path / "out").glob("*.tfrec")] == ["train00-3.tfrec"]


def test_a_build_whose_worker_is_killed_names_the_image_and_resumes_to_the_same_bytes(data, finished, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(data, out), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(out.glob("train*.tfrec")) or process.poll() is not None)
    below = descendants(process.pid)
    for pid in workers_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    message = process.communicate()[1]
    if process.returncode == 0:
        pytest.skip("the build was over before its worker could be killed")
    assert "Traceback" not in message
    assert "error: a worker process died at " in message
    assert " shard train" in message
    assert "SIGKILL, most often for lack of memory" in message
    wait_for(lambda: not any(map(is_running, below)))
    build.build(settings(data, out, resume=True))
    assert contents(out) == contents(finished)
    assert Manifest.read(out).complete


def test_the_processor_time_of_workers_is_that_of_the_command(data, tmp_path):
    """A build of 48 images takes more with its workers than a command that only checks its flags."""

    def seconds(*more):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command(data, tmp_path / "out", *more), capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done.returncode, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    code, checks = seconds("--folds=0")
    assert code == 2
    code, all_of_it = seconds("--size=512", "--overwrite")
    assert code == 0
    images = 48 * one_image(data)
    assert all_of_it > checks + images


def one_image(data):
    """Least seconds of a processor that an image takes."""
    from tfrecord_tools.imaging import convert

    path = next((data / "jpeg" / "train").iterdir())
    found = []
    for _ in range(5):
        before = time.process_time()
        convert.convert(path.read_bytes(), 512, 95)
        found.append(time.process_time() - before)
    return min(found)
