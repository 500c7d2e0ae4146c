"""What the commands of tfrecord_tools share."""

import importlib
import os
import subprocess
import sys

import pytest

from tests.support.builds import command, copy_with_links
from tests.support.process import REPOSITORY, run_command
from tfrecord_tools.records import shards

TOOLS = ("build", "verify", "show", "duplicates", "synthetic")


@pytest.mark.parametrize("name", TOOLS)
def test_help_shows_the_text_of_the_module_as_it_stands(name):
    text = str(importlib.import_module(f"tfrecord_tools.{name}").__doc__)
    assert run_command("-m", f"tfrecord_tools.{name}", "--help").stdout.startswith(text)


def run_unread(*args):
    """Runs a command of which nobody reads standard output; returns its exit code and standard error."""
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    return process.wait(), process.stderr.read()


def test_a_build_that_nobody_listens_to_is_built_all_the_same(data, tmp_path):
    assert run_unread(*command(data, tmp_path / "out")) == (0, "")
    assert shards.Manifest.read(tmp_path / "out").complete


FULL = "error: standard output cannot be written: No space left on device\n"


def run_full(*args, **environment):
    """Runs a command whose standard output is a full disk; returns its exit code and standard error."""
    with open("/dev/full", "w") as full:
        env = {**os.environ, "PYTHONUNBUFFERED": "", **environment}
        done = subprocess.run(args, stdout=full, stderr=subprocess.PIPE, text=True, env=env, cwd=REPOSITORY)
    return done.returncode, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written_is_one_line_and_stops_no_build(data, tmp_path, unbuffered):
    out = tmp_path / "out"
    assert run_full(*command(data, out), PYTHONUNBUFFERED=unbuffered) == (1, FULL)
    assert shards.Manifest.read(out).complete


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_a_build_complains_of_is_told_too(data, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    next((folder / "jpeg" / "train").iterdir()).unlink()
    code, message = run_full(*command(folder, tmp_path / "out"))
    complaint, *rest = message.splitlines(keepends=True)
    assert (code, rest) == (1, [FULL])
    assert complaint.startswith("error: 1 image could not be used, see")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", [*(f"tfrecord_tools.{tool}" for tool in TOOLS), "melanoma_tf.doctor"])
def test_help_that_cannot_be_written_is_one_line(name):
    for unbuffered in ("", "1"):
        assert run_full(sys.executable, "-m", name, "--help", PYTHONUNBUFFERED=unbuffered) == (1, FULL)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_melanoma_command_that_cannot_say_anything_says_why(unbuffered):
    code, message = run_full(sys.executable, "-m", "melanoma_tf.doctor", PYTHONUNBUFFERED=unbuffered)
    assert (code, message.splitlines(keepends=True)[-1:], message.count("error")) == (1, [FULL], 1)


def test_nobody_listening_does_not_change_the_verdict(tmp_path):
    code, message = run_unread(sys.executable, "-m", "tfrecord_tools.verify", "--json", str(tmp_path))
    assert (code, message) == (1, "")  # no manifest there
