import dataclasses
import errno
import functools
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from tests.support.builds import NO_IMAGE
from tfrecord_tools import schema
from tfrecord_tools.core import paths
from tfrecord_tools.imaging import convert
from tfrecord_tools.records import shards, tfrecord


@pytest.fixture
def task(tmp_path):
    """Three images, of which the second is missing."""
    sources = []
    for index in range(3):
        name = f"ISIC_{index}"
        path = tmp_path / f"{name}.jpg"
        Image.new("RGB", (80, 60), (200, 90 * index, 50)).save(path)
        found = None if index == 1 else str(path)
        patient = f"IP_{index}"
        target = int(index == 2)
        sources.append(shards.Source(name, path.name, found, patient, "", patient, 0, 50, 3, 1, target, "isic2020"))
    out = tmp_path / "out"
    out.mkdir()
    converter = functools.partial(convert.convert_sizes, sizes=(32,), quality=95)
    return shards.ShardTask("train07", "train", 2, (str(out),), converter, tuple(sources))


def test_a_shard_holds_its_images_under_a_name_with_their_count(task, tmp_path):
    (result,) = shards.write_shard(task).results
    path = tmp_path / "out" / "train07-2.tfrec"
    assert os.listdir(tmp_path / "out") == [path.name] == [result.name]
    first, second = map(schema.decode, tfrecord.read_records(path))
    assert (first.image_name, first.patient, first.fold, first.width, first.height) == ("ISIC_0", "IP_0", 2, 80, 60)
    assert (second.image_name, second.target, second.source) == ("ISIC_2", 1, "isic2020")
    assert first.sha256.hex() == shards.file_sha256(tmp_path / "ISIC_0.jpg")
    assert convert.decode(second.image).getpixel((16, 16)) == pytest.approx((200, 180, 50), abs=4)
    assert (result.records, result.positives, result.patients, result.bytes) == (2, 1, 2, path.stat().st_size)
    assert result.quarantined == (shards.Quarantined("ISIC_1", "ISIC_1.jpg", "file is missing"),)


def test_an_image_that_cannot_be_used_is_quarantined_with_the_reason(task, tmp_path):
    (tmp_path / "ISIC_0.jpg").write_bytes(b"<html>")
    (tmp_path / "ISIC_2.jpg").unlink()
    (result,) = shards.write_shard(task).results
    assert result.records == 0
    assert [found.reason for found in result.quarantined] == [
        NO_IMAGE,
        "file is missing",
        "cannot be read: No such file or directory",
    ]


def test_a_full_disk_leaves_no_file_and_names_the_shard_and_the_free_space(task, tmp_path, monkeypatch):
    written: list[None] = []
    real = tfrecord.write_record

    def full(file, data):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(real(file, data))

    monkeypatch.setattr(tfrecord, "write_record", full)
    with pytest.raises(
        shards.ShardError, match=r"cannot write shard train07: No space left on device \(\d+ MB free\); .*--resume"
    ):
        shards.write_shard(task)
    assert written
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("operation", ["open", "write", "commit"])
@pytest.mark.parametrize("full", [0, 1, 2])
def test_of_several_folders_the_full_one_is_named_with_its_free_space(task, tmp_path, monkeypatch, operation, full):
    folders = [tmp_path / name for name in ("small", "middle", "large")]
    for folder in folders:
        folder.mkdir()
    real_write, real_open, real_commit = tfrecord.write_record, Path.open, paths.commit

    def fail(path):
        if Path(path).parent == folders[full]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(file, data):
        fail(file.name)
        real_write(file, data)

    def opened(path, mode="r", *args, **options):
        if "w" in mode:
            fail(path)
        return real_open(path, mode, *args, **options)

    def commit(source, final):
        fail(final)
        real_commit(source, final)

    monkeypatch.setattr(paths, "free_bytes", lambda folder: 7_000_000 if folder == folders[full] else 10**12)
    if operation == "write":
        monkeypatch.setattr(tfrecord, "write_record", write)
    elif operation == "open":
        monkeypatch.setattr(Path, "open", opened)
    else:
        monkeypatch.setattr(paths, "commit", commit)
    converter = functools.partial(convert.convert_sizes, sizes=(32, 40, 48), quality=95)
    several = dataclasses.replace(task, folders=tuple(map(str, folders)), convert=converter)
    with pytest.raises(shards.ShardError) as caught:
        shards.write_shard(several)
    reason = "cannot write shard train07: No space left on device (7 MB free)"
    assert str(caught.value).startswith(f"{folders[full]}: {reason}; the finished shards are kept")
    assert os.listdir(folders[full]) == []


def test_a_shard_that_does_not_read_back_is_not_committed(task, tmp_path, monkeypatch):
    real = tfrecord.write_record

    def flipping(file, data):
        real(file, data)
        file.seek(-20, os.SEEK_CUR)
        file.write(b"\0")
        file.seek(0, os.SEEK_END)

    monkeypatch.setattr(tfrecord, "write_record", flipping)
    with pytest.raises(shards.ShardError, match="train07 does not read back as written: the checksum of its data"):
        shards.write_shard(task)
    assert os.listdir(tmp_path / "out") == []


def test_stopping_leaves_no_file(task, tmp_path):
    def stop(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(task, stop)
    assert os.listdir(tmp_path / "out") == []


def test_tasks_and_results_cross_process_borders(task):
    assert pickle.loads(pickle.dumps(task)).sources == task.sources
    result = shards.write_shard(task)
    assert pickle.loads(pickle.dumps(result)) == result


def greedy(data):
    """A converter for which one image is too large."""
    if b"JFIF" in data:
        raise MemoryError
    return [data], 1, 1


def test_an_image_that_needs_too_much_memory_is_quarantined(task):
    (result,) = shards.write_shard(dataclasses.replace(task, convert=greedy)).results
    assert [found.reason for found in result.quarantined] == [
        "needs more memory than there is",
        "file is missing",
        "needs more memory than there is",
    ]


def test_an_image_is_announced_before_it_is_converted_and_counted_after_it(task):
    calls: list[int] = []
    shards.write_shard(task, calls.append)
    assert calls == [0, 1] * 3


def test_an_image_that_is_known_to_be_unusable_is_not_read(task):
    marked = task.without(0, "took too long")
    (result,) = shards.write_shard(marked).results
    assert [found.reason for found in result.quarantined] == ["took too long", "file is missing"]
    assert (task.place(0), task.place(3)) == ("ISIC_0.jpg of shard train07", "shard train07")
    assert task.without(3, "no image is being converted") is None
