"""What the commands of tfrecord_tools share."""

import importlib
import subprocess
import sys

import pytest

from tests.conftest import run_command
from tests.test_build import command
from tfrecord_tools import shards

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


def test_nobody_listening_does_not_change_the_verdict(tmp_path):
    code, message = run_unread(sys.executable, "-m", "tfrecord_tools.verify", "--json", str(tmp_path))
    assert (code, message) == (1, "")  # no manifest there
