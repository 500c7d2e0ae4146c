"""What tensorflow-addons makes of given inputs; runs in its own environment, which has none of this project.

python parity_reference.py IN.npz OUT.npz
"""

import sys
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa


def trained(optimizer, start, gradients):
    """The variable after each gradient, and the moving average at the end where there is one."""
    variable = tf.Variable(start)
    steps = []
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        steps.append(variable.numpy())
    return np.stack(steps), variable, optimizer


def main():
    given, out = dict(np.load(sys.argv[1])), {}
    focal = tfa.losses.SigmoidFocalCrossEntropy(from_logits=True, reduction=tf.keras.losses.Reduction.NONE)
    out["focal"] = focal(given["labels"][:, None], given["logits"][:, None])
    images = tf.constant(given["images"])
    for fill in ("constant", "nearest", "reflect"):
        options = {"interpolation": "bilinear", "fill_mode": fill, "fill_value": 9.0}
        out[f"transform {fill}"] = tfa.image.transform(images, given["transforms"], **options)
        out[f"rotate {fill}"] = tfa.image.rotate(images, given["angles"], **options)
    out["cutout"] = tfa.image.cutout(images, (8, 8), offset=given["offsets"], constant_values=3)
    out["random cutout"] = tfa.image.random_cutout(tf.ones([int(given["many"]), 20, 20, 1]), (8, 8))
    decay = float(given["weight_decay"])
    adamw = tfa.optimizers.AdamW(weight_decay=decay, learning_rate=float(given["lr"]), epsilon=1e-7)
    radam = tfa.optimizers.RectifiedAdam(float(given["lr"]), weight_decay=decay)
    again = tfa.optimizers.RectifiedAdam(float(given["lr"]), weight_decay=decay)
    adam = tf.keras.optimizers.legacy.Adam(float(given["lr"]))
    compared = {"adamw": adamw, "radam": radam, "lookahead": tfa.optimizers.Lookahead(again)}
    compared["lookahead of adam"] = tfa.optimizers.Lookahead(adam, 4, 0.3)
    for name, optimizer in compared.items():
        out[name], *_ = trained(optimizer, given["start"], given["gradients"])
    inner = tf.keras.optimizers.legacy.Adam(float(given["lr"]))
    averaging = tfa.optimizers.MovingAverage(inner, average_decay=float(given["decay"]))
    _, variable, averaging = trained(averaging, given["start"], given["gradients"])
    averaging.assign_average_vars([variable])
    out["moving average"] = variable.numpy()
    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in out.items()}
    np.savez(sys.argv[2], **arrays)


if __name__ == "__main__":
    main()
