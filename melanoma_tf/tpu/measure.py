"""Plain and rewritten training steps held against each other: logits, losses and speed on the device at hand."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

STEPS = 3  # compared; more would compare how rounding errors grow
_TURNS, _STEPS_A_TURN = 5, 10
# Largest differences of logits and losses, relative to the largest logit or loss where that is above one. bfloat16 has
# 8 bits of significand; batch norm over few images multiplies its rounding errors.
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
GAIN = 1.02  # ratio of medians from which a rewrite is worth a setting


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled training step.

    Attributes:
      trainer: {"image", "seed"} -> logit.
      classifier: the model in it, image in [0,1] -> logit.
    """

    trainer: keras.Model
    classifier: keras.Model


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A rewritten step against the plain one.

    Attributes:
      logits: largest difference of training-mode logits, before and after the compared steps.
      losses: largest difference of the losses of the compared steps.
      tolerance: that both have to stay below.
    """

    logits: float
    losses: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether both differences are within the tolerance; NaN is not."""
        return bool(self.logits <= self.tolerance and self.losses <= self.tolerance)


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a step computed.

    Attributes:
      logits: f64[2B], in training mode, before and after the steps.
      losses: f64[STEPS].
    """

    logits: Any
    losses: Any


def trace(step: Step, weights: list[Any], features: Mapping[str, Any], targets: Any) -> Trace:
    """Trains a new step from the given weights on one batch (JAX). Dropout and drop connect have to be off.

    Args:
      step: its optimizer has made no step yet.
      weights: of the classifier.
      features: {"image": u8[B,S,S,3], "seed": u32[B]}.
      targets: f32[B].
    """
    step.classifier.set_weights(weights)
    images = np.asarray(features["image"], np.float32) / 255.0
    before, losses = _logits(step.classifier, images), []
    batches = _repeated(features, targets)
    for _ in range(STEPS):
        losses.append(step.trainer.fit(batches, steps_per_epoch=1, verbose=0, shuffle=False).history["loss"][0])
    return Trace(np.concatenate([before, _logits(step.classifier, images)]), np.asarray(losses))


def compare(plain: Trace, rewritten: Trace, compute_dtype: str) -> Comparison:
    """The largest differences of two traces from the same weights, with the tolerance of a dtype."""
    return Comparison(
        _difference(rewritten.logits, plain.logits),
        _difference(rewritten.losses, plain.losses),
        TOLERANCES[compute_dtype],
    )


def rates(steps: Mapping[str, Step], features: Mapping[str, Any], targets: Any) -> dict[str, float]:
    """Median images/s of each step, which take turns so that other load falls on all.

    Args:
      steps: by name.
      features: {"image": u8[B,S,S,3], "seed": u32[B]}.
      targets: f32[B].
    """
    batches = _repeated(features, targets)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():  # compiles
        step.trainer.fit(batches, steps_per_epoch=2, verbose=0, shuffle=False)
    for _ in range(_TURNS):
        for name, step in steps.items():
            started = time.perf_counter()
            step.trainer.fit(batches, steps_per_epoch=_STEPS_A_TURN, verbose=0, shuffle=False)
            found[name].append(_STEPS_A_TURN * len(targets) / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in found.items()}


def _logits(classifier: keras.Model, images: Any) -> Any:
    """Logits by the statistics of the batch: those of untrained batch norm say little. Changes no variable."""
    import jax

    def forward(trainable: Any, others: Any, images: Any) -> Any:
        return classifier.stateless_call(trainable, others, images, training=True)[0]

    groups = classifier.trainable_variables, classifier.non_trainable_variables
    variables = ([v.value for v in group] for group in groups)
    return np.asarray(jax.jit(forward)(*variables, images), np.float64)[:, 0]


def _repeated(features: Mapping[str, Any], targets: Any) -> Any:
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False  # its thread outlives each `fit`, which would be measured
    return tf.data.Dataset.from_tensors((dict(features), targets)).repeat().with_options(options)


def _difference(found: Any, expected: Any) -> float:
    """Largest difference, relative where values are above one; NaN if a value is not finite."""
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("nan")
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
