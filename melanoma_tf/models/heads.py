"""Heads: features of a backbone to one logit."""

from __future__ import annotations

import math
from typing import Any

import keras

HEAD = "logit"  # name of the last layer


def logit_head(features: Any, *, dropout: float, prior: float | None) -> Any:
    """Global average pooling, dropout and one logit, all float32.

    Args:
      features: [B,H,W,C].
      dropout: rate in [0,1).
      prior: expected share of positives, in (0,1): the bias starts at its log-odds, so that training does not begin by
        unlearning 50 % (https://arxiv.org/abs/1708.02002, section 3.3). None: bias 0.

    Returns:
      f32[B,1].
    """
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(features)
    x = keras.layers.Dropout(dropout, dtype="float32", name="dropout")(x)
    bias = keras.initializers.Constant(math.log(prior / (1 - prior)) if prior is not None else 0.0)
    return keras.layers.Dense(1, bias_initializer=bias, dtype="float32", name=HEAD)(x)
