"""Builds and verifications whose output cannot be written, or that nobody reads.

What every command does with its command line and its output is in tests/test_command_line.py.
"""

import os
import subprocess
import sys

import pytest

from tests.support.builds import command, copy_with_links
from tests.support.process import REPOSITORY
from tfrecord_tools.records.manifest import Manifest

FULL = "error: standard output cannot be written: No space left on device\n"
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def run_unread(*args):
    """Runs a command of which nobody reads standard output; returns its exit code and standard error."""
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    return process.wait(), process.stderr.read()


def run_full(*args):
    """Runs a command whose standard output is a full disk; returns its exit code and the errors it reports."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(args, stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False)
    # On a slow machine lines of progress come between.
    return done.returncode, [line for line in done.stderr.splitlines(keepends=True) if line.startswith("error")]


def test_a_build_that_nobody_listens_to_is_built_all_the_same(data, tmp_path):
    code, message = run_unread(*command(data, tmp_path / "out"))
    assert code == 0
    assert "error" not in message
    assert Manifest.read(tmp_path / "out").complete


@needs_full
def test_an_output_that_cannot_be_written_is_reported_and_stops_no_build(data, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    next((folder / "jpeg" / "train").iterdir()).unlink()
    code, (complaint, *rest) = run_full(*command(folder, tmp_path / "out"))
    assert (code, rest) == (1, [FULL])
    assert complaint.startswith("error: 1 image could not be used, see")
    assert Manifest.read(tmp_path / "out").complete


def test_nobody_listening_does_not_change_the_verdict(tmp_path):
    code, message = run_unread(sys.executable, "-m", "tfrecord_tools.verify", "--json", str(tmp_path))
    assert (code, message) == (1, "")  # no manifest there
