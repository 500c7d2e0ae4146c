"""Heads: features of a backbone, and metadata, to a logit and those of the diagnoses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

HEAD = "logit"  # name of the layer that makes it
METADATA_UNITS = (128, 32)


@dataclasses.dataclass(frozen=True)
class Head:
    """What is made of the features.

    Attributes:
      pooling: "avg", "max" or "gem".
      dropout_samples: masks of dropout whose logits are averaged (multi-sample dropout, Inoue 2019,
        https://arxiv.org/abs/1905.09788, with one loss of the mean instead of the mean of the losses).
      metadata: numbers M of metadata beside the image; 0 for none.
      outputs: "target", "target+diagnosis" or "diagnosis", which derives the target's logit from the diagnoses'.
      positive: for each of the K diagnoses, whether it is positive.
    """

    pooling: str = "avg"
    dropout_samples: int = 1
    metadata: int = 0
    outputs: str = "target"
    positive: tuple[bool, ...] = ()


@keras.saving.register_keras_serializable("melanoma_tf")
class GeneralizedMeanPooling(keras.layers.Layer):
    """(mean of x^p over positions)^(1/p) with a trained p, from the mean (p = 1) towards the maximum.

    Radenović et al. 2018 (https://arxiv.org/abs/1711.02512, eq. 3): p starts at 3, and features below 1e-6 count as
    1e-6.
    """

    def build(self, shape: Any) -> None:
        """Creates p."""
        self.p = self.add_weight(shape=(1,), initializer=keras.initializers.Constant(3.0), name="power")

    def call(self, features: Any) -> Any:
        """[B,H,W,C] -> [B,C]."""
        powers = ops.power(ops.maximum(features, 1e-6), self.p)
        return ops.power(ops.mean(powers, axis=(1, 2)), 1.0 / self.p)


@keras.saving.register_keras_serializable("melanoma_tf")
class LogOdds(keras.layers.Layer):
    """The logit of one set of classes against all others: f32[B,K] -> f32[B,1].

    With p = softmax(z), log(sum of p over the set / sum over the others) is the difference of their log-sum-exp.
    """

    def __init__(self, positive: list[bool], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.positive = list(positive)

    def call(self, logits: Any) -> Any:
        """Returns the logit."""
        inside = np.array(self.positive)
        sums = [ops.logsumexp(logits + np.where(kept, 0.0, -1e9).astype("float32"), -1) for kept in (inside, ~inside)]
        return (sums[0] - sums[1])[:, None]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "positive": self.positive}


_POOLING = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
    "gem": GeneralizedMeanPooling,
}


def classifier(image: Any, features: Any, *, dropout: float, prior: float | None, head: Head, name: str) -> keras.Model:
    """Pooling, dropout and logits on top of a backbone, all float32.

    Args:
      image: the backbone's input.
      features: its output [B,H,W,C].
      dropout: rate in [0,1).
      prior: expected share of positives, in (0,1): the bias starts at its log-odds, so that training does not begin by
        unlearning 50 % (https://arxiv.org/abs/1708.02002, section 3.3). None: bias 0.
      head: what to make of them.
      name: of the model.

    Returns:
      image, or [image, metadata f32[B,M]] with metadata -> f32[B,1], the logit, or f32[B,1+K] with diagnoses.
    """
    inputs = image
    x = _POOLING[head.pooling](dtype="float32", name="pool")(features)
    if head.metadata:
        metadata = keras.Input((head.metadata,), dtype="float32", name="metadata")
        inputs, known = [image, metadata], metadata
        for i, units in enumerate(METADATA_UNITS, start=1):
            known = keras.layers.Dense(units, "swish", dtype="float32", name=f"metadata_{i}")(known)
        x = keras.layers.Concatenate(dtype="float32", name="fusion")([x, known])
    x = _dropout(x, dropout, head.dropout_samples)
    outputs = []
    if head.outputs != "target":
        only, number = head.outputs == "diagnosis", len(head.positive)
        bias = _class_bias(head.positive, prior) if only and prior is not None else np.zeros(number)
        make = keras.layers.Dense(number, dtype="float32", name="diagnosis")
        outputs.append(make(x))
        make.bias.assign(bias)
        if only:
            outputs.insert(0, LogOdds(list(head.positive), dtype="float32", name=HEAD)(outputs[0]))
    if head.outputs != "diagnosis":
        start = keras.initializers.Constant(math.log(prior / (1 - prior)) if prior is not None else 0.0)
        outputs.insert(0, keras.layers.Dense(1, bias_initializer=start, dtype="float32", name=HEAD)(x))
    output = keras.layers.Concatenate(dtype="float32", name="logits")(outputs) if len(outputs) > 1 else outputs[0]
    return keras.Model(inputs, output, name=name)


def layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a classifier's head that have weights."""
    names = ("pool", HEAD, "diagnosis", *(f"metadata_{i}" for i in range(1, len(METADATA_UNITS) + 1)))
    return [layer for layer in model.layers if layer.name in names and layer.weights]


def logit_only(model: keras.Model) -> keras.Model:
    """A classifier without the logits of its diagnoses: the same inputs -> f32[B,1]."""
    return model if model.output.shape[1] == 1 else keras.Model(model.input, model.get_layer(HEAD).output)


def _dropout(x: Any, rate: float, samples: int) -> Any:
    """Dropout; of several masks, the mean. The logits are linear in it, so theirs is averaged too."""
    if samples == 1:
        return keras.layers.Dropout(rate, dtype="float32", name="dropout")(x)
    masked = [keras.layers.Dropout(rate, dtype="float32", name=f"dropout_{i}")(x) for i in range(1, samples + 1)]
    return keras.layers.Average(dtype="float32", name="dropout")(masked)


def _class_bias(positive: tuple[bool, ...], prior: float) -> np.ndarray:
    """Logits of classes whose probabilities are `prior`, shared by the positive ones, and the rest by the others."""
    inside = np.array(positive)
    return np.log(np.where(inside, prior / max(1, inside.sum()), (1 - prior) / max(1, (~inside).sum())))
