"""Private Keras API, one function for each use; a new Keras may break any of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """Weights files that keras.applications downloads.

    Attributes:
      base_url: folder of the files.
      hashes: model suffix, e.g. "b0" or "-b0" -> (MD5 with top, MD5 without top).
    """

    base_url: str
    hashes: dict[str, tuple[str, str]]


def efficientnet_weights() -> PublishedWeights:
    """Files of EfficientNet V1. Private because Keras exposes the constructors only, not what they download."""
    from keras.src.applications import efficientnet

    return PublishedWeights(efficientnet.BASE_WEIGHTS_PATH, efficientnet.WEIGHTS_HASHES)


def efficientnet_v2_weights() -> PublishedWeights:
    """Files of EfficientNet V2. Private for the same reason as `efficientnet_weights`."""
    from keras.src.applications import efficientnet_v2

    return PublishedWeights(efficientnet_v2.BASE_WEIGHTS_PATH, efficientnet_v2.WEIGHTS_HASHES)


def producer(tensor: Any) -> keras.Operation | None:
    """The operation that makes a symbolic tensor; None for values. Keras has no public way from tensor to layer."""
    return tensor._keras_history.operation if isinstance(tensor, keras.KerasTensor) else None


def build_step(model: keras.Model, batch: tuple[Any, Any]) -> None:
    """Creates the variables of metrics and optimizer without running a step; public `fit` would train on a device.

    Args:
      model: compiled model.
      batch: (inputs, targets), arrays.
    """
    model._symbolic_build(data_batch=batch)


def moving_averages(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Path of each trained variable -> its moving average (`use_ema`).

    Private because Keras offers only overwriting the weights, or `SwapEMAWeights`, which rounds.
    """
    pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return {variable.path: average for variable, average in pairs}


def batches(optimizer: keras.optimizers.Optimizer) -> Any:
    """Count of batches whose gradients an optimizer was given.

    Private because `iterations` counts updates of the weights, fewer with `gradient_accumulation_steps`.
    """
    return optimizer._iterations


def is_decayed(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether weight decay applies to a variable, see `exclude_from_weight_decay`; Keras has no public way to ask."""
    return optimizer._use_weight_decay(variable)
