"""Builds on Apache Beam, with the real DirectRunner, and with worker processes where they matter."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.builds import contents, settings
from tests.support.process import REPOSITORY, is_running, wait_for
from tfrecord_tools import build
from tfrecord_tools.builder import beam
from tfrecord_tools.records import shards

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed; pip install '.[beam]'"
)
# Beam's threads end with an error where a test kills their worker.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


class Count:
    """Progress that only remembers."""

    def __init__(self) -> None:
        self.done = 0

    def show(self, done: int) -> None:
        self.done = done

    end = show


# Workers import these by name.


def versions() -> dict[str, str]:
    return {"codec": "1.0"}


def versions_of_each_process() -> dict[str, str]:
    return {"codec": "1.0", "pid": str(os.getpid())}


@dataclasses.dataclass(frozen=True)
class Done:
    task: int
    pid: int


def three_images(task: int, count: Any) -> Done:
    for _ in range(3):
        time.sleep(0.05)
        count(1)
    return Done(task, os.getpid())


def fail_on_two(task: int, count: Any) -> Done:
    if task == 2:
        raise shards.ShardError("cannot write shard train02: no space")
    return three_images(task, count)


def die_on_two(task: int, count: Any) -> Done:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return three_images(task, count)


def fail_the_first_time(task: str, count: Any) -> Done:
    """task: a file that an earlier attempt left."""
    if not Path(task).exists():
        Path(task).touch()
        raise OSError("the network was away")
    return three_images(7, count)


def for_ever(task: str, count: Any) -> Done:
    """task: where to leave the worker's process id."""
    Path(task).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)
        count(1)


def die_once(task: shards.ShardTask, count: Any) -> shards.WrittenShard:
    """Kills its process in the middle of the first shard that is begun, once for all workers."""
    mark = Path(task.folders[0]).parent / "died"

    def counting(images: int) -> None:
        count(images)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return shards.write_shard(task, counting)


def run(function, tasks, folder, options=(), progress=None, runner="DirectRunner", versions=versions):
    return beam.run(
        function, tasks, runner, options, progress or Count(), str(folder), lambda entry: Done(**entry), versions
    )


# ------------------------------------------------------------------------------------------ a build


def on_beam(monkeypatch, options, replacement=None):
    """Lets `build` run its tasks on the DirectRunner."""

    def run_on_beam(function, tasks, workers, progress):
        where, decode = tasks[0].folders[0], shards.WrittenShard.from_json
        return beam.run(replacement or function, tasks, "DirectRunner", options, progress, where, decode, versions)

    monkeypatch.setattr(build.workers, "run", run_on_beam)


@needs_beam
def test_two_worker_processes_make_the_same_bytes_and_manifest(data, finished, tmp_path, monkeypatch):
    on_beam(monkeypatch, PROCESSES)
    build.build(settings(data, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(finished)


@needs_beam
def test_given_folds_are_the_same_on_beam(data, tmp_path, monkeypatch):
    rows = (data / "train.csv").read_text().splitlines()[1:]
    patients = sorted({row.split(",")[1] for row in rows})
    lines = [f"{row.split(',')[0]},{patients.index(row.split(',')[1]) % 3 - 1}" for row in rows]
    (tmp_path / "split.csv").write_text("\n".join(["image_name,part", *lines]))
    given = {"folds_from": f"{tmp_path / 'split.csv'}:part", "shards": 4}
    build.build(settings(data, tmp_path / "local", **given))
    on_beam(monkeypatch, ())
    build.build(settings(data, tmp_path / "out", **given))
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@needs_beam
def test_shards_that_a_runner_makes_twice_are_there_once(data, finished, tmp_path, monkeypatch):
    on_beam(monkeypatch, ["--direct_runner_bundle_repeat=1"])
    build.build(settings(data, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(finished)


@needs_beam
def test_a_build_whose_worker_was_killed_says_so_and_resumes_to_the_same_bytes(data, finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        on_beam(patched, PROCESSES, die_once)
        with pytest.raises(beam.BeamError, match=r"a worker process died .* then --resume"):
            build.build(settings(data, out))
    assert (tmp_path / "died").exists()
    assert not beam.job_folders(out)
    for path in out.glob("*.tfrec"):
        assert path.read_bytes() == (finished / path.name).read_bytes()
    build.build(settings(data, out, resume=True))
    assert contents(out) == contents(finished)


# ------------------------------------------------------------------------------------------ the runner


@needs_beam
def test_the_work_is_spread_over_processes_and_counted(tmp_path):
    progress = Count()
    results = list(run(three_images, list(range(6)), tmp_path, PROCESSES, progress))
    assert sorted(result.task for result in results) == list(range(6))
    pids = {result.pid for result in results}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert progress.done == 18
    assert os.listdir(tmp_path) == []


@needs_beam
@pytest.mark.parametrize("options", [(), PROCESSES], ids=["in_memory", "processes"])
def test_a_task_that_fails_is_reported_by_its_own_message(tmp_path, options, capfd):
    with pytest.raises(beam.BeamError) as caught:
        list(run(fail_on_two, [1, 2, 3, 4], tmp_path, options))
    assert str(caught.value) == "cannot write shard train02: no space"
    assert "Traceback" not in capfd.readouterr().err
    assert os.listdir(tmp_path) == []


@needs_beam
def test_a_worker_that_is_killed_ends_the_build_and_the_other_workers(tmp_path):
    with pytest.raises(beam.BeamError, match="a worker process died"):  # Beam itself would wait forever
        list(run(die_on_two, [1, 2, 3, 4], tmp_path, PROCESSES))
    assert os.listdir(tmp_path) == []


@needs_beam
def test_closing_stops_the_workers(tmp_path):
    """As on Ctrl-C: the first task is done, the second would go on for ever."""
    results = run(one_or_for_ever, ["", str(tmp_path / "pid")], tmp_path)
    assert next(results) == Done(0, os.getpid())
    results.close()
    assert os.listdir(tmp_path) in ([], ["pid"])


def one_or_for_ever(task: str, count: Any) -> Done:
    return for_ever(task, count) if task else Done(0, os.getpid())


@needs_beam
def test_workers_end_with_a_killed_parent(tmp_path):
    code = (
        "import sys; from tests.tfrecord_tools.builder import test_beam; "
        "list(test_beam.run(test_beam.for_ever, sys.argv[1:], sys.argv[1] + '.out', test_beam.PROCESSES))"
    )
    marks = [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "one.out").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", code, *map(str, marks)], cwd=REPOSITORY)
    wait_for(lambda: all(mark.exists() and mark.read_text() for mark in marks))
    parent.kill()
    parent.wait()
    pids = [int(mark.read_text()) for mark in marks]
    wait_for(lambda: not any(is_running(pid) for pid in pids))
    assert len(os.listdir(tmp_path / "one.out")) == 1  # the job folder, which the next build removes
    beam.remove_leftovers(str(tmp_path / "one.out"))
    assert os.listdir(tmp_path / "one.out") == []


# ------------------------------------------------------------------------------------------ an attempt


def job_of(tmp_path, tasks):
    job = beam._Job(tmp_path / "job", len(tasks))
    job.write_tasks(tasks)
    return job


def attempt(job, function):
    return beam._attempt(0, job, function, versions, versions())


def test_an_attempt_after_a_failed_one_counts(tmp_path):
    job = job_of(tmp_path, [str(tmp_path / "mark")])
    with pytest.raises(OSError, match="the network was away"):
        attempt(job, fail_the_first_time)
    assert job.errors({0}) == ["the network was away"]
    assert job.new_receipts({0}) == []
    attempt(job, fail_the_first_time)
    assert job.new_receipts({0}) == [(0, {"result": {"task": 7, "pid": os.getpid()}, "images": 3})]


def test_an_attempt_for_a_build_that_has_ended_does_and_leaves_nothing(tmp_path):
    job = job_of(tmp_path, [1])
    beam.remove_leftovers(str(tmp_path))  # not ours: another name
    assert job.folder.exists()
    job.path(0, "task").unlink()
    with pytest.raises(beam.StoppedError):
        attempt(job, three_images)
    assert os.listdir(job.folder) == []


def test_a_task_stops_when_its_build_ends(tmp_path):
    job = job_of(tmp_path, [1])

    def end_in_between(task, count):
        count(1)
        job.path(0, "task").unlink()
        while True:
            time.sleep(0.05)
            count(1)

    with pytest.raises(beam.StoppedError):
        attempt(job, end_in_between)
    assert os.listdir(job.folder) == []


def test_a_receipt_survives_json(tmp_path):
    result = shards.ShardResult(
        "train00-1.tfrec", "train", 0, 1, 0, 1, 9, "ab" * 32, (shards.Quarantined("a", "b", "ü"),)
    )
    assert shards.ShardResult.from_json(json.loads(json.dumps(dataclasses.asdict(result)))) == result


# ------------------------------------------------------------------------------------------ bad input


@needs_beam
def test_a_misspelt_option_is_named(tmp_path):
    with pytest.raises(beam.BeamError, match=r"DirectRunner has no --direct_workers; expected e\.g\."):
        list(run(three_images, [1], tmp_path, ["--direct_workers=2"]))
    with pytest.raises(beam.BeamError, match="rejected by Apache Beam"):
        beam.check("DirectRunner", ["--direct_running_mode=threads"])
    beam.check("DirectRunner", PROCESSES)


@needs_beam
def test_an_unknown_runner_is_named(tmp_path):
    with pytest.raises(beam.BeamError, match="NoSuchRunner"):
        list(run(three_images, [1], tmp_path, runner="NoSuchRunner"))


@needs_beam
def test_an_unknown_runner_costs_no_build_that_is_there(data, tmp_path):
    build.build(settings(data, tmp_path))
    before = contents(tmp_path)
    with pytest.raises(beam.BeamError, match="--runner NoSuchRunner: .* Valid values are"):
        build.build(settings(data, tmp_path, overwrite=True, runner="NoSuchRunner"))
    assert contents(tmp_path) == before


@needs_beam
def test_a_worker_with_other_versions_refuses(tmp_path):
    with pytest.raises(beam.BeamError, match=r"a worker has pid [0-9]+ instead of [0-9]+, which may change the bytes"):
        list(run(three_images, [1, 2], tmp_path, PROCESSES, versions=versions_of_each_process))


def test_without_apache_beam_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(beam.BeamError, match=r"pip install 'melanoma-tf\[beam\]'"):
        list(run(three_images, [1], tmp_path))
    assert os.listdir(tmp_path) == []


def test_apache_beam_is_not_imported_before_it_is_used():
    code = "import sys; from tfrecord_tools.builder import beam; print('apache_beam' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "False\n"
