"""Training of one fold: the model, the optimizer and the loop over its epochs."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import keras
import ml_collections
import pandas as pd

from melanoma_tf.augment import geometry, policy
from melanoma_tf.augment.warp import shears
from melanoma_tf.core import files
from melanoma_tf.data import pipeline
from melanoma_tf.devices.multihost import Hosts
from melanoma_tf.devices.select import Runtime, share_nan
from melanoma_tf.evaluation import metrics
from melanoma_tf.inference import predictor
from melanoma_tf.models import backbones, losses, pretrained
from melanoma_tf.training import checkpoint, schedule
from melanoma_tf.training.run_dir import HISTORY, WEIGHTS

log = logging.getLogger("melanoma_tf")


class Diverged(RuntimeError):  # noqa: N818  it reads as what happened
    """Too many steps in a row had gradients that are not finite; the last good checkpoint is kept."""


def train(
    config: ml_collections.ConfigDict, dataset: pipeline.DataSet, fold: int, folder: Path | None, runtime: Runtime
) -> pd.DataFrame:
    """Trains on all folds but `fold` and predicts it.

    Writes checkpoints, history.csv and the final weights into `folder`; goes on from the newest checkpoint there. None
    on hosts other than the first, which alone reads and writes: they get from it what it has read.

    Returns:
      image_name, patient_id, fold, target, logit, probability of every held-out image.

    Raises:
      data.BadData: nothing to train on or to hold out, or a damaged shard.
      Diverged, checkpoint.BadCheckpoint: see there.
    """
    train_shards, held_out = dataset.others(fold), dataset.fold(fold)
    images, positives = pipeline.count(train_shards), sum(shard.positives for shard in train_shards)
    steps_per_epoch = images // config.batch_size
    _check(dataset, fold, images, positives, config.batch_size)
    log.info("fold %d: %d images, %d malignant, held out: %d", fold, images, positives, pipeline.count(held_out))

    # -------------------------------------------------------------------- model
    keras.utils.set_random_seed(config.seed + fold)
    checkpoints = folder / "checkpoints" if folder else None
    saved = runtime.hosts.from_first(checkpoint.newest(checkpoints) if checkpoints else [])
    with runtime.scope():
        trainer, classifier = build(
            config,
            positives / images,
            steps_per_epoch,
            fresh=not saved,
            resampling=runtime.resampling,
            strips=runtime.strips(config.strips, config.batch_size // runtime.replicas),
        )
        quick, thorough = (predictor.predictor(classifier, tta=tta) for tta in (False, config.tta))
    log.info("%s; %s", describe_xla(trainer), backbones.describe_strips(classifier))
    with runtime.hosts.folder_from_first(checkpoints, saved) as copy:
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
        keeper = Keeper(config, steps_per_epoch * (epoch + 1), checkpoints, classifier, progress, skip)
        trainer.optimizer.reset_scale()
        started = time.perf_counter()
        with pipeline.naming_the_shard(train_shards):
            logs = trainer.fit(batches, callbacks=[keeper], shuffle=False, verbose=0).history
        images_per_s = (steps_per_epoch - skip) * config.batch_size / (time.perf_counter() - started)
        share_statistics(classifier)
        with checkpoint.averaged(classifier, trainer.optimizer):
            logits = predictor.predict_logits(quick, held_out, **sizes)
        row = {
            "epoch": epoch + 1,
            "step": progress.step,
            "loss": keeper.mean_loss(logs["loss"][-1]),
            "val_auc": metrics.auc(table["target"], logits),
            "skipped_steps": progress.step - _steps_taken(trainer.optimizer),
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


def build(
    config: ml_collections.ConfigDict,
    prior: float,
    steps_per_epoch: int,
    *,
    fresh: bool = True,
    resampling: geometry.Method = "gather",
    strips: int = 1,
) -> tuple[keras.Model, keras.Model]:
    """The compiled model that is trained, {"image": u8[B,S,S,3], "seed": u32[B]} -> logit, and the classifier in it.

    prior: share of positives among the training images, for the head's first bias. fresh: whether to load the
    pretrained weights; not when a checkpoint will overwrite them. resampling: of augmentation, see `geometry.affine`;
    images too large to be sheared are turned by "matmul". strips: see `model.build_classifier`.
    """
    on_tpu, dtype = resampling in ("matmul", "shears"), keras.config.dtype_policy().compute_dtype
    # In float32 `widening.py` would lose digits where means are large.
    for_tpu = on_tpu and dtype == "bfloat16" and keras.backend.backend() == "jax"
    classifier = build_classifier(config, prior, strips, for_tpu)
    if fresh:
        log.info("weights: %s", pretrained.load(classifier, config.model, config.weights))
    image = keras.Input((config.image_size, config.image_size, 3), dtype="uint8", name="image")
    seed = keras.Input((), dtype="uint32", name="seed")
    if resampling == "shears" and config.image_size > shears.LARGEST:
        resampling = "matmul"
    # float32 also under mixed precision: bfloat16 has fewer levels than an 8-bit image. Only what a TPU resamples is
    # rounded: bytes moved are what it waits for.
    rounded = dtype if on_tpu else "float32"
    augment = policy.Augment(config.augment, resampling, rounded, dtype="float32", name="augment")
    augmented = augment(image, seed)
    trainer = Trainer({"image": image, "seed": seed}, classifier(augmented))
    loss = losses.build(
        config.loss,
        gamma=config.focal_gamma,
        alpha=config.focal_alpha or None,
        label_smoothing=config.label_smoothing,
    )
    trainer.compile(build_optimizer(config, steps_per_epoch), loss)
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer, classifier


def build_classifier(
    config: ml_collections.ConfigDict, prior: float | None = None, strips: int = 1, for_tpu: bool = False
) -> keras.Model:
    """The classifier a config describes, with random weights. strips, for_tpu: see `model.build_classifier`."""
    return backbones.build_classifier(
        config.model,
        config.image_size,
        dropout=config.dropout,
        drop_connect=config.drop_connect,
        prior=prior,
        batch_norm_momentum=config.batch_norm_momentum,
        freeze_batch_norm=config.freeze_batch_norm,
        strips=strips,
        for_tpu=for_tpu,
    )


def describe_xla(trainer: keras.Model) -> str:
    """Whether the compiled step goes through XLA, which Keras decides by devices and layers; if not, why."""
    if trainer.jit_compile:
        return "XLA: on"
    if trainer.get_layer("augment").method == "kernel":
        return "XLA: off, on CPUs TensorFlow's own kernels are faster"
    if trainer.get_layer("augment").method in ("matmul", "shears"):
        return "XLA: on, a TPU runs nothing else"
    classifier = next(layer for layer in trainer.layers if isinstance(layer, keras.Model))
    prevent = [layer.name for layer in (*trainer.layers, *classifier.layers) if not layer.supports_jit]
    if prevent:
        return f"XLA: OFF, which makes each step slower: it cannot compile {', '.join(prevent)}"
    return "XLA: off, as Keras does under MirroredStrategy"


OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}


def build_optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule, inside a SkippingOptimizer."""
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"config.optimizer={config.optimizer!r} is unknown; there is: {', '.join(OPTIMIZERS)}")
    learning_rate = schedule.warmup_cosine(
        config.lr,
        config.epochs * steps_per_epoch,
        round(config.warmup_epochs * steps_per_epoch),
        config.final_lr_fraction,
    )
    options: dict[str, Any] = {"use_ema": config.ema > 0, "ema_momentum": config.ema or 0.99}
    if config.optimizer == "adamw":
        options["weight_decay"] = config.weight_decay
    inner = OPTIMIZERS[config.optimizer](learning_rate, **options)
    if config.optimizer == "adamw":
        inner.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    # Only float16 needs a large scale. Elsewhere 1, and its halving and doubling are exact.
    scale = 2.0**15 if keras.config.dtype_policy().name == "mixed_float16" else 1.0
    return SkippingOptimizer(inner, initial_scale=scale)


class Trainer(keras.Model):
    """The model that is trained: Keras' own step, but statistics of batch norm that are not finite do not stay.

    A step with NaN in its activations is skipped by the optimizer; its moving statistics have to be undone too.
    """

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Keras' loss, of the targets mixed as the images are."""
        augment = self.get_layer("augment")
        if training and augment.mixes:
            y = augment.labels(y, x["seed"], *x["image"].shape[1:3])
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def train_step(self, *args: Any) -> Any:
        if keras.backend.backend() == "jax":
            state, batch = args
            logs, (trainable, statistics, *others) = super().train_step(state, batch)
            statistics = [_finite_or(new, old) for new, old in zip(statistics, state[1], strict=True)]
            return logs, (trainable, statistics, *others)
        statistics = [v for v in self.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
        before = [keras.ops.copy(v) for v in statistics]
        logs = super().train_step(*args)
        for variable, old in zip(statistics, before, strict=True):
            variable.assign(_finite_or(variable.value, old))
        return logs


def _finite_or(new: Any, old: Any) -> Any:
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(new.dtype)):
        return new
    return keras.ops.where(keras.ops.isfinite(new), new, old)


class SkippingOptimizer(keras.optimizers.LossScaleOptimizer):
    """Skips steps whose gradients are not finite, and leaves the weights being trained alone when a `fit` ends.

    Keras would overwrite them with their moving averages there; `checkpoint.averaged` lends those where they are used.
    """

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """TensorFlow's way (JAX sums over devices before it asks the optimizer)."""
        super().apply(share_nan(grads, self.check_finite(grads)), trainable_variables)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Does nothing."""

    def reset_scale(self) -> None:
        """Undoes the halvings of skipped steps, which would add up to an underflow; float16 searches its own scale."""
        if self.initial_scale == 1.0:
            self.dynamic_scale.assign(1.0)


class Keeper(keras.callbacks.Callback):
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
            _sync(self.model)
        if progress.step % every == 0:
            taken = _steps_taken(self.model.optimizer)
            if taken == progress.steps_taken:
                kept = f"The last good checkpoint is in {self.checkpoints}. " if self.checkpoints else ""
                raise Diverged(
                    f"{every} steps in a row, up to step {progress.step}, had gradients that are not finite. {kept}"
                    "Try a lower --config.lr, or --config.precision=float32."
                )
            progress.steps_taken = taken
        if saves:
            progress.loss = self.mean_loss(float((logs or {})["loss"]))
            share_statistics(self.classifier)
            if self.checkpoints:
                checkpoint.save(self.checkpoints, self.classifier, self.model.optimizer, progress)

    def mean_loss(self, since: float) -> float:
        """Over the epoch so far. since: over the steps of this process."""
        return (self.loss_before * self.skipped + since * self.made) / (self.skipped + self.made)


def share_statistics(classifier: keras.Model) -> None:
    """Gives every replica the mean of all replicas' batch norm statistics.

    Under MirroredStrategy each has its own: predictions would depend on which replica made them, and a resumed run,
    where all begin with the mean, would go on differently.
    """
    for variable in classifier.non_trainable_variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(keras.ops.convert_to_numpy(variable))


def _sync(model: keras.Model) -> None:
    """Gives the variables their values during a `fit`: under JAX it keeps them to itself."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def _steps_taken(optimizer: keras.optimizers.Optimizer) -> int:
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _check_order(progress: checkpoint.Progress, steps_per_epoch: int, hosts: Hosts) -> None:
    """That a run within an epoch goes on in that epoch's order; notes the order for what follows."""
    if progress.step % steps_per_epoch and progress.streams != pipeline.streams(hosts):
        raise checkpoint.BadCheckpoint(
            f"the run stopped within an epoch in an order that {hosts.count} host(s) do not make; use as many as before"
        )
    progress.streams = pipeline.streams(hosts)


def _check(dataset: pipeline.DataSet, fold: int, images: int, positives: int, batch_size: int) -> None:
    held_out = dataset.fold(fold)
    if not held_out:
        raise pipeline.BadData(f"{dataset.path} has no fold {fold}; there are folds 0 to {dataset.folds - 1}")
    if images < batch_size:
        raise pipeline.BadData(f"{images} images train fold {fold}, fewer than one batch of {batch_size}")
    for name, found, total in (
        ("training", positives, images),
        ("held-out", sum(shard.positives for shard in held_out), pipeline.count(held_out)),
    ):
        if not 0 < found < total:
            raise pipeline.BadData(
                f"the {name} images of fold {fold} are of one class: {found} of {total} are malignant"
            )
