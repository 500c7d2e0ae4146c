"""Local paths, and TensorFlow's in-memory file system `ram://` in place of remote ones."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.process import REPOSITORY
from tfrecord_tools.core import paths


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path):
    """An empty folder, on this machine or in TensorFlow's memory."""
    made = paths.path(tmp_path if request.param == "local" else f"ram://{uuid.uuid4().hex}") / "folder"
    made.mkdir(parents=True, exist_ok=True)
    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------ both kinds


def test_a_file_reads_back_as_written(folder):
    content = bytes(range(256)) * 9000  # 2.3 MB: more than one buffer
    with (folder / "a.bin").open("wb") as file:
        file.write(content[:1000])
        file.write(content[1000:])
    path = folder / "a.bin"
    assert path.read_bytes() == content
    assert path.stat().st_size == len(content)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == hashlib.sha256(content).hexdigest()
    with path.open("rb") as file:
        assert (file.read(3), file.read(2)) == (content[:3], content[3:5])


def test_text_keeps_its_lines_as_the_csv_module_needs_them(folder):
    (folder / "a.csv").write_bytes('\ufeffimage_name,x\r\nä,"1\n2"\r\n'.encode())
    with (folder / "a.csv").open(newline="", encoding="utf-8-sig") as file:
        assert file.read() == 'image_name,x\r\nä,"1\n2"\r\n'
    assert (folder / "a.csv").read_text(encoding="utf-8-sig") == 'image_name,x\nä,"1\n2"\n'


def test_commit_replaces_the_file_and_leaves_no_other(folder):
    final = folder / "a.txt"
    final.write_bytes(b"old and longer")
    temporary = paths.temporary(final)
    with temporary.open("wb") as file:
        file.write(b"new")
        paths.sync(file)
    assert final.read_bytes() == b"old and longer"
    paths.commit(temporary, final)
    assert final.read_bytes() == b"new"
    assert names(folder) == ["a.txt"]


def test_two_attempts_never_share_a_temporary_name(folder):
    final = folder / "train00.tfrec"
    first, second = paths.temporary(final), paths.temporary(final)
    assert first != second
    assert first.parent == folder
    assert first.name.startswith(".train00.tfrec.")
    assert first.name.endswith(".tmp")


def test_existing_files_and_folders_are_listed(folder):
    assert not (folder / "a").exists()
    assert not (folder / "a").is_file()
    (folder / "a").write_bytes(b"x")
    (folder / "b").mkdir(parents=True, exist_ok=True)
    (folder / "b" / "c.txt").write_bytes(b"y")
    assert (folder / "a").exists()
    assert (folder / "a").is_file()
    assert not (folder / "a").is_dir()
    assert (folder / "b").is_dir()
    assert names(folder) == ["a", "b"]
    assert [path.name for path in (folder / "b").glob("*.txt")] == ["c.txt"]


def test_removing(folder):
    (folder / "a").write_bytes(b"x")
    (folder / "a").unlink()
    (folder / "a").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "a").unlink()
    (folder / "b").mkdir(parents=True, exist_ok=True)
    (folder / "b" / "c").write_bytes(b"y")
    paths.remove_tree(folder / "b")
    paths.remove_tree(folder / "b")
    assert names(folder) == []


def test_a_file_that_is_not_there_is_the_systems_own_error(folder):
    with pytest.raises(FileNotFoundError) as caught:
        (folder / "missing.jpg").read_bytes()
    assert caught.value.strerror == "No such file or directory"
    assert str(folder / "missing.jpg") in str(caught.value)
    with pytest.raises(FileNotFoundError):
        (folder / "missing.jpg").stat()


# ------------------------------------------------------------------------------------------ which kind


def test_a_scheme_makes_a_path_remote():
    assert isinstance(paths.path("a/b"), Path)
    assert paths.path("file:///a/b") == Path("/a/b")
    assert isinstance(paths.path("C:/a"), Path)
    for url in ("gs://bucket/a", "s3://bucket/a", "hdfs://host:9000/a"):
        assert paths.is_remote(url)
        assert str(paths.path(url)) == url
        assert paths.path(paths.path(url)) == paths.path(url)


def test_the_parts_of_a_url():
    path = paths.path("GS://bucket//a/b.tfrec")
    assert (str(path), path.name, str(path.parent)) == ("gs://bucket/a/b.tfrec", "b.tfrec", "gs://bucket/a")
    assert str(path.with_name("c")) == "gs://bucket/a/c"
    assert str(paths.path("gs://bucket/") / "x" / "y") == "gs://bucket/x/y"
    assert os.fspath(path.parent.parent) == "gs://bucket"


def test_a_scheme_that_tensorflow_does_not_know_is_named_with_those_it_knows():
    with pytest.raises(OSError, match=r"here knows file://.*ram://.*install a file system.*nosuch://a/b"):
        paths.path("nosuch://a/b").exists()


def test_storage_that_does_not_answer_is_no_missing_file(monkeypatch):
    import tensorflow as tf

    def fail(*_: object) -> None:
        raise tf.errors.UnavailableError(None, None, "503 try later")

    monkeypatch.setattr(tf.io.gfile, "exists", fail)
    with pytest.raises(paths.StorageUnavailableError, match="503 try later"):
        paths.path("gs://bucket/a").exists()


def test_sync_flushes_what_has_no_file_descriptor():
    raw = io.BytesIO()
    file = io.BufferedWriter(raw)
    file.write(b"x")
    paths.sync(file)
    assert raw.getvalue() == b"x"


def test_local_paths_need_no_tensorflow(tmp_path):
    code = (
        "import sys; from tfrecord_tools.core import paths; p = paths.path(sys.argv[1]) / 'a'; p.write_bytes(b'x'); "
        "paths.commit(p, p.with_name('b')); print('tensorflow' in sys.modules, paths.free_bytes(p.parent) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "False True\n"
    assert (tmp_path / "b").read_bytes() == b"x"


# ------------------------------------------------------------------------------------------ names from files


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "", "/etc/passwd", "a/b", "./x", "x/", "x\n", "x\0", "~", "xx", 7, None, ["x"], True],
)
def test_a_name_of_another_form_is_refused(folder, name):
    with pytest.raises(paths.UntrustedNameError, match="is not allowed as a file name; expected x"):
        paths.member(folder, name, "x")


def test_a_form_that_allows_too_much_lets_nothing_out(folder):
    for name in ("../x", "..", ".", "", "/etc/passwd", "a/b"):
        with pytest.raises(paths.UntrustedNameError):
            paths.member(folder, name, ".*")
    assert paths.member(folder, "x", ".*") == folder / "x"


def test_links_are_followed_within_the_folder_only(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "inside"  # one name begins with the other
    inside.mkdir()
    outside.mkdir()
    (outside / "x").write_text("secret")
    (inside / "y").write_text("mine")
    links = {"file": outside / "x", "relative": Path("../inside/x"), "folder": outside, "self": Path(".")}
    for name, target in links.items():
        (inside / name).symlink_to(target)
        with pytest.raises(paths.UntrustedNameError, match="is a link to .*, outside its folder"):
            paths.member(inside, name, "[a-z]+")
    (inside / "chain").symlink_to("file")
    with pytest.raises(paths.UntrustedNameError, match=f"is a link to {outside / 'x'}, outside"):
        paths.member(inside, "chain", "[a-z]+")
    (inside / "own").symlink_to("y")
    assert paths.member(inside, "own", "[a-z]+").read_text() == "mine"
    (tmp_path / "alias").symlink_to(inside)  # the folder itself may be reached through a link
    assert paths.member(tmp_path / "alias", "y", "[a-z]+").read_text() == "mine"


def test_a_remote_file_has_size_and_time(tmp_path):
    remote = paths.path(f"ram://{uuid.uuid4().hex}") / "x"
    remote.write_bytes(b"12345")
    assert remote.stat().st_size == 5
    assert remote.stat().st_mtime_ns >= 0
