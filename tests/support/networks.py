"""Networks with random weights that see their input, and images that they tell apart."""

from __future__ import annotations

import keras
import numpy as np


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Batch norm statistics and biases that are not those of a fresh model, so that mixing them up shows."""
    rng = np.random.default_rng(seed)
    draw = {
        "gamma": lambda shape: rng.uniform(0.7, 1.3, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 1.5, shape),
        "beta": lambda shape: rng.normal(0, 0.2, shape),
        "moving_mean": lambda shape: rng.normal(0, 0.2, shape),
        "bias": lambda shape: rng.normal(0, 0.2, shape),
    }
    for layer in model.layers:
        for variable in layer.weights:
            # ConvNeXt's layer scales, which have no name, begin with 1e-6.
            name = "gamma" if variable.name.startswith("variable") else variable.name
            if name in draw:
                variable.assign(draw[name](tuple(variable.shape)))


def calibrate(model: keras.Model, images: np.ndarray) -> None:
    """Moving statistics as training on `images` would leave them; without, a random network hardly sees its input."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer in norms:  # a channel that hardly varies over so few images would blow up rounding errors
        variance = keras.ops.convert_to_numpy(layer.moving_variance)
        layer.moving_variance.assign(variance + 0.03 * variance.mean())


def pixels(size: int, count: int = 2) -> np.ndarray:
    """f32[count,size,size,3] of whole numbers in [0,255]; each image has its own color under the noise."""
    rng = np.random.default_rng(1)
    color = rng.uniform(0, 200, (count, 1, 1, 3))
    return np.floor(color + rng.uniform(0, 56, (count, size, size, 3))).astype(np.float32)


def features(model: keras.Model, images: np.ndarray) -> np.ndarray:
    pooled = keras.Model(model.input, model.get_layer("pool").output)
    return keras.ops.convert_to_numpy(pooled(images, training=False))


def agree(ours: np.ndarray, reference: np.ndarray) -> None:
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=2e-5 * np.abs(reference).max())
    assert np.ptp(reference, axis=0).max() > 0.1 * np.abs(reference).max()  # the images do make a difference
