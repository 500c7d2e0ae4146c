"""Input pipeline: every record once, in an order that depends on (seed, epoch, step) only."""

from __future__ import annotations

import io
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import open_data
from melanoma_tf.training import run_dir
from tfrecord_tools import schema
from tfrecord_tools.records import tfrecord


@pytest.fixture(scope="module")
def dataset(shards):
    return open_data(str(shards))


def batches(dataset, *, epoch=0, skip=0, seed=0, size=32):
    return list(
        pipeline.train_batches(
            dataset.others(0), batch_size=8, image_size=size, seed=seed, epoch=epoch, skip_steps=skip, buffer=16
        ).as_numpy_iterator()
    )


def pixels(found):
    return [image.tobytes() for features, _ in found for image in features["image"]]


def test_an_epoch_has_only_full_batches_of_different_images(dataset):
    found = batches(dataset)
    assert len(found) == pipeline.count(dataset.others(0)) // 8
    assert len(set(pixels(found))) == len(pixels(found))


def test_order_is_a_function_of_seed_and_epoch(dataset):
    assert pixels(batches(dataset)) == pixels(batches(dataset))
    for other in (batches(dataset, epoch=1), batches(dataset, seed=1)):
        assert pixels(other) != pixels(batches(dataset))


def test_shards_are_read_from_any_file_system_of_tensorflow(shards, dataset):
    """ram:// stands in for gs://, which is no local path either."""
    remote = "ram://build"
    for file in shards.iterdir():
        if file.is_file():
            tf.io.gfile.makedirs(remote)
            tf.io.gfile.copy(str(file), f"{remote}/{file.name}", overwrite=True)
    found = open_data(remote)
    assert [shard.path.startswith("ram://") for shard in found.train] == [True] * len(found.train)
    assert pixels(batches(found)) == pixels(batches(dataset))
    assert run_dir.data_sha256(remote) == run_dir.data_sha256(str(shards))
    with pytest.raises(pipeline.DataError, match="ram://elsewhere/manifest.json: No such file or directory"):
        open_data("ram://elsewhere")


def test_order_does_not_depend_on_tensorflows_global_seed(dataset):
    tf.random.set_seed(1)
    one = pixels(batches(dataset))
    tf.random.set_seed(2)
    assert pixels(batches(dataset)) == one


def test_skipping_steps_lands_on_the_same_batches(dataset):
    whole, rest = batches(dataset, epoch=2), batches(dataset, epoch=2, skip=3)
    assert len(rest) == len(whole) - 3
    for (features, target), (expected, expected_target) in zip(rest, whole[3:], strict=True):
        np.testing.assert_array_equal(features["image"], expected["image"])
        np.testing.assert_array_equal(features["seed"], expected["seed"])
        np.testing.assert_array_equal(target, expected_target)


def test_an_image_keeps_its_seed_within_an_epoch_only(dataset):
    def seed_of_images(found):
        return {i.tobytes(): s for f, _ in found for i, s in zip(f["image"], f["seed"], strict=True)}

    # Another buffer size gives another order.
    first = seed_of_images(batches(dataset))
    other_order = pipeline.train_batches(
        dataset.others(0), batch_size=4, image_size=32, seed=0, epoch=0, skip_steps=0, buffer=64
    )
    again = seed_of_images(other_order.as_numpy_iterator())
    shared = first.keys() & again.keys()
    assert len(shared) > 40
    assert all(first[key] == again[key] for key in shared)
    next_epoch = seed_of_images(batches(dataset, epoch=1))
    assert not any(first[key] == next_epoch[key] for key in first.keys() & next_epoch.keys())
    assert len(set(first.values())) == len(first)


def test_evaluation_sees_every_record_once_and_in_the_tables_order(dataset):
    held_out = dataset.train
    table = pipeline.read_metadata(held_out)
    images = np.concatenate([b["image"] for b in pipeline.eval_batches(held_out, batch_size=7, image_size=32)])
    assert len(images) % 7 == 0
    records = {r.image_name: r for s in held_out for r in map(schema.decode, tfrecord.read_records(s.path))}
    assert sorted(table["image_name"]) == sorted(records)
    for row, image in zip(table.itertuples(), images, strict=False):
        record = records[str(row.image_name)]
        assert (row.target, row.fold, row.patient_id) == (record.target, record.fold, record.patient)
        expected = np.asarray(Image.open(io.BytesIO(record.image)))
        # Pillow and TensorFlow carry different builds of libjpeg-turbo.
        assert np.abs(image.astype(int) - expected).max() <= 2
    assert not images[len(table) :].any()


def test_folds_are_disjoint_and_together_everything(dataset):
    for fold in range(dataset.folds):
        train, held_out = set(dataset.others(fold)), set(dataset.fold(fold))
        assert not train & held_out
        assert train | held_out == set(dataset.train)
        assert not set(pipeline.read_metadata([*train])["patient_id"]) & set(
            pipeline.read_metadata([*held_out])["patient_id"]
        )


def test_other_sizes_are_resampled_like_pillow_does(dataset):
    half = np.concatenate([f["image"] for f, _ in batches(dataset, size=16)])
    whole = np.concatenate([f["image"] for f, _ in batches(dataset)])
    assert half.shape[1:] == (16, 16, 3)
    expected = np.stack([np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BILINEAR)) for x in whole])
    assert np.abs(half.astype(int) - expected).max() <= 2


def copy_of(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def test_a_flipped_byte_is_named_with_shard_and_record(shards, tmp_path):
    folder = copy_of(shards, tmp_path)
    dataset = open_data(str(folder))
    victim = dataset.train[1].path
    lengths = [len(record) + 16 for record in tfrecord.read_records(victim)]
    content = bytearray((folder / victim).read_bytes())
    content[sum(lengths[:2]) + 200] ^= 1
    (folder / victim).write_bytes(content)
    with (
        pytest.raises(pipeline.DataError, match=f"{victim}: record 2: .*checksum"),
        pipeline.name_damaged_shard(dataset.train),
    ):
        list(pipeline.eval_batches(dataset.train, batch_size=8, image_size=32))


def test_errors_that_are_not_the_shards_pass_through(dataset):
    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"), pipeline.name_damaged_shard(dataset.train):
        raise tf.errors.InvalidArgumentError(None, None, "mine")


def test_a_folder_that_is_no_finished_build_is_refused(shards, tmp_path):
    with pytest.raises(
        pipeline.DataError, match=r"manifest.json: No such file or directory; expected the folder of a finished build"
    ):
        open_data(str(tmp_path))
    folder = copy_of(shards, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(pipeline.DataError, match="unfinished build; finish it with .*--resume"):
        open_data(str(folder))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(pipeline.DataError, match="schema_version 99; this version reads"):
        open_data(str(folder))
    for text, reason in (
        ('{"name": "a web app"}', ": not a manifest: "),
        ('{"sche', ": not a manifest: "),
        (
            json.dumps({**manifest, "settings": {"size": "32", "folds": 5}}),
            ": settings: size '32', folds 5; expected whole",
        ),
        (json.dumps({**manifest, "settings": {}}), ": settings: size None, folds None; expected whole numbers"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(pipeline.DataError, match=f"manifest.json{reason}"):
            open_data(str(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / manifest["shards"][0]["name"]).unlink()
    with pytest.raises(
        pipeline.DataError, match=f"{manifest['shards'][0]['name']} is missing or not [0-9]+ bytes long"
    ):
        open_data(str(folder))


@pytest.mark.parametrize("name", ["../victim", "/etc/passwd", "manifest.json"])
def test_only_shards_of_the_folder_are_opened(shards, tmp_path, name):
    folder = copy_of(shards, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(pipeline.DataError, match=f"manifest.json: .*'{name}' is not allowed as a file name"):
        open_data(str(folder))


def test_a_shard_that_is_a_link_to_elsewhere_is_refused(shards, tmp_path):
    folder = copy_of(shards, tmp_path)
    shard = next(folder.glob("*.tfrec"))
    shutil.move(shard, tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(pipeline.DataError, match=f"{shard} is a link to {tmp_path / 'elsewhere'}, outside its folder"):
        open_data(str(folder))


def test_a_pipe_in_the_place_of_a_shard_is_not_opened(shards, tmp_path):
    folder = copy_of(shards, tmp_path)
    shard = next(folder.glob("*.tfrec"))
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(pipeline.DataError, match=f"{shard} is missing or not"):
        open_data(str(folder))
