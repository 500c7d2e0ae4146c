"""Metadata as numbers beside the image; a missing value has a place of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfrecord_tools import schema

if TYPE_CHECKING:
    import pandas as pd

# Numbers that each field takes: one per word and one for a missing value, or a value and whether it is missing.
WIDTHS = {
    "sex": len(schema.SEX) + 1,
    "age": 2,
    "site": len(schema.SITE) + 1,
    # What the camera and the clinic did, not the lesion: without one pixel these two give an AUC of 0.84 on ISIC 2020.
    "image_size": 2,
    "images_per_patient": 2,
}
_KEYS = {
    "sex": ("sex",),
    "age": ("age_approx",),
    "site": ("anatom_site_general_challenge",),
    "image_size": ("width", "height"),
    "images_per_patient": ("patient",),
}


def parse(text: str) -> tuple[str, ...]:
    """The fields of `config.metadata`.

    Args:
      text: names of WIDTHS with commas between them; "" for none.

    Raises:
      ValueError: an unknown name, or one twice.
    """
    fields = tuple(word.strip() for word in text.split(",")) if text.strip() else ()
    for name in fields:
        if name not in WIDTHS:
            raise ValueError(f"config.metadata={text!r}: unknown {name!r}; expected some of: {', '.join(WIDTHS)}")
    if len(set(fields)) < len(fields):
        raise ValueError(f"config.metadata={text!r}: a name is there twice; expected each once")
    return fields


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Encodes the metadata of records.

    Attributes:
      fields: names of WIDTHS.
      images: number of images by patient, for images_per_patient.
    """

    fields: tuple[str, ...] = ()
    images: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def width(self) -> int:
        """M, the length of the vector."""
        return sum(WIDTHS[field] for field in self.fields)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of a record that `graph` needs."""
        return tuple(key for field in self.fields for key in _KEYS[field])

    def graph(self, record: Mapping[str, Any]) -> Any:
        """Encodes parsed records in a TensorFlow graph.

        Args:
          record: see `schema.parse`, int64[B] and string[B].

        Returns:
          f32[B,M]: words as one of several, the last for a missing one; age in centuries; the number of pixels and of
          images as logarithms. A number is followed by whether it is missing, and then 0.
        """
        import tensorflow as tf

        def words(codes: Any, number: int) -> Any:
            return tf.one_hot(tf.where(codes < 0, tf.cast(number, codes.dtype), codes), number + 1)

        def number(values: Any, known: Any) -> Any:
            return tf.stack([tf.where(known, values, 0.0), 1.0 - tf.cast(known, tf.float32)], axis=1)

        parts = []
        for field in self.fields:
            values = [record[key] for key in _KEYS[field]]
            if field in ("sex", "site"):
                parts.append(words(values[0], WIDTHS[field] - 1))
            elif field == "age":
                parts.append(number(tf.cast(values[0], tf.float32) / 100.0, values[0] >= 0))
            elif field == "image_size":
                pixels = tf.cast(values[0] * values[1], tf.float32)
                known = (values[0] > 0) & (values[1] > 0)
                parts.append(number(tf.math.log(tf.where(known, pixels, 1.0)) / tf.math.log(1e6), known))
            else:
                count = self._lookup().lookup(values[0])
                parts.append(number(tf.math.log(tf.cast(tf.maximum(count, 1), tf.float32)) / 4.0, count > 0))
        return tf.concat(parts, axis=1)

    def of_table(self, table: pd.DataFrame) -> Any:
        """Encodes rows with the columns of `pipeline.read_metadata`, f32[N,M]."""
        import numpy as np
        import tensorflow as tf

        codes = {"sex": schema.SEX, "anatom_site_general_challenge": schema.SITE}
        record = {}
        for key in self.keys:
            column = table["patient_id" if key == "patient" else key]
            if key == "patient":
                record[key] = tf.constant(column.fillna("").astype(str).tolist(), tf.string)
                continue
            if key in codes:
                column = column.map({word: code for code, word in enumerate(codes[key])})
            record[key] = tf.constant(column.fillna(schema.MISSING).to_numpy(np.int64))
        return self.graph(record).numpy()

    def _lookup(self) -> Any:
        import tensorflow as tf

        names, counts = list(self.images) or ["-"], list(self.images.values()) or [0]
        initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(names), tf.constant(counts, tf.int64))
        return tf.lookup.StaticHashTable(initializer, 0)


def count_images(tables: Sequence[pd.DataFrame]) -> dict[str, int]:
    """Number of images of each known patient in tables with the columns of `pipeline.read_metadata`."""
    import pandas as pd

    counts = pd.concat([table["patient_id"] for table in tables]).value_counts()
    return {str(name): int(number) for name, number in counts.items() if name}
