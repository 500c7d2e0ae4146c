import contextlib
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecord_tools import schema
from tfrecord_tools.records import tfrecord


def record(**changes):
    values = {
        "image": b"\xff\xd8jpeg",
        "image_name": "ISIC_0000001",
        "patient_id": schema.stable_id("IP_1"),
        "sex": 1,
        "age_approx": 45,
        "anatom_site_general_challenge": -1,
        "patient": "IP_1",
        "width": 6000,
        "height": 4000,
        "fold": 3,
        "group": schema.stable_id("IP_1"),
        "source": "isic2020",
        "sha256": bytes(range(32)),
        "diagnosis": 2,
        "target": 1,
    }
    return schema.Record(**{**values, **changes})


@given(
    image=st.binary(min_size=1, max_size=500),
    width=st.integers(1, 2**63 - 1),
    group=st.integers(-1, 2**63 - 1),
    patient=st.text(max_size=20),
    target=st.sampled_from([-1, 0, 1]),
)
def test_decode_returns_what_was_encoded(image, width, group, patient, target):
    patient = patient.encode(errors="replace").decode()
    diagnosis = -1 if target == -1 else 2
    sample = record(image=image, width=width, group=group, patient=patient, target=target, diagnosis=diagnosis)
    assert schema.decode(schema.encode(sample)) == sample


def test_tensorflow_reads_every_key_of_an_encoded_record():
    import tensorflow as tf

    features = tf.train.Example.FromString(schema.encode(record(age_approx=-1))).features.feature
    assert features["image"].bytes_list.value[0] == b"\xff\xd8jpeg"
    assert features["patient"].bytes_list.value[0] == b"IP_1"
    assert features["sha256"].bytes_list.value[0] == bytes(range(32))
    assert features["age_approx"].int64_list.value[0] == -1
    assert features["width"].int64_list.value[0] == 6000
    assert sorted(features) == sorted(field for field in record().__dataclass_fields__)


def test_records_of_tensorflow_are_decoded():
    import tensorflow as tf

    example = tf.train.Example.FromString(schema.encode(record()))
    example.features.feature["more"].float_list.value.extend([1.0, 2.0])
    assert schema.decode(example.SerializeToString()) == record()


def test_a_kaggle_notebook_parses_our_shards(tmp_path):
    """The spec that notebooks on SIIM-ISIC 2020 carry, read through tf.data."""
    import tensorflow as tf

    kaggle = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "image_name": tf.io.FixedLenFeature([], tf.string),
        "patient_id": tf.io.FixedLenFeature([], tf.int64),
        "sex": tf.io.FixedLenFeature([], tf.int64),
        "age_approx": tf.io.FixedLenFeature([], tf.int64),
        "anatom_site_general_challenge": tf.io.FixedLenFeature([], tf.int64),
        "diagnosis": tf.io.FixedLenFeature([], tf.int64),
        "target": tf.io.FixedLenFeature([], tf.int64),
    }
    path = tmp_path / "train00-2.tfrec"
    with path.open("wb") as file:
        for each in (record(), record(target=0, diagnosis=-1)):
            tfrecord.write_record(file, schema.encode(each))
    first, second = [tf.io.parse_single_example(data, kaggle) for data in tf.data.TFRecordDataset(str(path))]
    assert first["image_name"].numpy() == b"ISIC_0000001"
    assert (first["sex"], first["age_approx"], first["anatom_site_general_challenge"]) == (1, 45, -1)
    assert (first["target"], second["target"], second["diagnosis"]) == (1, 0, -1)


def test_parse_gives_every_key_and_minus_one_for_a_missing_target():
    import tensorflow as tf

    unlabelled = schema.encode(record(target=-1, diagnosis=-1))
    assert "target" not in tf.train.Example.FromString(unlabelled).features.feature
    parsed = tf.function(schema.parse)(tf.constant(unlabelled))
    assert (parsed["target"], parsed["diagnosis"], parsed["height"]) == (-1, -1, 4000)
    assert sorted(parsed) == sorted(record().__dataclass_fields__)


def test_the_labelled_spec_requires_a_target():
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="target"):
        tf.io.parse_single_example(schema.encode(record(target=-1, diagnosis=-1)), schema.feature_spec(labelled=True))
    assert "target" not in schema.feature_spec(labelled=False)


@given(st.binary(max_size=200))
def test_noise_is_a_schema_error(data):
    with pytest.raises(schema.SchemaError):
        schema.decode(data)


@given(st.integers(0, 300), st.integers(0, 255))
def test_a_mutated_record_decodes_or_is_a_schema_error(position, value):
    data = bytearray(schema.encode(record()))
    data[position % len(data)] = value
    with contextlib.suppress(schema.SchemaError):
        assert isinstance(schema.decode(bytes(data)), schema.Record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sex": 2}, "key 'sex': 2 is not in -1..1"),
        ({"age_approx": 121}, "key 'age_approx': 121 is not in -1..120"),
        ({"target": 2}, "key 'target': 2 is not in -1..1"),
        ({"width": 0}, "key 'width': 0 is not in 1.."),
        ({"image": b""}, "key 'image': empty"),
        ({"image_name": "../x"}, "key 'image_name': '../x' does not match"),
        ({"sha256": b"ab"}, "key 'sha256': 2 bytes"),
    ],
)
def test_encode_names_the_bad_key(changes, message):
    with pytest.raises(schema.SchemaError, match=message.replace(".", r"\.")):
        schema.encode(record(**changes))


def test_decode_names_a_missing_key_and_a_wrong_type():
    import tensorflow as tf

    example = tf.train.Example.FromString(schema.encode(record()))
    del example.features.feature["fold"]
    with pytest.raises(schema.SchemaError, match="key 'fold' is missing"):
        schema.decode(example.SerializeToString())
    example.features.feature["fold"].bytes_list.value.append(b"3")
    with pytest.raises(schema.SchemaError, match=r"key 'fold': expected one int, found 1 value\(s\) of \['bytes'\]"):
        schema.decode(example.SerializeToString())


def test_stable_id_is_the_head_of_sha256():
    digest = hashlib.sha256(b"IP_7279968").hexdigest()
    assert schema.stable_id("IP_7279968") == int(digest[:16], 16) % 2**63


@pytest.mark.parametrize(
    ("column", "vocabulary"),
    [("sex", schema.SEX), ("anatom_site_general_challenge", schema.SITE), ("diagnosis", schema.DIAGNOSIS)],
)
def test_codes_equal_pandas_factorize_on_the_real_table(column, vocabulary):
    import pandas as pd

    if "MELANOMA_DATA" not in os.environ:
        pytest.skip("MELANOMA_DATA is not set: no real train.csv")
    _, words = pd.factorize(pd.read_csv(Path(os.environ["MELANOMA_DATA"]) / "isic2020_csv" / "train.csv")[column])
    assert vocabulary[: len(words)] == tuple(words)  # words of other sources come after
