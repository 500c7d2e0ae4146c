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
from numpy.typing import NDArray

from melanoma_tf.core import files
from melanoma_tf.data import pipeline, sampling
from melanoma_tf.data.dataset import DataSet, check_folds, stopping_fold
from melanoma_tf.devices.multihost import Hosts
from melanoma_tf.devices.select import Runtime
from melanoma_tf.evaluation import metrics
from melanoma_tf.inference import predictor
from melanoma_tf.training import build, callbacks, checkpoint, optimizers, stages, trackers
from melanoma_tf.training.run_dir import BEST, HISTORY, WEIGHTS

log = logging.getLogger("melanoma_tf")


def train(
    config: ml_collections.ConfigDict,
    dataset: DataSet,
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
    run.start()
    run.trackers.begin(run.progress.history, lambda: trackers.augmented_images(run.trainer, run.train_shards, config))
    for epoch in range(run.progress.step // run.steps_per_epoch, config.epochs):
        if stages.is_stopped(config, run.progress.history):
            break
        run.enter(epoch)
        with run.termination:
            run.train_epoch(epoch)
    return run.finish()


class _FoldRun:
    """The data, models and progress of one fold; `train` calls the methods in the order in which they stand here."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        dataset: DataSet,
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
        check_folds(dataset, [fold], config.batch_size, config.patience)
        self.targets = build.build_targets(config, fold)
        self.known = pipeline.metadata_of(config.metadata, (*dataset.train, *dataset.test))
        self.held_out, training = dataset.fold(fold), dataset.others(fold)
        if config.patience:
            self.stopping = dataset.fold(stopping_fold(dataset, fold))
            self.stopping_target = self.targets.of_table(pipeline.read_metadata(self.stopping))
            training = tuple(shard for shard in training if shard not in self.stopping)
        if self.targets.soft:
            training += sampling.soft_labelled(dataset.test, self.targets.soft)
        self.sampler = sampling.Sampler(
            training,
            self.targets,
            batch_size=config.batch_size,
            seed=config.seed,
            oversample=config.oversample,
            positive_share=config.positive_share,
            hosts=runtime.hosts.count,
        )
        self.train_shards, self.steps_per_epoch = training, self.sampler.steps
        table = pipeline.read_metadata(self.held_out)
        self.held_out_labels = self.targets.labels(table)
        self.table = table.assign(target=self.targets.of_table(table), fold=fold)
        images, positives = pipeline.count(training), sum(shard.positives for shard in training)
        log.info("fold %d: %d images, %d positive, held out: %d", fold, images, positives, len(self.table))

    def sizes(self, image_size: int) -> dict[str, Any]:
        """Settings of the batches that all passes over the data share."""
        return {
            "batch_size": self.config.batch_size,
            "image_size": image_size,
            "hosts": self.runtime.hosts,
            "metadata": self.known,
        }

    def start(self) -> None:
        """Builds the models of the first stage, or those of the newest checkpoint and loads it."""
        newest = self.runtime.hosts.run_on_primary(
            lambda: checkpoint.newest(self.checkpoints) if self.checkpoints else []
        )
        saved = self.runtime.hosts.broadcast(newest)
        step = checkpoint.step_of(saved)
        self.build_models(
            stages.at(self.config, max(0, step - 1) // self.steps_per_epoch, self.epochs_before), not saved
        )
        with self.runtime.hosts.broadcast_folder(self.checkpoints, saved) as folder:
            restored = checkpoint.restore(folder, self.classifier, self.trainer.optimizer)
        self.progress = restored or checkpoint.Progress()
        _check_order(self.progress, self.steps_per_epoch, self.runtime.hosts)
        if restored:
            total = self.steps_per_epoch * self.config.epochs
            log.info("fold %d resumes at step %d of %d", self.fold, self.progress.step, total)

    def build_models(self, stage: stages.Stage, fresh: bool) -> None:
        """Builds the trained model and the predictors of a stage. fresh: whether with pretrained weights."""
        config, runtime = stage.config, self.runtime
        keras.utils.set_random_seed(config.seed + self.fold)
        with runtime.scope():
            self.trainer, self.classifier = build.build_trainer(
                config,
                self.sampler.prior,
                self.steps_per_epoch,
                runtime.profile,
                fresh=fresh,
                frozen=stage.frozen,
                epochs_before=stage.epochs_before,
            )
            self.predictor = predictor.predictor(self.classifier, tta=False)
        self.stage = stage
        log.info("%s", build.describe_xla(self.trainer, runtime.profile))

    def enter(self, epoch: int) -> None:
        """Builds the models of the epoch's stage if it is another, with the weights of the one before."""
        stage = stages.at(self.config, epoch, self.epochs_before)
        if stage.matches(self.stage):
            return
        before, weights = self.stage, self.classifier.get_weights()
        taken = callbacks.steps_taken(self.trainer.optimizer)
        state = [keras.ops.convert_to_numpy(variable) for variable in self._state()]
        self.build_models(stage, fresh=False)
        self.classifier.set_weights(weights)
        if before.frozen == stage.frozen:
            for variable, value in zip(self._state(), state, strict=True):
                variable.assign(value)
        else:
            self.progress.taken_before += taken
            self.progress.steps_taken = -1
        what = "the head alone" if stage.frozen else "all layers"
        log.info("fold %d, epoch %d: %s at %d px", self.fold, epoch + 1, what, stage.config.image_size)

    def _state(self) -> list[Any]:
        return checkpoint.training_state(self.classifier, self.trainer.optimizer)

    def train_epoch(self, epoch: int) -> None:
        """Trains an epoch, or the rest of it, evaluates the held-out fold and saves a checkpoint."""
        progress, optimizer = self.progress, self.trainer.optimizer
        # One `fit` per epoch: the order in it is a function of (seed, epoch), so a resumed run can skip into it.
        steps_before = progress.step - epoch * self.steps_per_epoch
        shards, balance = self.sampler.epoch(epoch)
        sizes = self.sizes(self.stage.config.image_size)
        batches = pipeline.train_batches(
            shards,
            seed=self.config.seed,
            epoch=epoch,
            skip_steps=steps_before,
            buffer=self.config.shuffle_buffer,
            balance=balance,
            targets=self.targets,
            **sizes,
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
        figures, logits = self._evaluate(sizes)
        row = {
            "epoch": epoch + 1,
            "step": progress.step,
            "loss": guard.mean_loss(logs["loss"][-1]),
            **figures,
            "learning_rate": self._last_rate(),
            "skipped_steps": progress.step - progress.taken_before - callbacks.steps_taken(optimizer),
            "images_per_s": round((self.steps_per_epoch - steps_before) * self.config.batch_size / seconds, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        self._save(row)
        self.trackers.epoch(row, self.table["target"], logits)

    def _evaluate(self, sizes: dict[str, Any]) -> tuple[dict[str, float], NDArray[Any]]:
        """Loss and AUC of the held-out fold, and with `patience` the AUC of the fold that ends the run; its logits."""
        with checkpoint.averaged(self.classifier, self.trainer.optimizer):
            outputs = predictor.predict_outputs(self.predictor, self.held_out, **sizes)
            found = {
                "val_loss": self._held_out_loss(outputs),
                "val_auc": metrics.auc(self.table["target"], outputs[:, 0]),
            }
            if self.config.patience:
                logits = predictor.predict_outputs(self.predictor, self.stopping, **sizes)[:, 0]
                found["stop_auc"] = metrics.auc(self.stopping_target, logits)
                earlier = stages.stopping_aucs(self.config, self.progress.history)
                last = stages.at(self.config, self.config.epochs - 1).matches(self.stage)
                if self.folder and last and found["stop_auc"] > max(earlier, default=-1.0):
                    checkpoint.save_final(self.folder / BEST, self.classifier)
        return found, outputs[:, 0]

    def _held_out_loss(self, outputs: NDArray[Any]) -> float:
        """The loss that is trained, of images that are not augmented."""
        return float(keras.ops.convert_to_numpy(self.trainer.loss(self.held_out_labels, outputs)))

    def _last_rate(self) -> float:
        """The learning rate of the last update of the weights."""
        rate = optimizers.learning_rate(self.stage.config, self.steps_per_epoch, self.stage.epochs_before)
        updates = int(keras.ops.convert_to_numpy(self.trainer.optimizer.iterations))
        return float(rate(max(0, updates - 1)))

    def _save(self, row: dict[str, Any]) -> None:
        """Appends an epoch to the history and saves both history and checkpoint."""
        self.progress.history.append(row)
        if self.folder and self.checkpoints:
            checkpoint.save(self.checkpoints, self.classifier, self.trainer.optimizer, self.progress)
            files.write_csv(self.folder / HISTORY, pd.DataFrame(self.progress.history, columns=list(row)))
        log.info("fold %d: %s", self.fold, ", ".join(f"{key} {value:.6g}" for key, value in row.items()))

    def finish(self) -> pd.DataFrame:
        """Saves the final weights and predicts the held-out fold with them.

        They are those of the last epoch, or with `patience` those of the best epoch on the stopping fold. Choosing the
        epoch by the held-out fold would flatter its AUC.
        """
        config, runtime = self.config, self.runtime
        with checkpoint.averaged(self.classifier, self.trainer.optimizer):
            if config.patience:
                best = [BEST, files.checksum_file(Path(BEST)).name]
                with runtime.hosts.broadcast_folder(self.folder, best) as folder:
                    checkpoint.load_final(folder / BEST, self.classifier)
            if self.folder:
                checkpoint.save_final(self.folder / WEIGHTS, self.classifier)
            with runtime.scope():
                model = predictor.of_config(self.classifier, config, runtime.profile)
            sizes = self.sizes(config.image_size) | {"batch_size": predictor.batch_size(config, runtime.replicas)}
            outputs = predictor.predict_outputs(model, self.held_out, **sizes)
        return self.table.assign(**predictor.columns(outputs))


def _check_order(progress: checkpoint.Progress, steps_per_epoch: int, hosts: Hosts) -> None:
    """Checks that these hosts read an interrupted epoch in the order in which it began, and records that order."""
    if progress.step % steps_per_epoch and progress.streams != pipeline.streams(hosts):
        raise checkpoint.CheckpointError(
            f"mid-epoch checkpoint was written with a different host count, got {hosts.count}; resume with that count"
        )
    progress.streams = pipeline.streams(hosts)
