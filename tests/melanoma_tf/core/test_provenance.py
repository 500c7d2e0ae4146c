"""What run.json says of the program that trained."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys

import pytest

from melanoma_tf.core import provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository whose commit holds a package of one file."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/a.py").write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_checkout_has_a_commit_and_is_dirty_once_a_file_of_it_changes(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "runs.csv").write_text("a result")
    assert provenance.git_state(checkout / "package") == {"commit": commit, "dirty": False}
    (checkout / "package/a.py").write_text("2")
    assert provenance.git_state(checkout / "package") == {"commit": commit, "dirty": True}


def test_an_installed_package_has_no_commit(checkout):
    """The repository around an environment is someone else's."""
    folder = checkout / "environment/site-packages/package"
    folder.mkdir(parents=True)
    assert provenance.git_state(folder) is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state(checkout / "package") is None


def test_a_session_says_when_and_with_what(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "melanoma_tf.train", "--workdir", "a b"])
    found = provenance.session(precision="float32")
    assert datetime.datetime.fromisoformat(found["date"]).utcoffset() == datetime.timedelta(0)
    assert found["command"] == "python -m melanoma_tf.train --workdir 'a b'"
    assert found["versions"]["python"] == platform.python_version()
    assert found["precision"] == "float32"
    assert found["processor"]
    assert found["cores"] >= 1


def test_the_processor_is_named_as_linux_names_it(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nprocessor\t: 1\nmodel name\t: AMD EPYC 7B13\n")
    assert provenance.processor(file) == "AMD EPYC 7B13"
    for text in ("", "processor\t: 0\nBogoMIPS\t: 50\n"):  # as on ARM
        file.write_text(text)
        assert provenance.processor(file) in (platform.processor(), platform.machine())
