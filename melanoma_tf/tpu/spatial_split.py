"""The first blocks of an EfficientNet on images cut into strips, for chips that lay the batch along their registers.

A TPU's registers have 128 lanes, and where a layer has fewer channels libtpu lays the batch along them: with 32
images a chip, three quarters of each register and of each transfer are empty. Here the batch of the first blocks is
one of horizontal strips, several of each image, which fill the lanes. Before a convolution a strip borrows from its
neighbours the rows that lie in both their reaches (a halo exchange), where tensors are narrow, and what is borrowed
counts in no mean: the numbers are those of whole images, but for the order of sums.

Strip p of image b is row b * strips + p of the batch, so that a batch divided among chips stays divided as it is.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from melanoma_tf.tpu import depthwise

_STAGES = ("stem", "block1", "block2", "block3")  # from the fourth on channels fill the lanes
_MOST_BORROWED = 1 / 4  # of a strip's own rows; more would cost more than is won

Rows = tuple[int, int]  # above and below a strip


def blocks_to_cut(published: keras.Model, strips: int) -> list[str]:
    """The blocks of `published`, from the stem on, that are computed on so many strips of each image.

    Those of the first three stages, up to the first whose rows cannot be divided or would mostly be borrowed ones; none
    if that is the first.
    """
    rows, found = published.input.shape[1], []
    for layer in published.layers if strips > 1 else []:
        if layer.name.startswith(_STAGES) and _is_spatial(layer):
            own, rest = divmod(rows, strips)
            if rest or own % layer.strides[0] or sum(_reach(layer)) > own * _MOST_BORROWED:
                break
            rows //= layer.strides[0]
            found.append(_block(layer))
    return found if len(found) > 1 else []


class Cutter:
    """Rebuilds the layers of those blocks for strips; they hold the same weights under the same names."""

    def __init__(self, published: keras.Model, most: int) -> None:
        """most: strips; half of them, and so on, if no block can be cut into so many."""
        self.strips, self._few_images = most, most > 1
        while self.strips > 1 and not blocks_to_cut(published, self.strips):
            self.strips //= 2
        self._blocks = blocks_to_cut(published, self.strips)
        layers = {layer.name: layer for layer in published.layers if self.covers(layer)}
        self._last = next(reversed(layers), None)
        # Rows are borrowed before a block widens its tensors, and go through what lies between as the own ones do. The
        # first block widens nothing: there the stem makes what is to be borrowed.
        self._borrows: dict[str, Rows] = {}
        self._carries: dict[str, Rows] = {}
        for layer in filter(_is_spatial, layers.values()):
            block = _block(layer)
            entry = {"block1a": "stem"}.get(block, f"{block}_expand") if _is_depthwise(layer) else None
            if f"{entry}_conv" in layers:
                self._borrows[f"{entry}_conv"] = self._carries[f"{entry}_bn"] = _reach(layer)
            elif block != "stem":
                self._borrows[layer.name] = _reach(layer)

    def covers(self, layer: keras.layers.Layer) -> bool:
        """Whether this layer is of a block that is cut."""
        return _block(layer) in self._blocks

    def fills_lanes(self, layer: keras.layers.Layer) -> bool:
        """Whether images, or strips of them, are enough for a chip's registers in this layer."""
        return not self._few_images or self.covers(layer)

    def rebuild(
        self, layer: keras.layers.Layer, layer_class: type[keras.layers.Layer], config: dict[str, Any], inputs: Any
    ) -> Any:
        """What `layer_class.from_config(config)(inputs)` would be of images, of strips.

        Inputs and outputs are strips, but for the inputs of the stem and the outputs of the last layer.
        """
        if isinstance(layer, keras.layers.ZeroPadding2D):
            return inputs  # the convolution that follows does it
        borrowed = self._borrows.get(layer.name, (0, 0))
        if layer.name == "stem_conv":
            stride = layer.strides[0]
            rows = [own + stride * more for own, more in zip(_reach(layer), borrowed, strict=True)]
            inputs = Cut(self.strips, *rows, name="cut")(inputs)
        elif any(borrowed):
            inputs = Borrow(self.strips, *borrowed, name=f"{layer.name}_borrow")(inputs)
        if layer.name in self._carries:
            config = {**config, "borrowed": self._carries[layer.name]}
        for kind, replacement in _REPLACEMENTS.items():
            if isinstance(layer, kind) and (kind is not keras.layers.Conv2D or _is_spatial(layer)):
                layer_class, config = replacement, {**config, "strips": self.strips}
        outputs = layer_class.from_config(config)(inputs)
        return Join(self.strips, name="join")(outputs) if layer.name == self._last else outputs


# Named as Keras' own where they stand for one, since files of weights tell layers by the names of their classes.


class _OfStrips(keras.layers.Layer):
    """A layer that knows how many strips a image has."""

    def __init__(self, strips: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strips = strips

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strips": self.strips}

    def of_each_image(self, values: Any) -> Any:
        """[B*strips,...] as [B,strips,...]."""
        return ops.reshape(values, (-1, self.strips, *values.shape[1:]))


class _WithRows(_OfStrips):
    """A layer that adds rows above and below each strip."""

    def __init__(self, strips: int, above: int, below: int, **kwargs: Any) -> None:
        super().__init__(strips, **kwargs)
        self.above, self.below = above, below

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "above": self.above, "below": self.below}


@keras.saving.register_keras_serializable("melanoma_tf")
class Cut(_WithRows):
    """Images [B,H,W,C] as strips [B*strips,above+H/strips+below,W,C], with zeros beyond the images' edges."""

    def call(self, images: Any) -> Any:
        _, height, width, channels = images.shape
        own, padded = height // self.strips, ops.pad(images, ((0, 0), (self.above, self.below), (0, 0), (0, 0)))
        rows = own + self.above + self.below
        cut = ops.stack([padded[:, p * own : p * own + rows] for p in range(self.strips)], axis=1)
        return ops.reshape(cut, (-1, rows, width, channels))

    def compute_output_shape(self, shape: Any) -> Any:
        return (None, shape[1] // self.strips + self.above + self.below, *shape[2:])


@keras.saving.register_keras_serializable("melanoma_tf")
class Borrow(_WithRows):
    """Strips [B*strips,H,W,C] with rows of the strip above and below, [B*strips,above+H+below,W,C]; zeros at edges."""

    def call(self, strips: Any) -> Any:
        parts = [strips]
        if self.above:
            last = self.of_each_image(strips[:, -self.above :])
            above = ops.concatenate([ops.zeros_like(last[:, :1]), last[:, :-1]], axis=1)
            parts.insert(0, ops.reshape(above, (-1, *last.shape[2:])))
        if self.below:
            first = self.of_each_image(strips[:, : self.below])
            below = ops.concatenate([first[:, 1:], ops.zeros_like(first[:, :1])], axis=1)
            parts.append(ops.reshape(below, (-1, *first.shape[2:])))
        return ops.concatenate(parts, axis=1)

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], shape[1] + self.above + self.below, *shape[2:])


@keras.saving.register_keras_serializable("melanoma_tf")
class Join(_OfStrips):
    """Strips [B*strips,H,W,C] as images [B,strips*H,W,C]."""

    def call(self, strips: Any) -> Any:
        _, rows, width, channels = strips.shape
        return ops.reshape(strips, (-1, self.strips * rows, width, channels))

    def compute_output_shape(self, shape: Any) -> Any:
        return (None, self.strips * shape[1], *shape[2:])


class _Convolution(_OfStrips):
    """Of strips that carry the rows it reaches; columns are padded as `keras.applications` pads whole images."""

    def __init__(self, strips: int, **kwargs: Any) -> None:
        super().__init__(strips, **{**kwargs, "padding": "valid"})

    def call(self, inputs: Any) -> Any:
        return super().call(ops.pad(inputs, ((0, 0), (0, 0), _reach(self), (0, 0))))

    def compute_output_shape(self, shape: Any) -> Any:
        return super().compute_output_shape((*shape[:2], shape[2] + sum(_reach(self)), shape[3]))


@keras.saving.register_keras_serializable("melanoma_tf")
class Conv2D(_Convolution, keras.layers.Conv2D):
    """`_Convolution` of inputs that are zero beyond the images' edges."""


@keras.saving.register_keras_serializable("melanoma_tf")
class DepthwiseConv2D(_Convolution, depthwise.DepthwiseConv2D):
    """`_Convolution` of inputs that need not be zero beyond the images' edges: what was borrowed there is biased."""

    def call(self, inputs: Any) -> Any:
        above, below = _reach(self)
        rows = inputs.shape[1]
        own = rows - above - below
        strip = ops.arange(ops.shape(inputs)[0]) % self.strips
        place = ops.reshape(strip * own - above, (-1, 1, 1, 1)) + ops.reshape(ops.arange(rows), (1, -1, 1, 1))
        return super().call(ops.where((place >= 0) & (place < self.strips * own), inputs, 0))


@keras.saving.register_keras_serializable("melanoma_tf")
class GlobalAveragePooling2D(_OfStrips, keras.layers.GlobalAveragePooling2D):
    """[B*strips,H,W,C] -> [B*strips,C], to each strip the mean of its image."""

    def call(self, inputs: Any) -> Any:
        means = self.of_each_image(ops.mean(ops.cast(inputs, "float32"), axis=(1, 2)))
        of_images = ops.cast(ops.mean(means, axis=1), self.compute_dtype)
        return ops.repeat(of_images, self.strips, axis=0)


@keras.saving.register_keras_serializable("melanoma_tf")
class Dropout(_OfStrips, keras.layers.Dropout):
    """Drops whole images, the same that `Dropout` with `noise_shape=(None, 1, 1, 1)` drops."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        images = ops.shape(inputs)[0] // self.strips
        drawn = keras.random.dropout(ops.ones((images, 1, 1, 1)), self.rate, seed=self.seed_generator)
        kept = ops.repeat(drawn > 0, self.strips, axis=0)
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
    """Rows (and columns) above and below a strip of as many rows as the stride divides, that a convolution looks at."""
    beyond = convolution.kernel_size[0] - convolution.strides[0]
    return beyond // 2, beyond - beyond // 2
