"""The compiled training model of a config, and the classifier in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import ml_collections

from melanoma_tf.augment import policy
from melanoma_tf.augment.warp import shears
from melanoma_tf.data import metadata, targets
from melanoma_tf.data.metadata import Metadata
from melanoma_tf.data.targets import Targets
from melanoma_tf.devices.profile import DeviceProfile
from melanoma_tf.models import backbones, heads, losses, pretrained
from melanoma_tf.tpu import rewrite
from melanoma_tf.training import schedule
from melanoma_tf.training.step import MixedMetadata, SkippingOptimizer, Trainer

log = logging.getLogger("melanoma_tf")


def build_trainer(
    config: ml_collections.ConfigDict,
    prior: float,
    steps_per_epoch: int,
    profile: DeviceProfile,
    *,
    fresh: bool = True,
    frozen: bool = False,
    epochs_before: Sequence[int] = (),
) -> tuple[keras.Model, keras.Model]:
    """Builds the compiled training model and its classifier.

    Args:
      config: see configs/default.py.
      prior: share of positives among the training images, for the head's first bias.
      steps_per_epoch: for the learning rate schedule.
      profile: devices that the model is trained on.
      fresh: whether to load the pretrained weights; False where a checkpoint will overwrite them.
      frozen: whether only the head is trained; batch norm of the backbone then uses its moving statistics.
      epochs_before: earlier values of config.epochs if the run was extended.

    Returns:
      The trained model, {"image": u8[B,S,S,3], "seed": u32[B], "metadata": f32[B,M] if config.metadata} -> logits
      f32[B,1] or, with diagnoses, f32[B,1+K]; and the classifier in it.
    """
    dtype = keras.config.dtype_policy().compute_dtype
    graph = rewrite.choose(config.tpu, profile, config.batch_size, dtype)
    classifier = build_classifier(config, prior, graph)
    if profile.is_tpu:
        log.info("tpu: %s", rewrite.describe(classifier))
    if fresh:
        log.info("weights: %s", pretrained.load(classifier, config.model, config.weights))
    if frozen:
        for layer in backbones.backbone_layers(classifier):
            layer.trainable = False
    size = config.image_size
    inputs = {
        "image": keras.Input((size, size, 3), dtype="uint8", name="image"),
        "seed": keras.Input((), dtype="uint32", name="seed"),
    }
    warp = profile.warp_method(config.tpu)
    if warp == "shears" and size > shears.LARGEST:
        warp = "matmul"
    # float32 also under mixed precision: bfloat16 has fewer levels than an 8-bit image.
    augment = policy.Augment(config.augment, warp, profile.warp_dtype(dtype), dtype="float32", name="augment")
    given = augment(inputs["image"], inputs["seed"])
    if width := Metadata(metadata.parse(config.metadata)).width:
        inputs["metadata"] = keras.Input((width,), dtype="float32", name="metadata")
        given = [given, MixedMetadata(augment, size, dtype="float32")(inputs["metadata"], inputs["seed"])]
    trainer = Trainer(inputs, classifier(given))
    loss = build_loss(config, prior, steps_per_epoch * config.batch_size)
    trainer.compile(build_optimizer(config, steps_per_epoch, epochs_before), loss)
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer, classifier


def build_classifier(
    config: ml_collections.ConfigDict, prior: float | None = None, graph: rewrite.Rewrite | None = None
) -> keras.Model:
    """The classifier of a config, with random weights.

    Args:
      config: see configs/default.py.
      prior: share of positives, for the head's first bias.
      graph: rewrite of the published graph; None for the plain one. Weights are the same.
    """
    return backbones.build_classifier(
        config.model,
        config.image_size,
        dropout=config.dropout,
        drop_connect=config.drop_connect,
        prior=prior,
        batch_norm_momentum=config.batch_norm_momentum,
        freeze_batch_norm=config.freeze_batch_norm,
        rewrite=graph,
        head=heads.Head(
            pooling=config.pooling,
            dropout_samples=config.dropout_samples,
            metadata=Metadata(metadata.parse(config.metadata)).width,
            outputs=config.head,
            positive=build_targets(config).mask,
        ),
    )


def soft_labels(config: ml_collections.ConfigDict, fold: int) -> Path:
    """The file of soft labels for a fold that is held out."""
    return Path(config.soft_labels.replace("{fold}", str(fold))).expanduser()


def build_targets(config: ml_collections.ConfigDict, fold: int = 0) -> Targets:
    """What a config learns of a record. fold: held out, for soft labels of its own."""
    soft = targets.read_soft(soft_labels(config, fold)) if config.soft_labels else {}
    return Targets(targets.parse(config.target), config.head != "target", soft)


def build_loss(config: ml_collections.ConfigDict, prior: float, images: int) -> keras.losses.Loss:
    """The loss of a config on logits.

    Args:
      config: see configs/default.py.
      prior: share of positives among the training images.
      images: of an epoch.
    """
    alpha = config.focal_alpha or None
    if config.loss == "class_balanced":
        beta = config.class_balanced_beta
        alpha = losses.class_balanced_alpha(beta, prior * images, (1 - prior) * images)
    loss = losses.build(
        config.loss,
        gamma=config.focal_gamma,
        alpha=alpha,
        label_smoothing=config.label_smoothing,
        pos_weight=config.pos_weight,
    )
    if config.head == "target":
        return loss
    only = config.head == "diagnosis"
    return losses.WithDiagnosis(None if only else loss, 1.0 if only else config.diagnosis_weight)


def describe_xla(trainer: keras.Model, profile: DeviceProfile) -> str:
    """Whether the step is compiled by XLA, which Keras decides by devices and layers; if not, why."""
    if trainer.jit_compile:
        return "XLA: on"
    if profile.prefers_own_kernels:
        return "XLA: off, on CPUs TensorFlow's own kernels are faster"
    if profile.is_tpu:
        return "XLA: on, a TPU runs nothing else"
    classifier = next(layer for layer in trainer.layers if isinstance(layer, keras.Model))
    prevent = [layer.name for layer in (*trainer.layers, *classifier.layers) if not layer.supports_jit]
    if prevent:
        return f"XLA: OFF, which makes each step slower: it cannot compile {', '.join(prevent)}"
    return "XLA: off, as Keras does under MirroredStrategy"


def learning_rate(
    config: ml_collections.ConfigDict, steps_per_epoch: int, epochs_before: Sequence[int] = ()
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The schedule of a run. epochs_before: earlier values of config.epochs if the run was extended."""
    ends = [epochs * steps_per_epoch for epochs in (*epochs_before, config.epochs)]
    warmup = round(config.warmup_epochs * steps_per_epoch)
    return schedule.extended(
        {end: schedule.warmup_cosine(config.lr, end, warmup, config.final_lr_fraction) for end in ends}
    )


OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}


def build_optimizer(
    config: ml_collections.ConfigDict, steps_per_epoch: int, epochs_before: Sequence[int] = ()
) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule, inside a SkippingOptimizer."""
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown config.optimizer={config.optimizer!r}; expected one of: {', '.join(OPTIMIZERS)}")
    rate = learning_rate(config, steps_per_epoch, epochs_before)
    options: dict[str, Any] = {"use_ema": config.ema > 0, "ema_momentum": config.ema or 0.99}
    if config.optimizer == "adamw":
        options["weight_decay"] = config.weight_decay
    inner = OPTIMIZERS[config.optimizer](rate, **options)
    if config.optimizer == "adamw":
        # "variable": ConvNeXt's layer scales, which Keras leaves without a name.
        inner.exclude_from_weight_decay(var_names=["bias", "beta", "gamma", "variable"])
    # Only float16 needs a large scale. Elsewhere 1, and its halving and doubling are exact.
    scale = 2.0**15 if keras.config.dtype_policy().name == "mixed_float16" else 1.0
    return SkippingOptimizer(inner, initial_scale=scale)
