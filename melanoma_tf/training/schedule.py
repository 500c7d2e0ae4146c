"""Learning rate schedule, also of runs that were extended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


class _Extended(keras.optimizers.schedules.LearningRateSchedule):
    """Each schedule up to its last step, then the next one."""

    def __init__(self, parts: Mapping[int, keras.optimizers.schedules.LearningRateSchedule]) -> None:
        super().__init__()
        self.parts = dict(parts)

    def __call__(self, step: Any) -> Any:
        *earlier, last = self.parts.items()
        rate = last[1](step)
        for end, part in reversed(earlier):
            rate = keras.ops.where(step < end, part(step), rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {"parts": self.parts}


def extended(
    parts: Mapping[int, keras.optimizers.schedules.LearningRateSchedule],
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The schedule of a run whose length was raised, perhaps several times.

    Steps that were planned before keep their rate, so that a resumed run repeats them; after them the rate is that of
    the longer run at the same step.

    Args:
      parts: last step -> schedule of a run that ends there, ascending.
    """
    return _Extended(parts) if len(parts) > 1 else next(iter(parts.values()))


class _OfUpdates(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule by updates, called with the count of batches."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, batches: int) -> None:
        super().__init__()
        self.schedule, self.batches = schedule, batches

    def __call__(self, step: Any) -> Any:
        return self.schedule(keras.ops.floor_divide(step, self.batches))

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "batches": self.batches}


def of_updates(
    schedule: keras.optimizers.schedules.LearningRateSchedule, batches: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The schedule for an optimizer with `gradient_accumulation_steps`, which Keras calls with the count of batches.

    Args:
      schedule: by updates of the weights.
      batches: whose gradients make one update.
    """
    return _OfUpdates(schedule, batches)
