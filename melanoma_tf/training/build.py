"""The compiled training model of a config, and the classifier in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

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
from melanoma_tf.training import optimizers
from melanoma_tf.training.step import MixedMetadata, Trainer

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

    Raises:
      ValueError: a setting that is impossible, or impossible on these devices.
    """
    if config.accumulate_steps > 1 and profile.backend == "tensorflow" and profile.replicas > 1:
        raise ValueError(
            f"config.accumulate_steps={config.accumulate_steps}: under TensorFlow gradients accumulate on one device "
            f"only, got {profile.replicas}; pass --backend jax, or --config.accumulate_steps=1 and a larger batch_size"
        )
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
    trainer = _trainer(config, classifier, profile)
    loss = build_loss(config, prior, steps_per_epoch * config.batch_size)
    trainer.compile(optimizers.build_optimizer(config, steps_per_epoch, epochs_before, classifier), loss)
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer, classifier


def _trainer(config: ml_collections.ConfigDict, classifier: keras.Model, profile: DeviceProfile) -> Trainer:
    """The classifier behind the augmentation of its images, and the mixing of their metadata."""
    size = config.image_size
    inputs = {
        "image": keras.Input((size, size, 3), dtype="uint8", name="image"),
        "seed": keras.Input((), dtype="uint32", name="seed"),
    }
    warp = profile.warp_method(config.tpu)
    if warp == "shears" and size > shears.LARGEST:
        warp = "matmul"
    # float32 also under mixed precision: bfloat16 has fewer levels than an 8-bit image.
    augment = policy.Augment(
        config.augment,
        warp,
        profile.warp_dtype(keras.config.dtype_policy().compute_dtype),
        dtype="float32",
        name="augment",
    )
    given = augment(inputs["image"], inputs["seed"])
    if width := Metadata(metadata.parse(config.metadata)).width:
        inputs["metadata"] = keras.Input((width,), dtype="float32", name="metadata")
        given = [given, MixedMetadata(augment, size, dtype="float32")(inputs["metadata"], inputs["seed"])]
    return Trainer(inputs, classifier(given))


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
            positive=Targets(targets.parse(config.target)).mask,
        ),
    )


def soft_labels(config: ml_collections.ConfigDict, fold: int) -> Path:
    """The file of soft labels for a fold that is held out."""
    return Path(config.soft_labels.replace("{fold}", str(fold))).expanduser()


def build_targets(config: ml_collections.ConfigDict, fold: int) -> Targets:
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
