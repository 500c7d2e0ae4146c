"""The recipe to start from: EfficientNet-B3 at 384 px from Noisy-Student weights, focal loss, 5 folds.

    python -m tfrecord_tools.build --size 384
    python -m melanoma_tf.train --strategy tpu --fold all

Hardware: one 16 GB GPU (T4, P100) or a TPU v3-8/v5e-8; on a TPU: --config.batch_size=256 --config.lr=6e-4.
Not measured on SIIM-ISIC 2020 yet.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """All settings."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # of order, augmentation and initial weights of the head

    c.model = "efficientnet-b3"  # a name of melanoma_tf/models/registry.py
    c.weights = "noisy-student"  # imagenet | noisy-student | autoaugment | none | a path
    c.image_size = 384  # pixels; records of another size are resampled on the host
    c.first_sizes = ""  # progressive resizing: "192x2,256x3" for 2 epochs at 192 px and 3 at 256 before the others
    c.pooling = "avg"  # avg | max | gem
    c.dropout = 0.3
    c.dropout_samples = 1  # masks of dropout whose logits are averaged: multi-sample dropout
    c.drop_connect = 0.2
    c.batch_norm_momentum = ml_collections.config_dict.placeholder(float)  # None: the backbone's own
    c.freeze_batch_norm = False

    # What is learned, see docs/training.md.
    c.target = "melanoma"  # melanoma | malignant | diagnoses: "melanoma, basal cell carcinoma"
    c.head = "target"  # target | target+diagnosis | diagnosis, whose softmax gives the target's logit
    c.diagnosis_weight = 0.3  # of its cross-entropy beside the loss of the target
    c.metadata = ""  # "sex, age, site" joins them to the image; image_size, images_per_patient are shortcuts
    c.soft_labels = ""  # CSV of image_name,target that replaces labels; {fold} in its name is the held-out fold

    # Operations or the name of a policy, see docs/augmentation.md; runs on the device.
    c.augment = "flip|affine(rotate=180, shear=2, zoom=0.1, shift=0.02)|color(0.1, 0.1, 0.1, 0.02)"
    c.tta = True  # predict: mean over the eight flips and quarter turns
    c.tta_random = 0  # views drawn by `augment` instead of the eight

    c.loss = "focal"  # focal | class_balanced, focal with an alpha from the number of images of each class | bce
    c.focal_gamma = 2.0
    c.focal_alpha = 0.25  # of the positive class, Lin et al. 2017; 0 for no weights
    c.class_balanced_beta = 0.999  # class_balanced only, Cui et al. 2019: from 0, no weights, towards 1, equal classes
    c.pos_weight = 1.0  # bce only: factor of the positive class
    c.label_smoothing = 0.0
    c.oversample = 1  # how often an epoch reads each positive image
    c.positive_share = 0.0  # of each batch; 0: as the data has them

    c.epochs = 12
    c.freeze_epochs = 0  # first of them, in which only the head is trained
    c.freeze_lr = 1e-3  # by Adam, constant
    c.patience = 0  # epochs without a better AUC on the next fold, which is then not trained on; 0: all epochs
    c.batch_size = 64  # global: the same learning rate fits any number of devices
    c.accumulate_steps = 1  # batches whose mean gradient is one update of the weights; the other counts are batches
    c.optimizer = "adam"  # adam | adamw | radam
    c.lookahead = 0  # updates per step of slow weights, half of the way; 0: none. 6 with radam is known as Ranger
    c.lr = 3e-4  # peak
    c.layer_decay = 1.0  # factor of the learning rate from each stage of the backbone to the one before; of the head 1
    c.warmup_epochs = 1.0
    c.final_lr_fraction = 0.01
    c.weight_decay = 0.0  # adamw and radam, decoupled; not on biases and batch norm
    c.ema = 0.0  # decay per update of the moving average of the weights that is evaluated and kept; 0: none

    c.precision = "auto"  # auto | float32 | mixed_bfloat16 | mixed_float16
    c.shuffle_buffer = 2048  # encoded records: 80 MB at 384 px
    c.checkpoint_every = 500  # steps; every epoch ends with one anyway
    c.max_bad_steps = 20  # in a row with NaN or infinite gradients, then the run stops

    # TPUs only, see docs/tpu.md. None has run on a TPU yet; `python -m melanoma_tf.doctor --measure` tries them.
    c.tpu = ml_collections.ConfigDict()
    c.tpu.rewrites = False  # faster layers with the same weights; JAX and bfloat16
    c.tpu.spatial_splits = 1  # parts of each image in the first blocks; 0: enough to fill the registers
    c.tpu.warp = "matmul"  # matmul | shears, a Pallas kernel (v5e and later)
    return c
