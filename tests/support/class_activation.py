"""Grad-CAM against its closed forms, on whichever backend Keras has: run by test_saliency in its own process and JAX's.

`python -m tests.support.class_activation` prints the backend and whether TensorFlow was imported.
"""

from __future__ import annotations

import os
import sys

import keras
import numpy as np

from melanoma_tf.inference import saliency

RNG = np.random.default_rng(0)


def turned(images: np.ndarray, symmetry: int) -> np.ndarray:
    """Images [B,S,S,...] in one of the symmetries of `geometry.dihedral`, by NumPy."""
    images = images.swapaxes(1, 2) if symmetry & 4 else images
    images = images[:, ::-1] if symmetry & 2 else images
    return images[:, :, ::-1] if symmetry & 1 else images


def turned_back(images: np.ndarray, symmetry: int) -> np.ndarray:
    """The inverse of `turned`: its steps in reverse order."""
    images = images[:, :, ::-1] if symmetry & 1 else images
    images = images[:, ::-1] if symmetry & 2 else images
    return images.swapaxes(1, 2) if symmetry & 4 else images


def with_weights(model: keras.Model) -> keras.Model:
    """Gives a model the same weights on every backend."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, np.sqrt(2 / max(w[..., 0].size, 1)), w.shape) for w in model.get_weights()])
    return model


def check_linear_head(model: keras.Model, features: keras.KerasTensor) -> None:
    """Pooling and one dense layer: the class activation map, divided by the number of positions.

    Args:
      model: from images [B,S,S,3], whose last layer is called logit.
      features: what it pools.
    """
    encoder, kernel = keras.Model(model.input, features), np.asarray(model.get_layer("logit").kernel)[:, 0]
    images = RNG.normal(size=(2, *model.input.shape[1:])).astype(np.float32)

    def signed(views: np.ndarray) -> np.ndarray:
        found = np.asarray(encoder(np.ascontiguousarray(views), training=False))
        return found @ kernel / (found.shape[1] * found.shape[2])

    plain = signed(images)
    assert 0.05 < (plain > 0).mean() < 0.95
    views = [turned_back(signed(turned(images, symmetry)), symmetry) for symmetry in range(8)]
    assert np.abs(views[5] - plain).max() > 0.01 * np.abs(plain).max()  # the mean does something
    for smooth, expected in ((False, plain), (True, np.mean(views, axis=0))):
        found = saliency.GradCam(model, smooth=smooth)(images)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def convolutional() -> tuple[keras.Model, keras.KerasTensor]:
    """A small model and what it pools."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="tanh")(image)
    pooled = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
    return with_weights(keras.Model(image, keras.layers.Dense(1, name="logit")(pooled))), x


def check_metadata_and_hidden_layer() -> None:
    """Metadata that scales the feature map and enters a hidden tanh layer, whose gradient is v (1 - tanh^2) W."""
    image, metadata = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name="metadata")
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    x = keras.layers.Multiply()([x, keras.layers.Reshape((1, 1, 8))(keras.layers.Dense(8)(metadata))])
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    hidden = keras.layers.Dense(6, activation="tanh", name="hidden")(keras.layers.Concatenate()([pooled, metadata]))
    model = with_weights(
        keras.Model({"image": image, "metadata": metadata}, keras.layers.Dense(1, name="logit")(hidden))
    )
    inputs = {
        "image": RNG.normal(size=(3, 16, 16, 3)).astype(np.float32),
        "metadata": RNG.normal(size=(3, 4)).astype(np.float32),
    }
    inner = keras.Model(model.input, [x, hidden])
    first, last = (np.asarray(model.get_layer(name).kernel) for name in ("hidden", "logit"))

    def signed(symmetry: int) -> np.ndarray:
        views = {**inputs, "image": np.ascontiguousarray(turned(inputs["image"], symmetry))}
        features, activation = (np.asarray(each) for each in inner(views, training=False))
        weights = ((1 - activation**2) * last[:, 0]) @ first[:8].T / 64  # [B,8], 8 x 8 positions
        return turned_back(np.einsum("bhwk,bk->bhw", features, weights), symmetry)

    for smooth, expected in ((False, signed(0)), (True, np.mean([signed(s) for s in range(8)], axis=0))):
        found = saliency.GradCam(model, smooth=smooth)(inputs)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def check() -> None:
    """Both closed forms."""
    check_linear_head(*convolutional())
    check_metadata_and_hidden_layer()


if __name__ == "__main__":
    check()
    print(os.environ["KERAS_BACKEND"], keras.backend.backend(), "tensorflow" in sys.modules)
