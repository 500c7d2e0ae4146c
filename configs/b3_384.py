"""EfficientNet-B3 at 384 px for eight TPU chips: configs/default.py with a larger batch and averages.

    python -m tfrecord_tools.build --size 384
    python -m melanoma_tf.preflight --config configs/b3_384.py --topology v5e-8
    python -m melanoma_tf.train --config configs/b3_384.py --strategy tpu --fold all

Hardware: TPU v5e-8 or v3-8, 32 images a chip. Not measured on SIIM-ISIC 2020 yet.
"""

import ml_collections

from melanoma_tf.core import config


def get_config() -> ml_collections.ConfigDict:
    """configs/default.py with a larger batch, AdamW and moving averages."""
    c = config.default()
    c.batch_size = 256
    c.lr = 6e-4  # twice the default's for four times the batch: the square root, as Adam wants it
    c.ema = 0.997  # over about 300 steps, three epochs of this batch
    c.optimizer = "adamw"
    c.weight_decay = 1e-4
    return c
