"""Shards that were changed after they were built, in ways that no checksum of a record shows."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import time
import uuid

import pytest
import tensorflow as tf

from melanoma_tf.data import integrity, pipeline
from melanoma_tf.data.dataset import open_data
from tfrecord_tools import schema
from tfrecord_tools.records import tfrecord


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "melanoma_tf" / "shards.json"


@pytest.fixture
def build(shards, tmp_path):
    """A copy of the build that a test may change, with shards of an earlier day."""
    folder = shutil.copytree(shards, tmp_path / "build")
    for path in folder.iterdir():
        os.utime(path, (time.time() - 1e5,) * 2)
    return folder


def check(folder):
    return integrity.check(open_data(str(folder)).train)


def flip_targets(path):
    """Turns all labels of a shard over; its size and the validity of its checksums stay."""
    records = [schema.decode(data) for data in tfrecord.read_records(path)]
    with path.open("wb") as file:
        for record in records:
            tfrecord.write_record(file, schema.encode(dataclasses.replace(record, target=1 - record.target)))


def swap_records(path):
    """Exchanges the first two records of a shard."""
    first, second, *others = tfrecord.read_records(path)
    with path.open("wb") as file:
        for record in (second, first, *others):
            tfrecord.write_record(file, record)


def test_a_sound_build_is_said_in_one_line(build):
    line = check(build)
    size = sum(path.stat().st_size for path in build.glob("*.tfrec")) / 1e6
    assert line.startswith(f"data: 5 shards as in the manifest (SHA-256 of {size:.1f} MB, ")
    assert "\n" not in line


@pytest.mark.parametrize("change", [flip_targets, swap_records])
def test_a_changed_shard_is_named_though_its_records_are_sound(build, change):
    victim = sorted(build.glob("train*.tfrec"))[2]
    size = victim.stat().st_size
    change(victim)
    assert victim.stat().st_size == size
    with pytest.raises(
        pipeline.DataError, match=f"{victim} was changed after it was built: its SHA-256 is [0-9a-f]+, "
    ):
        check(build)


def test_a_damaged_shard_is_named_with_its_record(build):
    victim = sorted(build.glob("train*.tfrec"))[1]
    content = bytearray(victim.read_bytes())
    content[200] ^= 1
    victim.write_bytes(content)
    with pytest.raises(
        pipeline.DataError, match=f"{victim}: record 0: the checksum of its data is wrong; put the file"
    ):
        check(build)


@pytest.fixture
def settled(monkeypatch):
    """Makes files that a test has just made count as old."""
    monkeypatch.setattr(integrity, "_SETTLED_NS", 0)


def test_an_unchanged_shard_is_not_read_again(build, cache, settled, monkeypatch):
    check(build)
    monkeypatch.setattr(integrity, "file_sha256", None)  # would fail
    assert "5 shards as in the manifest, 5 of them unchanged since an earlier check (SHA-256 of 0.0 MB" in check(build)
    assert not list(build.glob(".*"))


@pytest.mark.parametrize("change", [flip_targets, swap_records])
def test_a_change_after_a_check_is_found_even_with_the_old_time(build, settled, change):
    check(build)
    victim = sorted(build.glob("train*.tfrec"))[0]
    before = victim.stat()
    change(victim)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(pipeline.DataError, match="was changed after it was built"):
        check(build)


def test_another_manifest_does_not_profit_from_the_cache(build, settled):
    check(build)
    manifest = json.loads((build / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (build / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(pipeline.DataError, match=f"manifest.json says {'0' * 64}"):
        check(build)


def test_what_was_written_just_now_is_not_cached(shards, tmp_path, cache):
    check(shutil.copytree(shards, tmp_path / "new"))  # its entry is new, whatever the time of its content
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"x": 7}', b"{", b"[" * 200_000])
def test_a_damaged_cache_is_replaced(build, cache, settled, content):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    assert "unchanged" not in check(build)
    assert "5 of them unchanged" in check(build)
    assert all(str(build) in path for path in json.loads(cache.read_text()))


def test_a_folder_that_cannot_be_written_is_only_slower(build, tmp_path, settled, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    build.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert "unchanged" not in check(build)
    assert "unchanged" not in check(build)
    build.chmod(stat.S_IRWXU)


def test_a_remote_build_is_checked_too(shards):
    """ram:// stands in for gs://."""
    remote = f"ram://{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(remote)
    for path in shards.iterdir():
        if path.is_file():
            tf.io.gfile.copy(str(path), f"{remote}/{path.name}")
    assert check(remote).startswith("data: 5 shards as in the manifest (SHA-256 of ")
    name = next(shards.glob("train02*.tfrec")).name
    copy = shards.parent / "changed"
    shutil.copy(shards / name, copy)
    flip_targets(copy)
    tf.io.gfile.remove(f"{remote}/{name}")
    tf.io.gfile.copy(str(copy), f"{remote}/{name}")
    with pytest.raises(pipeline.DataError, match=f"{remote}/{name} was changed after it was built"):
        check(remote)
