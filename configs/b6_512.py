"""EfficientNet-B6 at 512 px, of the size that leading solutions of the competition used.

    python -m tfrecord_tools.build --size 512
    python -m melanoma_tf.preflight --config configs/b6_512.py --topology v5e-8 --find_batch
    python -m melanoma_tf.train --config configs/b6_512.py --strategy tpu --fold all

Hardware: TPU v5e-8 or v3-8, 8 images a chip; `melanoma_tf.preflight` says what fits on others. Not measured here. For
scale: B6 from Noisy-Student weights at 512 px, five folds, with ISIC 2019 images and pseudo-labels, reached 0.9495 on
the private leaderboard (second place, github.com/i-pan/kaggle-melanoma).
"""

import ml_collections

from melanoma_tf.core import config


def get_config() -> ml_collections.ConfigDict:
    """configs/default.py, larger."""
    c = config.default()
    c.model = "efficientnet-b6"
    c.image_size = 512
    c.dropout = 0.5  # as published for B6
    c.ema = 0.999
    return c
