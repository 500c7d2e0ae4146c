"""What a build says, and what it says before it touches a folder."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.builds import command, contents, settings
from tests.support.process import descendants, is_running, wait_for
from tfrecord_tools import build
from tfrecord_tools.records import tfrecord

pytestmark = pytest.mark.integration


def test_a_resumed_build_tells_what_it_made_itself(data, finished, tmp_path):
    for name, content in contents(finished).items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(command(data, tmp_path, "--resume"), capture_output=True, text=True)
    assert f"{tmp_path}: 48 images at 32 x 32, 0 quarantined, all of them made before\n" in done.stdout
    assert done.stderr == ""
    gone = next(tmp_path.glob("train*.tfrec"))
    gone.unlink()
    done = subprocess.run(command(data, tmp_path, "--resume"), capture_output=True, text=True)
    assert f"0 quarantined, {tfrecord.shard_count(gone)} of them made now: " in done.stdout
    assert "python -m melanoma_tf.train --data" in done.stdout


def test_a_labelled_table_as_a_test_set_is_reported(data, tmp_path, capsys):
    manifest = build.build(settings(data, tmp_path / "out", split="test"))
    assert {entry.split for entry in manifest.shards} == {"test"}
    assert f"note: {data / 'train.csv'}: --split test leaves out its targets" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("patient_id=,lesion_id=", "no image names a patient: folded by image, so two folds may share a patient"),
        ("patient_id=,lesion_id=patient_id", "no image names a patient: folded by lesion, so two folds may share"),
    ],
)
def test_folds_without_patients_are_warned_of(data, tmp_path, capsys, columns, message):
    build.build(settings(data, tmp_path / "out", columns=columns))
    assert f"warning: {data / 'train.csv'}: {message}" in capsys.readouterr().out


def test_a_pattern_that_the_shell_took_apart_is_explained(data, tmp_path):
    done = subprocess.run(command(data, tmp_path / "out", "old/b.tfrec"), capture_output=True, text=True)
    hint = "put a pattern in quotes: --from_tfrecords 'old/*.tfrec'"
    assert (done.returncode, done.stderr) == (2, f"error: unexpected argument 'old/b.tfrec'; {hint}\n")
    done = subprocess.run(command(data, tmp_path / "out", "b.csv"), capture_output=True, text=True)
    assert done.stderr == "error: unexpected argument 'b.csv'; several tables are --csv a.csv,b.csv\n"
    done = subprocess.run(command(data, tmp_path / "out", "resume"), capture_output=True, text=True)
    assert done.stderr == "error: unexpected argument 'resume'; see --help\n"


# -------------------------------------------------------------------------------------------- the folder


def test_an_out_that_cannot_be_made_is_named(data, tmp_path):
    with pytest.raises(build.BuildError, match="/proc/nowhere/out: cannot be made: .*; choose another --out"):
        build.build(settings(data, "/proc/nowhere/out"))


@pytest.mark.parametrize(("module", "function"), [(Path, "exists"), (os, "open"), (Path, "iterdir")])
def test_an_out_that_cannot_be_looked_at_is_named_and_no_resume_proposed(data, tmp_path, monkeypatch, module, function):
    out = tmp_path / "out"
    out.mkdir()
    real = getattr(module, function)

    def denied(path, *args, **options):
        if path == out:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(module, function, denied)
    with pytest.raises(build.BuildError, match="out: cannot be read: Permission denied; choose another --out"):
        build.build(settings(data, out))


@pytest.mark.parametrize(
    "flag",
    ["out", "csv", *(pytest.param(flag, marks=pytest.mark.slow) for flag in ("images", "from_tfrecords", "against"))],
)
def test_a_url_that_cannot_be_reached_is_named_and_no_resume_proposed(data, tmp_path, flag):
    args = command(data, tmp_path / "out")
    if flag == "from_tfrecords":
        args = [*args[:3], "--size=32", f"--out={tmp_path / 'out'}"]
    done = subprocess.run([*args, f"--{flag}=nosuch://bucket/a"], capture_output=True, text=True)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("error: ")
    assert "nosuch://bucket/a" in message
    if flag != "images":  # of a folder to be listed TensorFlow says only that it is not there
        assert "install a file system for it or mount the storage" in message
    assert "Traceback" not in done.stderr
    assert "go on with --resume" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_builds_in_one_folder_at_once_are_refused(data, finished, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(data, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: (out / "manifest.json").exists() or process.poll() is not None)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGSTOP)
    before = contents(out)
    for changes in ({}, {"resume": True}, {"overwrite": True}):
        running = rf"out: another build is running here \(process {process.pid} on .+\); wait for it, or choose"
        with pytest.raises(build.BuildError, match=running):
            build.build(settings(data, out, **changes))
    assert {name for name in contents(out) if not name.startswith(".")} >= {n for n in before if not n.startswith(".")}
    workers = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(map(is_running, workers)))
    assert (out / ".lock").exists()  # only a note of the process that held it
    build.build(settings(data, out, resume=True))
    assert contents(out) == contents(finished)


@pytest.mark.parametrize("damage", ["{", "{}", '{"schema_version": 1}', "[1]", '{"schema_version": 9}'])
def test_a_damaged_manifest_is_reported_and_overwritten_if_asked(data, finished, tmp_path, damage):
    out = tmp_path / "out"
    build.build(settings(data, out, shards=40, size=40))
    (out / "manifest.json").write_text(damage)
    before = contents(out)
    for changes in ({}, {"resume": True}):
        with pytest.raises(build.BuildError, match=r"manifest\.json: .*; --overwrite replaces the build"):
            build.build(settings(data, out, **changes))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(build.BuildError, match=r"refusing to overwrite .*out: notes\.txt was not written"):
        build.build(settings(data, out, overwrite=True))
    (out / "notes.txt").unlink()
    assert contents(out) == before
    build.build(settings(data, out, overwrite=True))
    assert contents(out) == contents(finished)
