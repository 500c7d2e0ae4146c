"""TFRecords as other writers make them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.images import SKIN, flat_jpeg
from tfrecord_tools.builder.settings import BuildSettings
from tfrecord_tools.records import tfrecord

# The words of the codes in `values`, in the order of Kaggle's train.csv.
KAGGLE_CODES = (
    "sex=male|female,anatom_site_general_challenge=head/neck|upper extremity|lower extremity|torso|palms/soles,"
    "diagnosis=unknown|nevus|melanoma"
)


def values(name: str = "ISIC_1", **changes) -> dict[str, Any]:
    kaggle = {
        "image": SKIN,
        "image_name": name.encode(),
        "patient_id": 7,
        "sex": 1,
        "age_approx": 45,
        "anatom_site_general_challenge": 3,
        "diagnosis": 2,
        "target": 1,
    }
    return {key: value for key, value in {**kaggle, **changes}.items() if value is not ...}


def example(features: Mapping[str, Any]) -> bytes:
    """As TensorFlow writes it; a reference independent of our encoder."""
    import tensorflow as tf

    message = tf.train.Example()
    for key, value in features.items():
        feature = message.features.feature[key]
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bytes):
                feature.bytes_list.value.append(each)
            elif isinstance(each, float):
                feature.float_list.value.append(each)
            else:
                feature.int64_list.value.append(each)
    return message.SerializeToString()


def shard(folder: Path, *records: Mapping[str, Any], name: str = "") -> Path:
    path = folder / (name or f"train00-{len(records)}.tfrec")
    with path.open("wb") as file:
        for record in records:
            tfrecord.write_record(file, example(record))
    return path


def patients(count, **changes):
    """Records of as many patients, one image each, every fourth malignant."""
    colors = np.random.default_rng(0).integers(20, 120, (count, 2)).tolist()
    return [
        values(
            f"ISIC_{n}",
            image=flat_jpeg(200, green, blue, size=(96, 80)),
            patient_id=n,
            diagnosis=2 if n % 4 == 0 else 1,
            target=int(n % 4 == 0),
            **changes,
        )
        for n, (green, blue) in enumerate(colors)
    ]


def foreign_settings(pattern, out, **changes):
    """Settings of a build of foreign TFRecords; changes: flags by name."""
    return BuildSettings.of(**{"size": 32, "out": str(out), "from_tfrecords": str(pattern), **changes})
