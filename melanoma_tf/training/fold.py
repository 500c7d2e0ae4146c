"""Training of one fold: the model, the optimizer and the loop over its epochs."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import keras
import ml_collections
import pandas as pd

from melanoma_tf.core import files
from melanoma_tf.data import pipeline
from melanoma_tf.devices.multihost import Hosts
from melanoma_tf.devices.select import Runtime
from melanoma_tf.evaluation import metrics
from melanoma_tf.inference import predictor
from melanoma_tf.training import build, callbacks, checkpoint
from melanoma_tf.training.run_dir import HISTORY, WEIGHTS

log = logging.getLogger("melanoma_tf")


def train(
    config: ml_collections.ConfigDict, dataset: pipeline.DataSet, fold: int, folder: Path | None, runtime: Runtime
) -> pd.DataFrame:
    """Trains on all folds but `fold` and predicts it.

    Writes checkpoints, history.csv and the final weights into `folder`; goes on from the newest checkpoint there. None
    on hosts other than the first, which alone reads and writes: they get from it what it has read.

    Returns:
      image_name, patient_id, fold, target, logit, probability of every held-out image.

    Raises:
      data.DataError: nothing to train on or to hold out, or a damaged shard.
      callbacks.DivergedError, checkpoint.CheckpointError: see there.
    """
    train_shards, held_out = dataset.others(fold), dataset.fold(fold)
    images, positives = pipeline.count(train_shards), sum(shard.positives for shard in train_shards)
    steps_per_epoch = images // config.batch_size
    _check(dataset, fold, images, positives, config.batch_size)
    log.info("fold %d: %d images, %d malignant, held out: %d", fold, images, positives, pipeline.count(held_out))

    # -------------------------------------------------------------------- model
    keras.utils.set_random_seed(config.seed + fold)
    checkpoints = folder / "checkpoints" if folder else None
    saved = runtime.hosts.broadcast(checkpoint.newest(checkpoints) if checkpoints else [])
    with runtime.scope():
        trainer, classifier = build.build_trainer(
            config, positives / images, steps_per_epoch, runtime.profile, fresh=not saved
        )
        quick, thorough = (predictor.predictor(classifier, tta=tta) for tta in (False, config.tta))
    log.info("%s", build.describe_xla(trainer, runtime.profile))
    with runtime.hosts.broadcast_folder(checkpoints, saved) as copy:
        progress = checkpoint.restore(copy, classifier, trainer.optimizer) or checkpoint.Progress()
    _check_order(progress, steps_per_epoch, runtime.hosts)
    if progress.step:
        log.info("fold %d goes on at step %d of %d", fold, progress.step, steps_per_epoch * config.epochs)

    # --------------------------------------------------------------- train loop
    # One `fit` per epoch: the order within an epoch is a function of (seed, epoch), so a resumed run can skip into it.
    table = pipeline.read_table(held_out)
    sizes = {"batch_size": config.batch_size, "image_size": config.image_size, "hosts": runtime.hosts}
    for epoch in range(progress.step // steps_per_epoch, config.epochs):
        skip = progress.step - epoch * steps_per_epoch
        batches = pipeline.train_batches(
            train_shards, seed=config.seed, epoch=epoch, skip_steps=skip, buffer=config.shuffle_buffer, **sizes
        )
        keeper = callbacks.TrainingGuard(config, steps_per_epoch * (epoch + 1), checkpoints, classifier, progress, skip)
        trainer.optimizer.reset_scale()
        started = time.perf_counter()
        with pipeline.naming_the_shard(train_shards):
            logs = trainer.fit(batches, callbacks=[keeper], shuffle=False, verbose=0).history
        images_per_s = (steps_per_epoch - skip) * config.batch_size / (time.perf_counter() - started)
        callbacks.sync_batch_stats(classifier)
        with checkpoint.averaged(classifier, trainer.optimizer):
            logits = predictor.predict_logits(quick, held_out, **sizes)
        row = {
            "epoch": epoch + 1,
            "step": progress.step,
            "loss": keeper.mean_loss(logs["loss"][-1]),
            "val_auc": metrics.auc(table["target"], logits),
            "skipped_steps": progress.step - callbacks.steps_taken(trainer.optimizer),
            "images_per_s": round(images_per_s, 1),
        }
        progress.history.append(row)
        if folder and checkpoints:
            checkpoint.save(checkpoints, classifier, trainer.optimizer, progress)
            files.write_text(folder / HISTORY, pd.DataFrame(progress.history).to_csv(index=False))
        log.info("fold %d: %s", fold, ", ".join(f"{key} {value:.6g}" for key, value in row.items()))

    # ------------------------------------------------------------------- result
    # The last epoch's weights, not the best one's: choosing the epoch by the held-out fold would flatter its AUC.
    with checkpoint.averaged(classifier, trainer.optimizer):
        if folder:
            checkpoint.save_final(folder / WEIGHTS, classifier)
        sizes["batch_size"] = predictor.batch_size(config.batch_size, config.tta, runtime.replicas)
        logits = predictor.predict_logits(thorough, held_out, **sizes)
    return table.assign(logit=logits, probability=predictor.sigmoid(logits))


def _check_order(progress: checkpoint.Progress, steps_per_epoch: int, hosts: Hosts) -> None:
    """That a run within an epoch goes on in that epoch's order; notes the order for what follows."""
    if progress.step % steps_per_epoch and progress.streams != pipeline.streams(hosts):
        raise checkpoint.CheckpointError(
            f"the run stopped within an epoch in an order that {hosts.count} host(s) do not make; use as many as before"
        )
    progress.streams = pipeline.streams(hosts)


def _check(dataset: pipeline.DataSet, fold: int, images: int, positives: int, batch_size: int) -> None:
    held_out = dataset.fold(fold)
    if not held_out:
        raise pipeline.DataError(f"{dataset.path} has no fold {fold}; there are folds 0 to {dataset.folds - 1}")
    if images < batch_size:
        raise pipeline.DataError(f"{images} images train fold {fold}, fewer than one batch of {batch_size}")
    for name, found, total in (
        ("training", positives, images),
        ("held-out", sum(shard.positives for shard in held_out), pipeline.count(held_out)),
    ):
        if not 0 < found < total:
            raise pipeline.DataError(
                f"the {name} images of fold {fold} are of one class: {found} of {total} are malignant"
            )
