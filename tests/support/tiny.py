"""A model small enough for tests: the stem and first block of the real EfficientNet-B0, and a config for it."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import keras
import ml_collections
from keras.src.applications import efficientnet  # its constructor with settings of the blocks is not public

from melanoma_tf.core import config as configs
from melanoma_tf.models import backbones, heads

build_real_classifier = backbones.build_classifier
LAST_LAYER = "block1a_project_bn"
# `python -c TRAIN --flags` is melanoma_tf.train with the tiny model.
TRAIN = (
    "from tests.support import tiny; from melanoma_tf.models import backbones; "
    "backbones.build_classifier = tiny.build_classifier; "
    "from melanoma_tf import train; train.run()"
)
SETTINGS = {"image_size": 32, "batch_size": 8, "epochs": 1, "warmup_epochs": 0.0, "tta": True}
SMOKE = ["--config", "configs/smoke.py", "--strategy", "cpu", *(f"--config.{k}={v}" for k, v in SETTINGS.items())]


def build_classifier(
    name: str, image_size: int, *, dropout: float, head: heads.Head = backbones.DEFAULT_HEAD, **options: Any
) -> keras.Model:
    """`backbones.build_classifier` of EfficientNet-B0, cut off after `LAST_LAYER`; later stages are not even built."""
    stages = efficientnet.DEFAULT_BLOCKS_ARGS[: int(LAST_LAYER[len("block")])]
    short = functools.partial(efficientnet.EfficientNet, 1.0, 1.0, 224, blocks_args=stages)
    with mock.patch("keras.applications.EfficientNetB0", short):
        whole = build_real_classifier(name, image_size, dropout=dropout, **options)
    split = "merge_rows" in [layer.name for layer in whole.layers]  # where splits are images again
    features = whole.get_layer("merge_rows" if split else LAST_LAYER).output
    prior = options.get("prior")
    return heads.classifier(whole.input, features, dropout=dropout, prior=prior, head=head, name=name)


def config(**changes: Any) -> ml_collections.ConfigDict:
    """configs/default.py at 32 px for two epochs, without pretrained weights."""
    c = configs.default()
    c.update(model="efficientnet-b0", weights="none", image_size=32, batch_size=8, epochs=2, warmup_epochs=0.5)
    c.update(shuffle_buffer=64, **changes)
    return c
