"""EfficientNet-Lite0 at 224 px from ImageNet weights: for two CPU cores, and without a network once installed.

    pip install '.[cpu,lite]'
    python -m tfrecord_tools.build --size 224
    python -m melanoma_tf.train --config configs/lite0_224.py --strategy cpu --fold all

Hardware: two CPU cores, 4 GB of memory. Not measured yet.
"""

import ml_collections

from melanoma_tf.core import config


def get_config() -> ml_collections.ConfigDict:
    """configs/default.py, smaller."""
    c = config.default()
    c.model = "efficientnet-lite0"
    c.weights = "imagenet"  # in the extra `lite`
    c.image_size = 224  # as published for Lite0
    c.dropout = 0.2  # the same
    c.batch_size = 32
    c.epochs = 6
    c.lr = 2e-4  # the default's for half the batch: the square root, as Adam wants it
    c.optimizer = "adamw"
    c.weight_decay = 1e-4
    c.shuffle_buffer = 1024
    return c
