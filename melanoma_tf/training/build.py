"""From a config to the compiled model that is trained, and the classifier in it."""

from __future__ import annotations

import logging
from typing import Any

import keras
import ml_collections

from melanoma_tf.augment import geometry, policy
from melanoma_tf.augment.warp import shears
from melanoma_tf.models import backbones, losses, pretrained
from melanoma_tf.training import schedule
from melanoma_tf.training.step import SkippingOptimizer, Trainer

log = logging.getLogger("melanoma_tf")


def build_trainer(
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
