"""The learning rate over the steps of a run."""

from __future__ import annotations

import keras


def warmup_cosine(
    peak: float, total_steps: int, warmup_steps: int, final_fraction: float = 0.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear from 0 to `peak` in `warmup_steps`, then half a cosine down to `final_fraction * peak` at `total_steps`.

    Loshchilov & Hutter 2017 (SGDR, eq. 5, one period); Goyal et al. 2017 for the warm-up.

    Raises:
      ValueError: the warm-up does not end before the run does.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warm-up of {warmup_steps} steps does not fit into a run of {total_steps} steps")
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        alpha=final_fraction,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
