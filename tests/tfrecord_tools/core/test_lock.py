"""Locks against real other processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.process import REPOSITORY
from tfrecord_tools.core import lock

HOLD = """
import pathlib, sys, time
from tfrecord_tools.core import lock
with lock.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_learns_who_is_first(tmp_path, holder):
    with pytest.raises(lock.LockedError) as caught, lock.locked(tmp_path):
        pass
    assert str(caught.value) == f"process {holder.pid} on {socket.gethostname()}"
    assert (tmp_path / lock.NOTE).exists()
    holder.communicate("\n")
    assert list(tmp_path.iterdir()) == []
    with lock.locked(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / lock.NOTE).read_text()


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.NOTE).exists()
    with lock.locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / lock.NOTE).symlink_to(tmp_path / "victim")
    with lock.locked(folder):
        assert not (folder / lock.NOTE).is_symlink()
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("note", ["", "\x1b[2J\x07", None])
def test_a_note_that_says_nothing_is_not_repeated(tmp_path, holder, note):
    (tmp_path / lock.NOTE).unlink()
    if note is not None:
        (tmp_path / lock.NOTE).write_text(note)
    with pytest.raises(lock.LockedError, match="^another process$"), lock.locked(tmp_path):
        time.sleep(0)
