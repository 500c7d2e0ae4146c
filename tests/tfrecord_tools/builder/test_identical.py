import hashlib
import os

import pytest

from tests.support.images import SKIN, flat_jpeg, jpeg, textured
from tfrecord_tools.builder import identical
from tfrecord_tools.imaging.index import ImageIndex, ImagesError, Located
from tfrecord_tools.records import shards


def sets(folder, **images):
    for name, data in images.items():
        (folder / f"{name}.jpg").write_bytes(data)
    names = sorted(path.stem for path in folder.iterdir())
    return identical.sets(zip(names, ImageIndex([folder]).locate(names), strict=True))


def test_sets_of_files_with_the_same_bytes(tmp_path):
    other = bytearray(SKIN)
    other[-3] ^= 1  # as long, and another image
    found = sets(tmp_path, a=SKIN, b=SKIN, c=bytes(other), d=jpeg(textured(1)), e=jpeg(textured(1)), f=SKIN)
    assert found == [("a", "b", "f"), ("d", "e")]


def test_copies_of_an_error_page_or_of_nothing_are_no_images(tmp_path):
    assert sets(tmp_path, a=b"<html>", b=b"<html>", c=b"", d=b"") == []


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_images_of_other_formats_are_compared_too(tmp_path, kind):
    textured(2).save(tmp_path / "x", kind)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").unlink()
    assert sets(tmp_path, a=data, b=data) == [("a", "b")]


def test_what_is_no_file_is_not_read(tmp_path):
    for name in ("a", "b"):
        os.mkfifo(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}0.jpg").symlink_to("/dev/zero")
        (tmp_path / f"{name}1.jpg").symlink_to(tmp_path / "nowhere")
    assert sets(tmp_path) == []


def test_files_that_are_too_large_to_be_built_are_not_read(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            with (tmp_path / folder / f"{name}.jpg").open("wb") as file:
                file.write(SKIN)
                file.truncate(200 << 30)  # sparse; to read it would take minutes
    assert sets(tmp_path / "one") == []
    with pytest.raises(ImagesError, match="image a: different bytes under this name"):
        ImageIndex([tmp_path / "one", tmp_path / "two"]).locate(["a"])


def test_only_files_of_one_size_are_read(tmp_path, monkeypatch):
    read, real = [], shards.file_sha256

    def noted(path):
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(shards, "file_sha256", noted)
    sets(tmp_path, a=SKIN, b=SKIN + b"1", c=SKIN + b"22", d=SKIN + b"33")
    assert sorted(read) == ["c.jpg", "d.jpg"]


def test_parts_of_files_are_compared_by_the_hash_that_they_have(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(SKIN + SKIN + flat_jpeg(9, 9, 9))
    digest = hashlib.sha256(SKIN).digest()
    parts = [shards.Part(0, len(SKIN), digest), shards.Part(len(SKIN), len(SKIN), digest)]
    (tmp_path / "c.jpg").write_bytes(SKIN)
    images = [(name, Located(name, str(path), part)) for name, part in zip("ab", parts, strict=True)]
    assert identical.sets([*images, ("c", Located("c.jpg", str(tmp_path / "c.jpg"))), ("d", None)]) == [("a", "b", "c")]


def test_pairs_connect_a_set_in_each_table_and_across():
    found = list(identical.pairs([("a", "b", "c", "d")], [{"b", "d"}, {"a", "c"}]))
    assert sorted(found) == [("a", "c"), ("b", "a"), ("b", "d")]
    assert list(identical.pairs([("a", "b")], [{"a", "b", "c"}])) == [("a", "b")]
