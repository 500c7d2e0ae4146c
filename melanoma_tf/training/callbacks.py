"""Periodic checkpoints within an epoch, and an end to runs whose steps are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import ml_collections

from melanoma_tf.training import checkpoint


class DivergedError(RuntimeError):
    """Too many steps in a row had gradients that are not finite; the last good checkpoint is kept."""


class TrainingGuard(keras.callbacks.Callback):
    """Counts steps, writes a checkpoint every so many, and stops the run when none of the last ones succeeded."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        last_step: int,
        checkpoints: Path | None,
        classifier: keras.Model,
        progress: Any,
        skipped: int,
    ) -> None:
        """last_step: of the epoch; it is saved by the loop, with the epoch's history. checkpoints: None writes none.

        skipped: steps of the epoch that an earlier process made.
        """
        super().__init__()
        self.skipped, self.made = skipped, 0
        self.loss_before = progress.loss if skipped else 0.0  # that of another epoch may not even be finite
        self.config, self.last_step = config, last_step
        self.checkpoints, self.classifier, self.progress = checkpoints, classifier, progress

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        progress, every = self.progress, self.config.max_bad_steps
        progress.step += 1
        self.made += 1
        saves = progress.step % self.config.checkpoint_every == 0 and progress.step != self.last_step
        # Reading a number from the device waits for it, so not at each step.
        if progress.step % every == 0 or saves:
            sync_variables(self.model)
        if progress.step % every == 0:
            taken = steps_taken(self.model.optimizer)
            if taken == progress.steps_taken:
                kept = f"The last good checkpoint is in {self.checkpoints}. " if self.checkpoints else ""
                raise DivergedError(
                    f"{every} steps in a row, up to step {progress.step}, had gradients that are not finite. {kept}"
                    "Try a lower --config.lr, or --config.precision=float32."
                )
            progress.steps_taken = taken
        if saves:
            progress.loss = self.mean_loss(float((logs or {})["loss"]))
            sync_batch_stats(self.classifier)
            if self.checkpoints:
                checkpoint.save(self.checkpoints, self.classifier, self.model.optimizer, progress)

    def mean_loss(self, since: float) -> float:
        """Over the epoch so far. since: over the steps of this process."""
        return (self.loss_before * self.skipped + since * self.made) / (self.skipped + self.made)


def sync_batch_stats(classifier: keras.Model) -> None:
    """Gives every replica the mean of all replicas' batch norm statistics.

    Under MirroredStrategy each has its own: predictions would depend on which replica made them, and a resumed run,
    where all begin with the mean, would go on differently.
    """
    for variable in classifier.non_trainable_variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(keras.ops.convert_to_numpy(variable))


def sync_variables(model: keras.Model) -> None:
    """Gives the variables their values during a `fit`: under JAX it keeps them to itself."""
    if keras.backend.backend() == "jax":
        model.jax_statesync_variables()


def steps_taken(optimizer: keras.optimizers.Optimizer) -> int:
    return int(keras.ops.convert_to_numpy(optimizer.iterations))
