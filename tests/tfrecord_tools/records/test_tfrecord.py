import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecord_tools.records import tfrecord


def write(path: Path, *records: bytes) -> Path:
    with path.open("wb") as file:
        for data in records:
            tfrecord.write_record(file, data)
    return path


def test_shards_of_tensorflow_are_read(tmp_path):
    import tensorflow as tf

    path = tmp_path / "train00-2.tfrec"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"one")
        writer.write(b"")
    assert list(tfrecord.read_records(path)) == [b"one", b""]


@pytest.mark.parametrize("offset", range(0, 16 + 30))
def test_any_flipped_byte_of_a_record_is_found(tmp_path, offset):
    path = write(tmp_path / "train00-3.tfrec", b"a" * 30, b"b" * 30, b"c" * 30)
    data = bytearray(path.read_bytes())
    data[46 + offset] ^= 0x10  # in the second record: 8 + 4 + 30 + 4 bytes each
    path.write_bytes(data)
    with pytest.raises(tfrecord.CorruptRecordError, match=r"train00-3\.tfrec: record 1: ") as caught:
        list(tfrecord.read_records(path))
    assert caught.value.record == 1


@pytest.mark.parametrize(
    ("byte", "found", "lost"),
    [
        (46 + 12 + 5, [b"a" * 30, b"", b"c" * 30], 0),  # in the data of record 1: the length of record 2 is not far
        (46 + 5, [b"a" * 30, b""], 2 * 46),  # in its length: where record 2 begins is not known
    ],
)
def test_a_scan_goes_on_after_a_damaged_record_if_its_length_is_sound(tmp_path, byte, found, lost):
    path = write(tmp_path / "train00-3.tfrec", b"a" * 30, b"b" * 30, b"c" * 30)
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)
    scanned = list(tfrecord.scan_records(path))
    assert [record.data for record in scanned] == found
    assert [record.at for record in scanned] == [12 + 46 * number for number in range(len(found))]
    assert [number for number, record in enumerate(scanned) if record.damage] == [1]
    assert scanned[1].lost == lost


@pytest.mark.parametrize("length", [50, 60, 91])
def test_a_cut_off_shard_is_found(tmp_path, length):
    path = write(tmp_path / "train00-2.tfrec", b"a" * 30, b"b" * 30)
    os.truncate(path, length)
    with pytest.raises(tfrecord.CorruptRecordError, match="record 1: cut off"):
        list(tfrecord.read_records(path))


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=9) | st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_examples_decode_to_what_was_encoded(features):
    features = {key.encode(errors="replace").decode(): value for key, value in features.items()}
    decoded = tfrecord.decode_example(tfrecord.encode_example(features))
    assert decoded == {key: [value] for key, value in features.items()}


def test_examples_of_tensorflow_are_decoded():
    import tensorflow as tf

    example = tf.train.Example()
    example.features.feature["ints"].int64_list.value.extend([1, -1, 2**63 - 1])
    example.features.feature["floats"].float_list.value.extend([0.5, -2.0])
    example.features.feature["bytes"].bytes_list.value.extend([b"", b"ab"])
    expected = {"ints": [1, -1, 2**63 - 1], "floats": [0.5, -2.0], "bytes": [b"", b"ab"]}
    assert tfrecord.decode_example(example.SerializeToString()) == expected


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\xff" * 11])
def test_other_bytes_are_no_example(data):
    with pytest.raises(tfrecord.ExampleError, match="not a tf.train.Example"):
        tfrecord.decode_example(data)


def test_an_error_keeps_its_parts_across_processes():
    error = pickle.loads(pickle.dumps(tfrecord.CorruptRecordError("a.tfrec", 3, "why")))
    assert (error.path, error.record, error.reason) == ("a.tfrec", 3, "why")


def test_shard_count_reads_the_file_name():
    assert tfrecord.shard_count("/a-3.b/train07-2071.tfrec") == 2071
    with pytest.raises(ValueError, match="no record count"):
        tfrecord.shard_count("train07.tfrec")
