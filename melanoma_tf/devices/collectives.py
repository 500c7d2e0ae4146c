"""Collectives inside a step: all-gather and the sharing of NaN between replicas."""

from __future__ import annotations

from typing import Any


def share_nan(gradients: list[Any], finite: Any) -> list[Any]:
    """Makes every replica's gradients NaN if those of one are not finite (MirroredStrategy).

    Keras' LossScaleOptimizer checks before gradients are summed over replicas and believes the first replica only, so a
    NaN on another one would reach the weights.

    Args:
      gradients: float tensors or None.
      finite: bool scalar, whether this replica's gradients are finite.

    Returns:
      The gradients, unchanged where all replicas' are finite.
    """
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradients
    spoilt = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(finite, 0.0, float("nan")))
    return [None if g is None else g + tf.cast(spoilt, g.dtype) for g in gradients]


def replicate(values: Any) -> Any:
    """All-gathers a batch-sharded tensor [N,...] onto every host; for use inside a model."""
    import keras

    distribution = keras.distribution.distribution()
    if distribution is None:
        return values
    layout = keras.distribution.TensorLayout([None] * len(values.shape), distribution.device_mesh)
    return keras.distribution.distribute_tensor(values, layout)
