"""Learning rate schedule."""

from __future__ import annotations

import keras


def warmup_cosine(
    peak: float, total_steps: int, warmup_steps: int, final_fraction: float = 0.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to `peak`, then half a cosine down to `final_fraction * peak`.

    Loshchilov & Hutter 2017 (SGDR, eq. 5, one period); Goyal et al. 2017 for the warm-up.

    Args:
      peak: learning rate after the warm-up.
      total_steps: steps of the run, including the warm-up.
      warmup_steps: steps of the warm-up; 0 starts at the peak.
      final_fraction: final learning rate as a fraction of `peak`.

    Raises:
      ValueError: the warm-up is not shorter than the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warm-up of {warmup_steps} steps does not fit into a run of {total_steps} steps; "
            "lower --config.warmup_epochs"
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        alpha=final_fraction,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
