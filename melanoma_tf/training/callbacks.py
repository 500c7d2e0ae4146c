"""Checkpoints within an epoch, the end of runs that diverged or are terminated, and the progress of an epoch."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import keras
import ml_collections

from melanoma_tf.core import keras_compat
from melanoma_tf.training import checkpoint
from tfrecord_tools.core.progress import Progress

_LINE_SECONDS = 10.0  # between lines where standard error is no terminal
_BAR_SECONDS = 1.0  # between updates of the bar: the loss waits for the device


class DivergedError(RuntimeError):
    """Too many consecutive steps had gradients that are not finite; the last good checkpoint is kept."""


class Termination:
    """Context that holds SIGTERM back until a checkpoint is saved, or the block ends; a second one acts at once.

    Args:
      held: whether it is; otherwise, or where no handler in Python would run, the context does nothing.
    """

    def __init__(self, held: bool) -> None:
        self.held, self.pending = held, False

    def __enter__(self) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        main = threading.current_thread() is threading.main_thread()
        self._handler = handler if self.held and main and callable(handler) else None
        if self._handler:
            signal.signal(signal.SIGTERM, self._note)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handler:
            signal.signal(signal.SIGTERM, self._handler)
        if kind is None and self.pending:
            self.deliver()

    def deliver(self) -> None:
        """Does what the signal would have done."""
        assert self._handler is not None
        self.pending = False
        self._handler(signal.SIGTERM, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending = True
        signal.signal(signal.SIGTERM, self._handler)


class TrainingGuard(keras.callbacks.Callback):
    """Saves periodic checkpoints and on SIGTERM; aborts after `max_bad_steps` consecutive skipped steps.

    Args:
      config: `checkpoint_every` and `max_bad_steps` are read, both in steps.
      last_step: last step of the epoch; the training loop saves it, together with the epoch's history.
      checkpoints: folder to save to; None saves nothing.
      classifier: model to save.
      progress: counted up by one each step.
      steps_before: steps of this epoch that an earlier process has made.
      termination: context of the epoch.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        last_step: int,
        checkpoints: Path | None,
        classifier: keras.Model,
        progress: checkpoint.Progress,
        steps_before: int,
        termination: Termination,
    ) -> None:
        super().__init__()
        self.termination = termination
        self.steps_before, self.steps = steps_before, 0
        self.loss_before = progress.loss if steps_before else 0.0  # that of another epoch may not even be finite
        self.config, self.last_step = config, last_step
        self.checkpoints, self.classifier, self.progress = checkpoints, classifier, progress

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the step, checks for divergence and saves, each when it is due, and ends a run that is terminated.

        Raises:
          DivergedError: none of the last `max_bad_steps` steps had finite gradients.
        """
        progress = self.progress
        progress.step += 1
        self.steps += 1
        check_due = progress.step % self.config.max_bad_steps == 0
        within = progress.step != self.last_step
        stopping = within and self.termination.pending
        save_due = stopping or (within and progress.step % self.config.checkpoint_every == 0)
        # Reading a number from the device waits for it, so not at each step.
        if check_due or save_due:
            sync_variables(self.model)
        if check_due:
            self._check_steps_taken()
        if save_due:
            progress.loss = self.mean_loss(float((logs or {})["loss"]))
            sync_batch_stats(self.classifier)
            if self.checkpoints:
                checkpoint.save(self.checkpoints, self.classifier, self.model.optimizer, progress)
        if stopping:
            self.termination.deliver()

    def _check_steps_taken(self) -> None:
        taken = steps_taken(self.model.optimizer)
        if taken == self.progress.steps_taken:
            kept = f"The last good checkpoint is in {self.checkpoints}. " if self.checkpoints else ""
            raise DivergedError(
                f"{self.config.max_bad_steps} consecutive steps, up to step {self.progress.step}, had gradients that "
                f"are not finite. {kept}Try a lower --config.lr, or --config.precision=float32."
            )
        self.progress.steps_taken = taken

    def mean_loss(self, loss: float) -> float:
        """Returns the mean loss of the epoch so far. loss: the mean over the steps of this process."""
        return (self.loss_before * self.steps_before + loss * self.steps) / (self.steps_before + self.steps)


class EpochProgress(keras.callbacks.Callback):
    """Shows the steps of an epoch on standard error, with their loss and speed.

    Args:
      title: text before the count of steps.
      steps: steps of the epoch.
      done: steps that an earlier process has made.
      images: images of a step.
    """

    def __init__(self, title: str, steps: int, done: int, images: int) -> None:
        super().__init__()
        self.title, self.steps, self.done, self.images = title, steps, done, images
        self.first = done + 1
        self._start()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.progress.show(self.done)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.done += 1
        if self.done == self.first:
            self._start()  # the first step compiles; its time says nothing about the others
        elif self.progress.is_due(_BAR_SECONDS):
            self.progress.show(self.done, f"loss {float((logs or {})['loss']):.4f}")

    def close(self) -> None:
        """Removes the bar: the line of the epoch says more."""
        self.progress.clear()

    def _start(self) -> None:
        self.progress = Progress(
            self.steps, unit="steps", images=self.images, title=self.title, before=self.done, interval=_LINE_SECONDS
        )


def sync_batch_stats(classifier: keras.Model) -> None:
    """Gives every replica the mean of all replicas' batch norm statistics.

    Each replica of a MirroredStrategy has its own. Predictions would depend on the replica that makes them, and a
    resumed run, whose replicas all start from the mean, would continue differently.
    """
    for variable in classifier.non_trainable_variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(keras.ops.convert_to_numpy(variable))


def sync_variables(model: keras.Model) -> None:
    """Updates the model's variables during a `fit`; under JAX it holds their values in a state of its own."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def steps_taken(optimizer: keras.optimizers.Optimizer) -> int:
    """Number of steps whose gradients were finite and used. optimizer: a `SkippingOptimizer`."""
    return int(keras.ops.convert_to_numpy(keras_compat.batches(optimizer.inner_optimizer)))
