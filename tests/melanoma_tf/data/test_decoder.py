"""Decoding of batches: TensorFlow's samples to the bit, in memory that is reused only when it is free."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from melanoma_tf.data import decoder, pipeline
from melanoma_tf.data.dataset import open_data

SIZE = 48


def jpeg(seed, size=SIZE, mode="RGB", **options):
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((size, size)).convert(mode).save(out, "JPEG", **{"quality": 95, **options})
    return out.getvalue()


def batch(*jpegs):
    return np.array(jpegs, dtype=object)


def of_tensorflow(jpegs):
    return np.stack([tf.io.decode_jpeg(each, 3, dct_method="INTEGER_ACCURATE").numpy() for each in jpegs])


def refuse(*_, **__):
    raise ValueError("unsupported")


@pytest.mark.parametrize("refused", [False, True])
def test_pixels_are_tensorflows(monkeypatch, refused):
    if refused:  # then TensorFlow decodes
        monkeypatch.setattr(decoder.simplejpeg, "decode_jpeg", refuse)
    options: list[dict[str, Any]] = [
        {},
        {"subsampling": "4:4:4"},
        {"optimize": True},
        {"progressive": True},
        {"mode": "L"},
    ]
    jpegs = batch(*(jpeg(seed, **options[seed % 5]) for seed in range(21)))  # several shares, the last one partial
    np.testing.assert_array_equal(decoder.Decoder(SIZE)(jpegs), of_tensorflow(jpegs))


def test_an_empty_batch_stays_empty():
    """A host's share of the last batch can be all padding."""
    assert decoder.Decoder(SIZE)(batch()).shape == (0, SIZE, SIZE, 3)


def test_images_of_another_size_are_resampled():
    large = jpeg(1, size=2 * SIZE)
    found = decoder.Decoder(SIZE)(batch(jpeg(0), large, jpeg(2)))
    np.testing.assert_array_equal(found[::2], of_tensorflow([jpeg(0), jpeg(2)]))
    expected = np.asarray(Image.open(io.BytesIO(large)).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.abs(found[1].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("broken", [b"", b"no image", jpeg(0)[:300]])
def test_bytes_that_are_no_image_are_an_error(broken):
    jpegs = batch(jpeg(0), broken)
    with pytest.raises(ValueError, match="not an image: "):
        decoder.Decoder(SIZE)(jpegs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not an image: "):
        tf.function(decoder.Decoder(SIZE).graph)(tf.constant(jpegs))


def test_memory_is_reused_once_nothing_references_it():
    decode = decoder.Decoder(SIZE)
    first, second = (decode(batch(jpeg(seed))) for seed in (0, 1))
    part, place = first[0, :3], second.ctypes.data
    np.testing.assert_array_equal(first, of_tensorflow([jpeg(0)]))
    del first, second  # a view of the first is left
    third = decode(batch(jpeg(2)))
    fourth = decode(batch(jpeg(3)))
    assert third.ctypes.data == place
    np.testing.assert_array_equal(part, of_tensorflow([jpeg(0)])[0, :3])
    np.testing.assert_array_equal(third, of_tensorflow([jpeg(2)]))
    np.testing.assert_array_equal(fourth, of_tensorflow([jpeg(3)]))


def test_tensorflow_takes_the_memory_without_a_copy_and_keeps_it():
    decode = tf.function(decoder.Decoder(SIZE).graph)

    def place(tensor):
        return np.from_dlpack(tensor).ctypes.data

    held = [decode(tf.constant([jpeg(seed)])) for seed in range(3)]
    places = {place(tensor) for tensor in held}
    assert len(places) == 3
    for seed, tensor in enumerate(held):
        np.testing.assert_array_equal(tensor, of_tensorflow([jpeg(seed)]))
    del held, tensor
    again = [decode(tf.constant([jpeg(seed)])) for seed in range(3, 6)]
    assert {place(tensor) for tensor in again} & places
    for seed, tensor in enumerate(again, 3):
        np.testing.assert_array_equal(tensor, of_tensorflow([jpeg(seed)]))


@pytest.mark.integration
def test_epochs_leave_neither_threads_nor_memory_behind(shards):
    dataset = open_data(str(shards))
    size = 24  # unique, so that no other test shares the decoder

    def threads():
        return {thread for thread in threading.enumerate() if thread.name.startswith("decoder")}

    def train(epoch, steps):
        batches = pipeline.train_batches(
            dataset.train, batch_size=8, image_size=size, seed=0, epoch=epoch, skip_steps=0, buffer=16
        )
        for _ in batches.take(steps):
            pass

    train(0, 9)
    before = threads()
    for epoch in range(1, 5):
        train(epoch, 9 if epoch % 2 else 3)  # every other one is abandoned
    assert threads() <= before
    # Prefetched batches, batches being decoded, and as many of an abandoned iterator.
    assert 0 < len(decoder.of_size(size)._free) <= 2 * (pipeline.PREFETCHED + pipeline._BATCHERS + 2)
