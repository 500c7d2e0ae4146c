"""The training loop of one fold."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import ml_collections
import pandas as pd

from melanoma_tf.core import files
from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import check_folds
from melanoma_tf.devices.multihost import Hosts
from melanoma_tf.devices.select import Runtime
from melanoma_tf.evaluation import metrics
from melanoma_tf.inference import predictor
from melanoma_tf.training import build, callbacks, checkpoint, trackers
from melanoma_tf.training.run_dir import HISTORY, WEIGHTS

log = logging.getLogger("melanoma_tf")


def train(
    config: ml_collections.ConfigDict,
    dataset: pipeline.DataSet,
    fold: int,
    folder: Path | None,
    runtime: Runtime,
    epochs_before: Sequence[int] = (),
    log_to: trackers.Log | None = None,
) -> pd.DataFrame:
    """Trains on all folds but one and predicts the images of that fold.

    Resumes from the newest checkpoint in `folder`. Writes checkpoints, history.csv and the final weights there.

    Args:
      config: see configs/default.py.
      dataset: builds to train on and to hold out.
      fold: fold to hold out.
      folder: the fold's folder on the primary host; None on the other hosts, which receive what the primary reads.
      runtime: devices to train on.
      epochs_before: earlier values of config.epochs if the run was extended, see `schedule.extended`.
      log_to: trackers that follow the fold.

    Returns:
      image_name, patient_id, source, fold, target, logit and probability of every held-out image.

    Raises:
      pipeline.DataError: no images to train on or to hold out, only one class, or a damaged shard.
      callbacks.DivergedError: too many consecutive steps without finite gradients.
      checkpoint.CheckpointError: the checkpoint is damaged or belongs to another run.
    """
    run = _FoldRun(config, dataset, fold, folder, runtime, epochs_before)
    run.trackers = log_to or run.trackers
    run.build_models()
    run.restore()
    run.trackers.begin(run.progress.history, lambda: trackers.augmented_images(run.trainer, run.train_shards, config))
    for epoch in range(run.progress.step // run.steps_per_epoch, config.epochs):
        with run.termination:
            run.train_epoch(epoch)
    return run.finish()


class _FoldRun:
    """The data, models and progress of one fold; `train` calls the methods in the order in which they stand here."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        dataset: pipeline.DataSet,
        fold: int,
        folder: Path | None,
        runtime: Runtime,
        epochs_before: Sequence[int],
    ) -> None:
        self.config, self.fold, self.folder, self.runtime = config, fold, folder, runtime
        self.epochs_before, self.trackers = epochs_before, trackers.Log()
        # Replicas of TensorFlow average their statistics when they are saved, which rounds: only at steps that all runs
        # save do runs stay equal. Several hosts save together.
        alone = runtime.hosts.count == 1 and (runtime.replicas == 1 or runtime.backend == "jax")
        self.termination = callbacks.Termination(alone)
        self.checkpoints = folder / "checkpoints" if folder else None
        self.train_shards, self.held_out = dataset.others(fold), dataset.fold(fold)
        check_folds(dataset, [fold], config.batch_size)
        images, positives = pipeline.count(self.train_shards), sum(shard.positives for shard in self.train_shards)
        self.prior, self.steps_per_epoch = positives / images, images // config.batch_size
        self.sizes: dict[str, Any] = {
            "batch_size": config.batch_size,
            "image_size": config.image_size,
            "hosts": runtime.hosts,
        }
        self.metadata = pipeline.read_metadata(self.held_out)
        log.info("fold %d: %d images, %d malignant, held out: %d", fold, images, positives, len(self.metadata))

    def build_models(self) -> None:
        """Builds the trained model and the predictors, with pretrained weights unless a checkpoint replaces them."""
        config, runtime = self.config, self.runtime
        keras.utils.set_random_seed(config.seed + self.fold)
        newest = runtime.hosts.run_on_primary(lambda: checkpoint.newest(self.checkpoints) if self.checkpoints else [])
        self.saved = runtime.hosts.broadcast(newest)
        with runtime.scope():
            self.trainer, self.classifier = build.build_trainer(
                config,
                self.prior,
                self.steps_per_epoch,
                runtime.profile,
                fresh=not self.saved,
                epochs_before=self.epochs_before,
            )
            self.predictor = predictor.predictor(self.classifier, tta=False)
            self.tta_predictor = predictor.predictor(self.classifier, tta=config.tta)
        log.info("%s", build.describe_xla(self.trainer, runtime.profile))

    def restore(self) -> None:
        """Loads the newest checkpoint, if there is one."""
        with self.runtime.hosts.broadcast_folder(self.checkpoints, self.saved) as folder:
            restored = checkpoint.restore(folder, self.classifier, self.trainer.optimizer)
        self.progress = restored or checkpoint.Progress()
        _check_order(self.progress, self.steps_per_epoch, self.runtime.hosts)
        if restored:
            total = self.steps_per_epoch * self.config.epochs
            log.info("fold %d resumes at step %d of %d", self.fold, self.progress.step, total)

    def train_epoch(self, epoch: int) -> None:
        """Trains an epoch, or the rest of it, evaluates the held-out fold and saves a checkpoint."""
        progress, optimizer = self.progress, self.trainer.optimizer
        # One `fit` per epoch: the order in it is a function of (seed, epoch), so a resumed run can skip into it.
        steps_before = progress.step - epoch * self.steps_per_epoch
        batches = pipeline.train_batches(
            self.train_shards,
            seed=self.config.seed,
            epoch=epoch,
            skip_steps=steps_before,
            buffer=self.config.shuffle_buffer,
            **self.sizes,
        )
        last_step = self.steps_per_epoch * (epoch + 1)
        guard = callbacks.TrainingGuard(
            self.config, last_step, self.checkpoints, self.classifier, progress, steps_before, self.termination
        )
        shown = callbacks.EpochProgress(
            f"fold {self.fold}, epoch {epoch + 1} of {self.config.epochs}: ",
            self.steps_per_epoch,
            steps_before,
            self.config.batch_size,
        )
        optimizer.reset_scale()
        started = time.perf_counter()
        with pipeline.name_damaged_shard(self.train_shards), contextlib.closing(shown):
            used = [guard, shown] if self.runtime.hosts.index == 0 else [guard]
            logs = self.trainer.fit(batches, callbacks=used, shuffle=False, verbose=0).history
        seconds = time.perf_counter() - started
        callbacks.sync_batch_stats(self.classifier)
        with checkpoint.averaged(self.classifier, optimizer):
            logits = predictor.predict_logits(self.predictor, self.held_out, **self.sizes)
        row = {
            "epoch": epoch + 1,
            "step": progress.step,
            "loss": guard.mean_loss(logs["loss"][-1]),
            "val_loss": self._held_out_loss(logits),
            "val_auc": metrics.auc(self.metadata["target"], logits),
            "learning_rate": self._last_rate(),
            "skipped_steps": progress.step - callbacks.steps_taken(optimizer),
            "images_per_s": round((self.steps_per_epoch - steps_before) * self.config.batch_size / seconds, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        self._save(row)
        self.trackers.epoch(row, self.metadata["target"], logits)

    def _held_out_loss(self, logits: Any) -> float:
        """The loss that is trained, of images that are not augmented."""
        targets = self.metadata["target"].to_numpy("float32")
        return float(keras.ops.convert_to_numpy(self.trainer.loss(targets[:, None], logits[:, None])))

    def _last_rate(self) -> float:
        """The learning rate of the last step that changed the weights."""
        rate = build.learning_rate(self.config, self.steps_per_epoch, self.epochs_before)
        return float(rate(max(0, callbacks.steps_taken(self.trainer.optimizer) - 1)))

    def _save(self, row: dict[str, Any]) -> None:
        """Appends an epoch to the history and saves both history and checkpoint."""
        self.progress.history.append(row)
        if self.folder and self.checkpoints:
            checkpoint.save(self.checkpoints, self.classifier, self.trainer.optimizer, self.progress)
            files.write_csv(self.folder / HISTORY, pd.DataFrame(self.progress.history, columns=list(row)))
        log.info("fold %d: %s", self.fold, ", ".join(f"{key} {value:.6g}" for key, value in row.items()))

    def finish(self) -> pd.DataFrame:
        """Saves the weights of the last epoch and predicts the held-out fold with them.

        Choosing the best epoch by the held-out fold would flatter its AUC.
        """
        with checkpoint.averaged(self.classifier, self.trainer.optimizer):
            if self.folder:
                checkpoint.save_final(self.folder / WEIGHTS, self.classifier)
            batch_size = predictor.batch_size(self.config.batch_size, self.config.tta, self.runtime.replicas)
            sizes = {**self.sizes, "batch_size": batch_size}
            logits = predictor.predict_logits(self.tta_predictor, self.held_out, **sizes)
        return self.metadata.assign(logit=logits, probability=predictor.sigmoid(logits))


def _check_order(progress: checkpoint.Progress, steps_per_epoch: int, hosts: Hosts) -> None:
    """Checks that these hosts read an interrupted epoch in the order in which it began, and records that order."""
    if progress.step % steps_per_epoch and progress.streams != pipeline.streams(hosts):
        raise checkpoint.CheckpointError(
            f"mid-epoch checkpoint was written with a different host count, got {hosts.count}; resume with that count"
        )
    progress.streams = pipeline.streams(hosts)
