"""Files that are no images of the folder: nothing of them is read, and nothing hangs."""

import os
import socket

import pytest

from tfrecord_tools.core import input_file


def refused(path, folder, **limits):
    with pytest.raises(input_file.RefusedFileError) as caught:
        input_file.read(path, folder, **limits)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    return made


def test_a_file_is_read_and_so_is_a_link_within_the_folder(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "a.jpg").write_bytes(b"content")
    (folder / "b.jpg").symlink_to("deep/a.jpg")
    assert input_file.read(folder / "deep" / "a.jpg", folder) == b"content"
    assert input_file.read(folder / "b.jpg", folder) == b"content"


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (folder / "a.jpg").write_bytes(b"content")
    (tmp_path / "link").symlink_to(folder)
    assert input_file.read(tmp_path / "link" / "a.jpg", tmp_path / "link") == b"content"


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "../secret", "/proc/self/environ", "../gone"])
def test_a_link_that_leaves_the_folder_is_refused_without_its_content(folder, target):
    (folder.parent / "secret").write_bytes(b"root:x:0")
    (folder / "a.jpg").symlink_to(target)
    reason = refused(folder / "a.jpg", folder)
    assert reason.startswith("a link that leaves the image folder")
    assert "root" not in reason


def test_a_link_through_another_folder_is_refused_too(folder):
    (folder.parent / "images2").mkdir()
    (folder.parent / "images2" / "a.jpg").write_bytes(b"content")
    (folder / "in").symlink_to("../images2")
    assert refused(folder / "in" / "a.jpg", folder).startswith("a link that leaves")


def test_what_is_no_regular_file_is_refused_at_once(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s.jpg"))
        assert refused(folder / "s.jpg", folder) == "a socket; expected a regular file"
    assert refused(folder / "pipe.jpg", folder) == "a pipe; expected a regular file"
    assert refused(folder / "folder.jpg", folder) == "a folder; expected an image file"
    (folder / "zero.jpg").symlink_to("/dev/zero")
    assert refused(folder / "zero.jpg", None) == "a device; expected a regular file"


def test_a_file_over_the_limit_is_refused_before_it_is_read(folder):
    with (folder / "big.jpg").open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte without a byte on the disk
    assert refused(folder / "big.jpg", folder) == "its size, 1048576 MiB, is over the limit of 256 MiB"
    (folder / "a.jpg").write_bytes(bytes(100))
    assert len(input_file.read(folder / "a.jpg", folder, max_bytes=100)) == 100
    assert "over the limit" in refused(folder / "a.jpg", folder, max_bytes=99)


def test_a_file_that_says_it_is_empty_is_read_up_to_the_limit_only():
    """Files of /proc have no size."""
    assert "over the limit" in refused(input_file.Path("/proc/self/smaps"), None, max_bytes=64)


def test_a_missing_file_is_an_os_error(folder):
    with pytest.raises(FileNotFoundError):
        input_file.read(folder / "gone.jpg", folder)
