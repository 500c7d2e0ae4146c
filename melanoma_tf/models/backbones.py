"""EfficientNet classifiers: the `keras.applications` graph between our own input normalization and one logit.

`keras.applications` adds a rescaling only when built with `weights="imagenet"`, so rebuilding with `weights=None` and
loading a checkpoint would silently change the input scale. Our normalization is part of the model instead, the same for
every source of weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from melanoma_tf.models import heads
from melanoma_tf.models.batch_norm import BatchNormalization

Channels = tuple[float, float, float]
# (published layer, config of its copy, inputs of its copy) -> outputs of its copy.
MakeLayer = Callable[[keras.layers.Layer, dict[str, Any], Any], Any]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)  # RGB in [0,1]; the statistics EfficientNet V1 was published with
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
MIN_IMAGE_SIZE = 32  # pixels: five halvings leave one feature
_BACKBONE_PREFIXES = ("stem_", "block", "top_")  # how keras.applications names the layers of every EfficientNet


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One EfficientNet: its graph and its input scale.

    Attributes:
      constructor: name of the function in `keras.applications`.
      scale: per RGB channel; the network sees `image * scale + offset` of an image in [0,1].
      offset: see scale.
    """

    constructor: str
    scale: Channels
    offset: Channels


def _imagenet(constructor: str) -> Backbone:
    """(image - mean) / std, written as one multiply and one add."""
    scale = tuple(1 / std for std in IMAGENET_STD)
    offset = tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return Backbone(constructor, scale, offset)  # type: ignore[arg-type]


def _centered(constructor: str) -> Backbone:
    """keras.applications: `Rescaling(1 / 128, offset=-1)` of [0,255], which is [-1, 0.9921875] and not [-1, 1]."""
    return Backbone(constructor, (255 / 128,) * 3, (-1.0,) * 3)


BACKBONES: dict[str, Backbone] = {
    **{f"efficientnet-b{i}": _imagenet(f"EfficientNetB{i}") for i in range(8)},
    **{f"efficientnetv2-b{i}": _imagenet(f"EfficientNetV2B{i}") for i in range(4)},
    **{f"efficientnetv2-{size.lower()}": _centered(f"EfficientNetV2{size}") for size in "SML"},
}


def backbone(name: str) -> Backbone:
    """The entry of `BACKBONES` called `name`.

    Raises:
      ValueError: unknown name.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; expected one of: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def plain_layer(layer: keras.layers.Layer, config: dict[str, Any], inputs: Any) -> Any:
    """The default `MakeLayer`: a copy of the published layer, with our batch norm."""
    layer_class = BatchNormalization if layer.__class__ is keras.layers.BatchNormalization else layer.__class__
    return layer_class.from_config(config)(inputs)


def build_classifier(
    name: str,
    image_size: int,
    *,
    dropout: float = 0.3,
    drop_connect: float = 0.2,
    prior: float | None = None,
    batch_norm_momentum: float | None = None,
    freeze_batch_norm: bool = False,
    rewrite: Callable[[keras.Model], MakeLayer] | None = None,
) -> keras.Model:
    """A binary classifier `image: f32[B,H,W,3] in [0,1] -> logit: f32[B,1]` with H = W = image_size.

    Under a mixed precision policy the backbone computes in the policy's dtype; normalization, pooling and head stay
    float32.

    Args:
      name: a key of `BACKBONES`.
      image_size: pixels, at least 32; need not be divisible by 32.
      dropout: rate before the head, in [0,1).
      drop_connect: rate at which the last residual branch is dropped for a whole image, in [0,1); it grows linearly
        with depth from 0 at the first block (stochastic depth, https://arxiv.org/abs/1603.09382).
      prior: expected share of positives, in (0,1), for the head's bias; None: bias 0.
      batch_norm_momentum: in [0,1); None keeps the backbone's own (V1 0.99, V2 0.9).
      freeze_batch_norm: batch norm uses its moving statistics in training too, and is not trained.
      rewrite: gives the function that copies each layer of the published graph; None: `plain_layer`. Weights and their
        names must stay the same.

    Raises:
      ValueError: unknown name, or a value out of its range.
    """
    spec = backbone(name)
    _check(image_size, dropout, drop_connect, prior, batch_norm_momentum)
    constructor = getattr(keras.applications, spec.constructor)
    published = constructor(weights=None, include_top=False, input_shape=(image_size, image_size, 3))
    make_layer = rewrite(published) if rewrite else plain_layer

    image = keras.Input((image_size, image_size, 3), dtype="float32", name="image")
    # In float32 also under mixed precision: bfloat16 has 8 bits of significand, too few for 8-bit images.
    x = keras.layers.Rescaling(list(spec.scale), list(spec.offset), dtype="float32", name="normalize")(image)
    batch_norm: dict[str, Any] = {"trainable": not freeze_batch_norm}
    if batch_norm_momentum is not None:
        batch_norm["momentum"] = batch_norm_momentum
    x = _clone(published, x, drop_connect, batch_norm, make_layer)
    return keras.Model(image, heads.logit_head(x, dropout=dropout, prior=prior), name=name)


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that hold pretrained weights, in the order of the graph: all except normalization and head."""
    return [layer for layer in model.layers if layer.name.startswith(_BACKBONE_PREFIXES) and layer.weights]


def _check(
    image_size: int, dropout: float, drop_connect: float, prior: float | None, batch_norm_momentum: float | None
) -> None:
    if image_size != int(image_size) or image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size!r}; expected a whole number of at least {MIN_IMAGE_SIZE} pixels")
    rates = {"dropout": dropout, "drop_connect": drop_connect, "batch_norm_momentum": batch_norm_momentum}
    for key, value in rates.items():
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{key} is {value!r}; expected a value in [0, 1)")
    if prior is not None and not 0 < prior < 1:
        raise ValueError(f"prior is {prior!r}; expected a value in (0, 1)")


def _clone(
    published: keras.Model, x: Any, drop_connect: float, batch_norm: dict[str, Any], make_layer: MakeLayer
) -> Any:
    """Copies `published` from its stem on, on top of the tensor `x`, and returns its features.

    The layers are new, because a layer called twice has no single `.output` for others (Grad-CAM, export) to ask for.
    The drop-connect rate is set here because the constructors of keras.applications do not take it, and because in V2
    they divide by the number of blocks before depth scaling, so that B1 to B3 exceed the requested rate.
    """
    names = [layer.name for layer in published.layers]
    first = next(i for i, layer_name in enumerate(names) if layer_name.startswith("stem_"))  # skips preprocessing
    blocks = [n.removesuffix("project_conv") for n in names if n.endswith("project_conv")]
    rates = {f"{block}drop": drop_connect * i / len(blocks) for i, block in enumerate(blocks)}

    copies = {id(published.layers[first].input): x}
    for layer in published.layers[first:]:
        config = layer.get_config()
        if layer.name in rates:
            config["rate"] = rates[layer.name]
        if isinstance(layer, keras.layers.BatchNormalization):
            config.update(batch_norm)
        source = layer.input
        inputs = [copies[id(t)] for t in source] if isinstance(source, list) else copies[id(source)]
        x = make_layer(layer, config, inputs)
        copies[id(layer.output)] = x
    return x
