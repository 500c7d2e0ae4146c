"""Spatial splits: the first blocks of an EfficientNet on horizontal parts of each image, for batches under 128 a chip.

A TPU's registers have 128 lanes, and where a layer has fewer channels libtpu lays the batch along them: with 32 images
a chip, three quarters of each register and of each transfer are empty. The first blocks therefore see a batch of
splits, several of each image, which fill the lanes. Before a convolution each split gets the rows of its neighbors
that its kernel reaches (a halo exchange), where tensors are narrow. Halo rows count in no mean, so the results are
those of whole images up to the order of sums.

Split p of image b is row b * splits + p of the batch, so that a batch sharded over chips stays sharded as it is.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from melanoma_tf.tpu import depthwise

_STAGES = ("stem", "block1", "block2", "block3")  # from the fourth on channels fill the lanes
_LARGEST_HALO = 1 / 4  # of a split's own rows; more costs more than it gains

Rows = tuple[int, int]  # above and below a split


def split_blocks(published: keras.Model, splits: int) -> list[str]:
    """The blocks of `published`, from the stem on, that can be computed on that many splits of each image.

    Those of the first three stages, up to the first whose rows cannot be divided or whose halo would be too large; none
    if that is the first.
    """
    rows, found = published.input.shape[1], []
    is_known = any(layer.name == "stem_conv" for layer in published.layers)  # the names of other networks mean others
    for layer in published.layers if splits > 1 and is_known else []:
        if layer.name.startswith(_STAGES) and _is_spatial(layer):
            own, rest = divmod(rows, splits)
            if rest or own % layer.strides[0] or sum(_reach(layer)) > own * _LARGEST_HALO:
                break
            rows //= layer.strides[0]
            found.append(_block(layer))
    return found if len(found) > 1 else []


class SpatialSplitter:
    """Copies the layers of those blocks for splits; weights and their names stay the same.

    Args:
      published: the graph that is copied.
      splits: largest number of splits; halved until some block can be divided so.
    """

    def __init__(self, published: keras.Model, splits: int) -> None:
        self.splits, self._few_images = splits, splits > 1
        while self.splits > 1 and not split_blocks(published, self.splits):
            self.splits //= 2
        self._blocks = split_blocks(published, self.splits)
        layers = {layer.name: layer for layer in published.layers if self.covers(layer)}
        self._last = next(reversed(layers), None)
        # Halos are exchanged before a block widens its tensors, and pass through the layers up to the convolution as
        # the split's own rows do. The first block widens nothing: there the stem computes the halo.
        self._exchanges: dict[str, Rows] = {}
        self._carries: dict[str, Rows] = {}
        for layer in filter(_is_spatial, layers.values()):
            block = _block(layer)
            entry = {"block1a": "stem"}.get(block, f"{block}_expand") if _is_depthwise(layer) else None
            if f"{entry}_conv" in layers:
                self._exchanges[f"{entry}_conv"] = self._carries[f"{entry}_bn"] = _reach(layer)
            elif block != "stem":
                self._exchanges[layer.name] = _reach(layer)

    def covers(self, layer: keras.layers.Layer) -> bool:
        """Whether the layer belongs to a block that is split."""
        return _block(layer) in self._blocks

    def fills_lanes(self, layer: keras.layers.Layer) -> bool:
        """Whether images, or splits of them, are enough to fill a chip's registers in this layer."""
        return not self._few_images or self.covers(layer)

    def rebuild(
        self, layer: keras.layers.Layer, layer_class: type[keras.layers.Layer], config: dict[str, Any], inputs: Any
    ) -> Any:
        """`layer_class.from_config(config)(inputs)` on splits instead of images.

        Inputs and outputs are splits, except the inputs of the stem and the outputs of the last layer.
        """
        if isinstance(layer, keras.layers.ZeroPadding2D):
            return inputs  # done by the convolution that follows
        halo = self._exchanges.get(layer.name, (0, 0))
        if layer.name == "stem_conv":
            stride = layer.strides[0]
            rows = [own + stride * more for own, more in zip(_reach(layer), halo, strict=True)]
            inputs = SplitRows(self.splits, *rows, name="split_rows")(inputs)
        elif any(halo):
            inputs = HaloExchange(self.splits, *halo, name=f"{layer.name}_halo")(inputs)
        if layer.name in self._carries:
            config = {**config, "halo": self._carries[layer.name]}
        for kind, replacement in _REPLACEMENTS.items():
            if isinstance(layer, kind) and (kind is not keras.layers.Conv2D or _is_spatial(layer)):
                layer_class, config = replacement, {**config, "splits": self.splits}
        outputs = layer_class.from_config(config)(inputs)
        return MergeRows(self.splits, name="merge_rows")(outputs) if layer.name == self._last else outputs


# Classes that stand for one of Keras' have its name: weights files file layers under the names of their classes.


class _OnSplits(keras.layers.Layer):
    """A layer on a batch of splits, with `splits` of them an image."""

    def __init__(self, splits: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.splits = splits

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "splits": self.splits}

    def by_image(self, values: Any) -> Any:
        """Reshapes [B*splits,...] to [B,splits,...]."""
        return ops.reshape(values, (-1, self.splits, *values.shape[1:]))


class _WithRows(_OnSplits):
    """A layer that adds rows above and below each split."""

    def __init__(self, splits: int, above: int, below: int, **kwargs: Any) -> None:
        super().__init__(splits, **kwargs)
        self.above, self.below = above, below

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "above": self.above, "below": self.below}


@keras.saving.register_keras_serializable("melanoma_tf.tpu.spatial_split")
class SplitRows(_WithRows):
    """Images [B,H,W,C] to splits [B*splits,above+H/splits+below,W,C], with zeros beyond the images' edges."""

    def call(self, images: Any) -> Any:
        _, height, width, channels = images.shape
        own, padded = height // self.splits, ops.pad(images, ((0, 0), (self.above, self.below), (0, 0), (0, 0)))
        rows = own + self.above + self.below
        parts = ops.stack([padded[:, p * own : p * own + rows] for p in range(self.splits)], axis=1)
        return ops.reshape(parts, (-1, rows, width, channels))

    def compute_output_shape(self, shape: Any) -> Any:
        return (None, shape[1] // self.splits + self.above + self.below, *shape[2:])


@keras.saving.register_keras_serializable("melanoma_tf.tpu.spatial_split")
class HaloExchange(_WithRows):
    """Splits [B*splits,H,W,C] to [B*splits,above+H+below,W,C] with rows of neighboring splits, or zeros."""

    def call(self, parts: Any) -> Any:
        stacked = [parts]
        if self.above:
            last = self.by_image(parts[:, -self.above :])
            above = ops.concatenate([ops.zeros_like(last[:, :1]), last[:, :-1]], axis=1)
            stacked.insert(0, ops.reshape(above, (-1, *last.shape[2:])))
        if self.below:
            first = self.by_image(parts[:, : self.below])
            below = ops.concatenate([first[:, 1:], ops.zeros_like(first[:, :1])], axis=1)
            stacked.append(ops.reshape(below, (-1, *first.shape[2:])))
        return ops.concatenate(stacked, axis=1)

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], shape[1] + self.above + self.below, *shape[2:])


@keras.saving.register_keras_serializable("melanoma_tf.tpu.spatial_split")
class MergeRows(_OnSplits):
    """Splits [B*splits,H,W,C] to images [B,splits*H,W,C]."""

    def call(self, parts: Any) -> Any:
        _, rows, width, channels = parts.shape
        return ops.reshape(parts, (-1, self.splits * rows, width, channels))

    def compute_output_shape(self, shape: Any) -> Any:
        return (None, self.splits * shape[1], *shape[2:])


class _Convolution(_OnSplits):
    """A convolution of splits that carry their halo; columns are padded as `keras.applications` pads whole images."""

    def __init__(self, splits: int, **kwargs: Any) -> None:
        super().__init__(splits, **{**kwargs, "padding": "valid"})

    def call(self, inputs: Any) -> Any:
        return super().call(ops.pad(inputs, ((0, 0), (0, 0), _reach(self), (0, 0))))

    def compute_output_shape(self, shape: Any) -> Any:
        return super().compute_output_shape((*shape[:2], shape[2] + sum(_reach(self)), shape[3]))


@keras.saving.register_keras_serializable("melanoma_tf.tpu.spatial_split")
class Conv2D(_Convolution, keras.layers.Conv2D):
    """`_Convolution` of inputs that are zero beyond the images' edges."""


@keras.saving.register_keras_serializable("melanoma_tf.tpu.spatial_split")
class DepthwiseConv2D(_Convolution, depthwise.DepthwiseConv2D):
    """`_Convolution` that zeroes inputs beyond the images' edges, where batch norm has shifted the halo."""

    def call(self, inputs: Any) -> Any:
        above, below = _reach(self)
        rows = inputs.shape[1]
        own = rows - above - below
        split = ops.arange(ops.shape(inputs)[0]) % self.splits
        place = ops.reshape(split * own - above, (-1, 1, 1, 1)) + ops.reshape(ops.arange(rows), (1, -1, 1, 1))
        return super().call(ops.where((place >= 0) & (place < self.splits * own), inputs, 0))


@keras.saving.register_keras_serializable("melanoma_tf.tpu.spatial_split")
class GlobalAveragePooling2D(_OnSplits, keras.layers.GlobalAveragePooling2D):
    """[B*splits,H,W,C] -> [B*splits,C]: the mean of each split's image."""

    def call(self, inputs: Any) -> Any:
        means = self.by_image(ops.mean(ops.cast(inputs, "float32"), axis=(1, 2)))
        of_images = ops.cast(ops.mean(means, axis=1), self.compute_dtype)
        return ops.repeat(of_images, self.splits, axis=0)


@keras.saving.register_keras_serializable("melanoma_tf.tpu.spatial_split")
class Dropout(_OnSplits, keras.layers.Dropout):
    """Drops the same whole images as `Dropout` with `noise_shape=(None, 1, 1, 1)`."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        images = ops.shape(inputs)[0] // self.splits
        drawn = keras.random.dropout(ops.ones((images, 1, 1, 1)), self.rate, seed=self.seed_generator)
        kept = ops.repeat(drawn > 0, self.splits, axis=0)
        return ops.where(kept, inputs / (1 - self.rate), 0)


_REPLACEMENTS = {
    keras.layers.Conv2D: Conv2D,
    keras.layers.DepthwiseConv2D: DepthwiseConv2D,
    keras.layers.GlobalAveragePooling2D: GlobalAveragePooling2D,
    keras.layers.Dropout: Dropout,
}


def _block(layer: keras.layers.Layer) -> str:
    return layer.name.partition("_")[0]


def _is_depthwise(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.DepthwiseConv2D)


def _is_spatial(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)) and layer.kernel_size[0] > 1


def _reach(convolution: keras.layers.Layer) -> Rows:
    """Rows above and below a split (and columns beside it) that a convolution reads; the stride divides its rows."""
    beyond = convolution.kernel_size[0] - convolution.strides[0]
    return beyond // 2, beyond - beyond // 2
