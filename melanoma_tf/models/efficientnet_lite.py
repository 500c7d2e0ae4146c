"""EfficientNet-Lite: EfficientNet V1 for devices without swish and squeeze-and-excitation.

The graph is V1's without squeeze-and-excitation and with ReLU6; scaling leaves the stem, the head, and the repeats of
the first and the last stage as they are in Lite0. Layers are called as in `keras.applications`' EfficientNets.
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

_STAGES = (  # repeats, kernel size, stride, expansion, filters
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280  # filters
_DIVISOR = 8  # of scaled filters
_MODULES = {  # part of a layer's name -> PyTorch's module
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
}
_BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def build(
    *, width: float, depth: float, input_shape: tuple[int, int, int], weights: None = None, include_top: bool = False
) -> keras.Model:
    """An EfficientNet-Lite with random weights: f32[B,H,W,3] in [-0.9921875, 1] -> f32[B,ceil(H/32),ceil(W/32),1280].

    Args:
      width: factor of the filters.
      depth: factor of the repeats.
      input_shape: (H, W, 3).
      weights: None, as `keras.applications` has it; see `pretrained.py` for others.
      include_top: False, the same.
    """
    if weights is not None or include_top:
        raise ValueError(f"weights={weights!r}, include_top={include_top}; expected None and False")
    image = keras.Input(input_shape)
    x = _normalized(_convolution(_STEM, 3, 2, "stem_conv")(image), "stem_")
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(_STAGES):
        filters, scaled = _scaled(filters, width), stage not in (0, len(_STAGES) - 1)
        for repeat in range(math.ceil(repeats * depth) if scaled else repeats):
            name = f"block{stage + 1}{chr(ord('a') + repeat)}_"
            x = _block(x, name, kernel, 1 if repeat else stride, expansion, filters)
    x = _normalized(_convolution(_HEAD, 1, 1, "top_conv")(x), "top_")
    return keras.Model(image, x)


EfficientNetLite0 = functools.partial(build, width=1.0, depth=1.0)
EfficientNetLite1 = functools.partial(build, width=1.0, depth=1.1)
EfficientNetLite2 = functools.partial(build, width=1.1, depth=1.2)


def layer_tensors(
    state: Mapping[str, np.ndarray], layers: Iterable[keras.layers.Layer]
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Values of layers from a state dict of the `efficientnet_lite_pytorch` package.

    Args:
      state: tensors by PyTorch's names.
      layers: those of `build` that have weights, in the order of the graph.

    Returns:
      Layer name -> (variable name, value) in the order of its variables; layers that `state` lacks are left out.
    """
    blocks: dict[str, str] = {}
    found = {}
    for layer in layers:
        block, _, part = layer.name.partition("_")
        if layer.name in _MODULES:
            module = _MODULES[layer.name]
        else:
            module = f"{blocks.setdefault(block, f'_blocks.{len(blocks)}')}.{_MODULES[part]}"
        tensors = list(_tensors(state, module, layer))
        if len(tensors) == len(layer.weights):
            found[layer.name] = tensors
    return found


def _tensors(
    state: Mapping[str, np.ndarray], module: str, layer: keras.layers.Layer
) -> Iterator[tuple[str, np.ndarray]]:
    for variable in layer.weights:
        value = state.get(f"{module}.{_BATCH_NORM.get(variable.name, 'weight')}")
        if value is None:
            return
        if value.ndim == 4:  # [outputs,inputs,H,W]; of a depthwise kernel [channels,1,H,W]
            value = value.transpose((2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0))
        yield variable.name, value


def _scaled(filters: int, width: float) -> int:
    """Filters times width to the nearest multiple of 8, one more where that would take more than a tenth away."""
    near = max(_DIVISOR, int(filters * width + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return near + _DIVISOR if near < 0.9 * filters * width else near


def _block(x: Any, name: str, kernel: int, stride: int, expansion: int, filters: int) -> Any:
    inputs, narrow = x, x.shape[-1]
    if expansion > 1:
        x = _normalized(_convolution(narrow * expansion, 1, 1, f"{name}expand_conv")(x), f"{name}expand_")
    x = keras.layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, depthwise_initializer=_initializer(), name=f"{name}dwconv"
    )(x)
    x = _normalized(x, name)
    x = _convolution(filters, 1, 1, f"{name}project_conv")(x)
    x = _batch_norm(f"{name}project_bn")(x)
    if stride > 1 or narrow != filters:
        return x
    x = keras.layers.Dropout(0.0, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
    return keras.layers.Add(name=f"{name}add")([x, inputs])


def _convolution(filters: int, kernel: int, stride: int, name: str) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        filters, kernel, stride, "same", use_bias=False, kernel_initializer=_initializer(), name=name
    )


def _initializer() -> keras.initializers.Initializer:
    """As EfficientNet V1 has it."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")


def _batch_norm(name: str) -> keras.layers.Layer:
    return keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)


def _normalized(x: Any, name: str) -> Any:
    return keras.layers.Activation("relu6", name=f"{name}activation")(_batch_norm(f"{name}bn")(x))
