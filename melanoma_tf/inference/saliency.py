"""Grad-CAM: where the last feature map of a model speaks for melanoma, and where against it.

Selvaraju et al. 2017 (https://arxiv.org/abs/1610.02391): with the feature map A[H,W,K] and a class score y, channel k
has the weight a[k] = mean over positions of dy/dA[:,:,k], and the map is ReLU(S) with S = sum over k of a[k] A[:,:,k].
The score of melanoma is the logit and that of the other class its negative, so their maps are ReLU(S) and ReLU(-S).

For global average pooling and a linear head a[k] = w[k] / (H W), the class activation map of Zhou et al. 2016. The
gradient is taken anyway, so that any differentiable head will do, and any input beside the image.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from melanoma_tf.augment import geometry
from melanoma_tf.devices import gradients

SYMMETRIES = 8  # of a square: flips and quarter turns


class GradCam:
    """Grad-CAM of a model's logit, before the ReLU.

    The model computes with the weights that it has at each call.
    """

    def __init__(self, model: keras.Model, *, smooth: bool) -> None:
        """Splits the model at the feature map that it pools.

        Args:
          model: functional model to logits [B,1]; its inputs are one tensor, or a list or dict of them. Inputs
            [B,S,S,C] are images, all others, such as metadata, are used as they are.
          smooth: whether to average over the eight symmetries of an image, each map turned back. With a linear head
            the mean explains the mean logit of the eight views, which `predict` takes with config.tta.

        Raises:
          ValueError: the model pools no feature map, has more than one output or logit, or (smooth) images that are
            not square.
        """
        features = pooled_features(model)
        if not isinstance(model.output, keras.KerasTensor) or model.output.shape[1:] != (1,):
            raise ValueError(f"model {model.name!r} has outputs {model.output_shape}; expected one logit [B,1]")
        shapes = [tensor.shape for tensor in model.inputs if len(tensor.shape) == 4]
        if smooth and any(shape[1] != shape[2] for shape in shapes):
            raise ValueError(f"model {model.name!r} has images {shapes}; expected squares to turn, or smooth=False")
        self._smooth = smooth
        self._encoder = keras.Model(model.input, features)
        self._head = keras.Model([features, model.input], model.output)  # the inputs too: they may reach the logit

    def __call__(self, inputs: Any) -> NDArray[np.float32]:
        """Returns S, f32[B,H,W], at the resolution of the feature map; inputs: as of the model."""
        if self._smooth:
            inputs = keras.tree.map_structure(_views, inputs)
        maps = self._maps(inputs)
        if self._smooth:
            back = geometry.inverse(_each_symmetry(len(maps) // SYMMETRIES))
            maps = geometry.dihedral(maps[..., None], back)[..., 0]
            maps = ops.mean(ops.reshape(maps, (-1, SYMMETRIES, *maps.shape[1:])), axis=1)
        return ops.convert_to_numpy(maps)

    def _maps(self, inputs: Any) -> Any:
        inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        # Compiled by Keras for this shape once; the head is small and runs as it is.
        features = ops.convert_to_tensor(self._encoder.predict_on_batch(inputs))
        gradient = gradients.of_sum(lambda values: self._head([values, inputs], training=False), features)
        weights = ops.mean(ops.cast(gradient, "float32"), axis=(1, 2), keepdims=True)
        return ops.sum(weights * ops.cast(features, "float32"), axis=-1)


def pooled_features(model: keras.Model) -> keras.KerasTensor:
    """Returns the feature map [B,H,W,C] that a model pools last, over its height and width.

    Raises:
      ValueError: it pools none, or does so within a model that is one of its layers.
    """
    for operation in reversed(getattr(model, "operations", ())):  # a Sequential has none
        if isinstance(operation, keras.Model):  # its input is the image
            continue
        before, after = operation.input, operation.output
        if _rank(before) == 4 and _rank(after) in (2, 3):
            return before
    raise ValueError(
        f"model {model.name!r} pools no feature map [B,H,W,C]; expected a functional model, its backbone not nested"
    )


def _rank(tensor: Any) -> int | None:
    """The rank of a tensor; None for several tensors."""
    return len(tensor.shape) if isinstance(tensor, keras.KerasTensor) else None


def _each_symmetry(images: int) -> Any:
    """Returns the eight symmetries for each of so many images, i32[8 * images]."""
    return ops.convert_to_tensor(np.tile(np.arange(SYMMETRIES, dtype=np.int32), images))


def _views(values: Any) -> Any:
    """Returns each row eight times, images [B,S,S,C] in their eight symmetries."""
    repeated = ops.repeat(ops.convert_to_tensor(values), SYMMETRIES, axis=0)
    return geometry.dihedral(repeated, _each_symmetry(len(values))) if len(repeated.shape) == 4 else repeated
