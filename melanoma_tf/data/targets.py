"""What a model learns of a record: melanoma or not, another rule on the diagnoses, or the diagnosis itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melanoma_tf.data.dataset import DataError
from tfrecord_tools import schema

if TYPE_CHECKING:
    import pandas as pd

MELANOMA, MALIGNANT = "melanoma", "malignant"
# Actinic keratoses are not in it: they are precursors. A rule that counts them names them.
MALIGNANT_DIAGNOSES = (MELANOMA, "basal cell carcinoma", "squamous cell carcinoma", "other malignant")
CLASSES = schema.DIAGNOSIS
_CODE = {word: code for code, word in enumerate(CLASSES)}


@dataclasses.dataclass(frozen=True)
class Targets:
    """What is learned of a record.

    Attributes:
      positive: diagnoses that are positive. Melanoma is also what the record's `target` says, whose diagnosis may be
        missing.
      diagnosis: whether the diagnosis is learned too.
      soft: probability of the target by image_name, where it replaces the label.
    """

    positive: frozenset[str] = frozenset({MELANOMA})
    diagnosis: bool = False
    soft: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_melanoma(self) -> bool:
        """Whether the rule is that of the records' own `target`."""
        return self.positive == {MELANOMA}

    @property
    def mask(self) -> tuple[bool, ...]:
        """Whether each of CLASSES is positive."""
        return tuple(word in self.positive for word in CLASSES)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of a record that `graph` needs."""
        named = ("image_name",) if self.soft else ()
        return ("target", *(("diagnosis",) if self.diagnosis or not self.is_melanoma else ()), *named)

    def of_table(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """The target of each row of `pipeline.read_metadata`: 1, 0, or -1 where it has no label."""
        target = table["target"].to_numpy(np.int64)
        if self.is_melanoma:
            return target
        known = table["diagnosis"].isin(self.positive).to_numpy()
        if MELANOMA in self.positive:
            known = known | (target == 1)
        return np.where(target < 0, target, known)

    def labels(self, table: pd.DataFrame) -> NDArray[np.float32]:
        """The labels of rows of `pipeline.read_metadata`, f32[N,1] or f32[N,1+K], as `graph` without soft labels."""
        target = self.of_table(table).astype(np.float32)[:, None]
        if not self.diagnosis:
            return target
        known = table["diagnosis"].where(table["diagnosis"].notna() | (table["target"] != 1), MELANOMA)
        return np.concatenate([target, (known.to_numpy()[:, None] == np.array(CLASSES)).astype(np.float32)], axis=1)

    def graph(self, record: Mapping[str, Any]) -> Any:
        """The labels of parsed records in a TensorFlow graph.

        Args:
          record: see `schema.parse`, int64[B] and string[B].

        Returns:
          f32[B], the target; or f32[B,1+K], the target and then the diagnosis as one of K = len(CLASSES), all 0 where
          it is missing.
        """
        import tensorflow as tf

        target = tf.cast(record["target"], tf.float32)
        if not self.is_melanoma:
            positive = tf.gather(tf.constant([0.0, *map(float, self.mask)]), record["diagnosis"] + 1)
            target = tf.maximum(positive, target) if MELANOMA in self.positive else positive
        if self.soft:
            names, values = list(self.soft), [float(value) for value in self.soft.values()]
            lookup = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(tf.constant(names), tf.constant(values, tf.float32)), -1.0
            )
            found = lookup.lookup(record["image_name"])
            target = tf.where(found >= 0.0, found, target)
        if not self.diagnosis:
            return target
        code = record["diagnosis"]
        code = tf.where((record["target"] == 1) & (code < 0), tf.constant(_CODE[MELANOMA], tf.int64), code)
        return tf.concat([target[:, None], tf.one_hot(code, len(CLASSES))], axis=1)


def parse(rule: str) -> frozenset[str]:
    """The positive diagnoses of a rule.

    Args:
      rule: "melanoma", "malignant" (MALIGNANT_DIAGNOSES), or diagnoses with commas between them.

    Raises:
      ValueError: a word is no diagnosis, or every diagnosis is positive.
    """
    if rule.strip() == MALIGNANT:
        return frozenset(MALIGNANT_DIAGNOSES)
    words = [word.strip() for word in rule.split(",")]
    for word in words:
        if word not in CLASSES:
            raise ValueError(
                f"config.target={rule!r}: unknown diagnosis {word!r}; expected {MALIGNANT}, or diagnoses with commas "
                f"between them, of: {', '.join(CLASSES)}"
            )
    if len(set(words)) == len(CLASSES):
        raise ValueError(f"config.target={rule!r}: every diagnosis is positive; expected some that are not")
    return frozenset(words)


def read_soft(path: Path) -> dict[str, float]:
    """Reads probabilities by image_name: the output of predict, or an oof.csv.

    Args:
      path: CSV with image_name, and probability or target.

    Raises:
      DataError: a column is missing, a name there twice, or a value is no probability.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"image_name": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"config.soft_labels={path}: {error}; expected a CSV with image_name and target") from error
    column = "probability" if "probability" in table else "target"
    for name in ("image_name", column):
        if name not in table:
            raise DataError(f"{path} has no column {name}; got {', '.join(map(str, table.columns))}")
    names, values = table["image_name"].tolist(), pd.to_numeric(table[column], errors="coerce").tolist()
    if twice := table["image_name"][table["image_name"].duplicated()].tolist():
        raise DataError(f"{path} has {twice[0]} twice; expected each image_name once")
    for name, value in zip(names, values, strict=True):
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise DataError(f"{path}: {column} of {name}: got {value}, expected a probability from 0 to 1")
    return dict(zip(names, values, strict=True))
