"""EfficientNet classifiers: the `keras.applications` graph between our own input normalisation and one logit.

The graph comes from `keras.applications`, its preprocessing layers do not: `keras.applications` adds a rescaling only
when it is built with `weights="imagenet"`, so rebuilding with `weights=None` and loading a checkpoint would silently
change the input scale. Here the normalisation is ours, in the model, and the same for every source of weights.
"""

import dataclasses
import math
from typing import Any

import keras

from melanoma_tf.models.batch_norm import BatchNormalization
from melanoma_tf.tpu import depthwise, fused_conv_bn
from melanoma_tf.tpu.spatial_split import Cut, Cutter

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)  # RGB in [0,1]; the statistics EfficientNet V1 was published with
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
HEAD = "logit"  # name of the last layer
MIN_IMAGE_SIZE = 32  # pixels: five halvings leave one feature
_BACKBONE_PREFIXES = ("stem_", "block", "top_")  # how keras.applications names the layers of every EfficientNet


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One EfficientNet: where its graph comes from and how it wants its input.

    Attributes:
        constructor: name of the function in `keras.applications`.
        scale, offset: per RGB channel; the network sees `image * scale + offset` of an image in [0,1].
    """

    constructor: str
    scale: Channels
    offset: Channels


def _imagenet(constructor: str) -> Backbone:
    """(image - mean) / std, written as one multiply and one add."""
    scale = tuple(1 / std for std in IMAGENET_STD)
    offset = tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return Backbone(constructor, scale, offset)  # type: ignore[arg-type]


def _centred(constructor: str) -> Backbone:
    """keras.applications: `Rescaling(1 / 128, offset=-1)` of [0,255], which is [-1, 0.9921875] and not [-1, 1]."""
    return Backbone(constructor, (255 / 128,) * 3, (-1.0,) * 3)


BACKBONES: dict[str, Backbone] = {
    **{f"efficientnet-b{i}": _imagenet(f"EfficientNetB{i}") for i in range(8)},
    **{f"efficientnetv2-b{i}": _imagenet(f"EfficientNetV2B{i}") for i in range(4)},
    **{f"efficientnetv2-{size.lower()}": _centred(f"EfficientNetV2{size}") for size in "SML"},
}


def backbone(name: str) -> Backbone:
    """The entry of `BACKBONES`; ValueError with the names there are if `name` is none of them."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; available: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_classifier(
    name: str,
    image_size: int,
    *,
    dropout: float = 0.3,
    drop_connect: float = 0.2,
    prior: float | None = None,
    batch_norm_momentum: float | None = None,
    freeze_batch_norm: bool = False,
    strips: int = 1,
    for_tpu: bool = False,
) -> keras.Model:
    """A binary classifier `image: f32[B,H,W,3] in [0,1] -> logit: f32[B,1]` with H = W = image_size.

    The graph is flat and of Keras' own layers, or of kinds of them with the same weights under the same names.
    Under a mixed precision policy the backbone computes in the policy's dtype; normalisation, pooling and head stay
    float32.

    Args:
        name: a key of `BACKBONES`.
        image_size: pixels, at least 32; need not be divisible by 32.
        dropout: rate before the head, in [0,1).
        drop_connect: rate at which the last residual branch is dropped for a whole image, in [0,1); it grows linearly
            with depth from 0 at the first block (stochastic depth, https://arxiv.org/abs/1603.09382).
        prior: expected share of positives, in (0,1): the head's bias starts at its log-odds, so that training does not
            begin by unlearning 50 % (https://arxiv.org/abs/1708.02002, section 3.3). None: bias 0.
        batch_norm_momentum: in [0,1); None keeps the backbone's own (V1 0.99, V2 0.9).
        freeze_batch_norm: batch norm uses its moving statistics in training too, and is not trained.
        strips: into how many the first blocks cut each image, with the same numbers and weights: for TPUs that get
            few images each, see `strips.py`. Fewer, by halving, where no block's rows can be divided so.
        for_tpu: layers that take less of a TPU's time, with the same numbers and weights, see `widening.py` and
            `depthwise.py`; under JAX.

    Raises:
        ValueError: an unknown name, a value out of its range, or for_tpu where Keras does not run on JAX.
    """
    spec = backbone(name)
    if for_tpu and keras.backend.backend() != "jax":
        raise ValueError(f"layers for_tpu are written in JAX, and Keras runs on {keras.backend.backend()}")
    _check(image_size, dropout, drop_connect, prior, batch_norm_momentum)
    constructor = getattr(keras.applications, spec.constructor)
    published = constructor(weights=None, include_top=False, input_shape=(image_size, image_size, 3))

    image = keras.Input((image_size, image_size, 3), dtype="float32", name="image")
    # In float32 also under mixed precision: bfloat16 has 8 bits of significand, too few for 8-bit images.
    x = keras.layers.Rescaling(list(spec.scale), list(spec.offset), dtype="float32", name="normalise")(image)
    x = _transplant(
        published,
        x,
        drop_connect,
        batch_norm_momentum,
        freeze_batch_norm,
        Cutter(published, strips),
        for_tpu,
    )
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(x)
    x = keras.layers.Dropout(dropout, dtype="float32", name="dropout")(x)
    bias = keras.initializers.Constant(math.log(prior / (1 - prior)) if prior is not None else 0.0)
    logit = keras.layers.Dense(1, bias_initializer=bias, dtype="float32", name=HEAD)(x)
    return keras.Model(image, logit, name=name)


def strips_seen(classifier: keras.Model) -> int:
    """Into how many the first blocks cut each image."""
    return next((layer.strips for layer in classifier.layers if isinstance(layer, Cut)), 1)


def describe_strips(classifier: keras.Model) -> str:
    """Whether the first blocks see images whole or in strips."""
    strips = strips_seen(classifier)
    return f"the first blocks see each image in {strips} strips" if strips > 1 else "images are seen whole"


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of `model` that hold pretrained weights, in the order of the graph: all but normalisation and head."""
    return [layer for layer in model.layers if layer.name.startswith(_BACKBONE_PREFIXES) and layer.weights]


def _check(
    image_size: int, dropout: float, drop_connect: float, prior: float | None, batch_norm_momentum: float | None
) -> None:
    if image_size != int(image_size) or image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size!r}; it must be a whole number of at least {MIN_IMAGE_SIZE} pixels")
    rates = {"dropout": dropout, "drop_connect": drop_connect, "batch_norm_momentum": batch_norm_momentum}
    for key, value in rates.items():
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{key} is {value!r}; it must be in [0, 1)")
    if prior is not None and not 0 < prior < 1:
        raise ValueError(f"prior is {prior!r}; it must be in (0, 1)")


def _transplant(
    published: keras.Model,
    x: Any,
    drop_connect: float,
    batch_norm_momentum: float | None,
    freeze_batch_norm: bool,
    cutter: Cutter,
    for_tpu: bool,
) -> Any:
    """Rebuild `published` from its stem on, on top of the tensor `x`, and return its features.

    Fresh layers, because a layer called twice has no single `.output` for others (Grad-CAM, export) to ask for.
    The drop-connect rate is set here because the constructors of keras.applications do not take it, and because in V2
    they divide by the number of blocks before depth scaling, so that B1 to B3 overshoot the rate asked for.
    """
    names = [layer.name for layer in published.layers]
    first = next(i for i, layer_name in enumerate(names) if layer_name.startswith("stem_"))  # skips preprocessing
    blocks = [n.removesuffix("project_conv") for n in names if n.endswith("project_conv")]
    rates = {f"{block}drop": drop_connect * i / len(blocks) for i, block in enumerate(blocks)}

    rebuilt = {id(published.layers[first].input): x}
    for layer in published.layers[first:]:
        config = layer.get_config()
        if layer.name in rates:
            config["rate"] = rates[layer.name]
        layer_class = layer.__class__
        if layer_class is keras.layers.BatchNormalization:
            layer_class = fused_conv_bn.BatchNormalization if for_tpu else BatchNormalization
            config["momentum"] = config["momentum"] if batch_norm_momentum is None else batch_norm_momentum
            config["trainable"] = not freeze_batch_norm
        elif layer_class is keras.layers.DepthwiseConv2D and for_tpu:
            layer_class = depthwise.DepthwiseConv2D
            config["full"] = depthwise.worthwhile(layer) if cutter.fills_lanes(layer) else "never"
        source = layer.input
        inputs = [rebuilt[id(t)] for t in source] if isinstance(source, list) else rebuilt[id(source)]
        if cutter.covers(layer):
            x = cutter.rebuild(layer, layer_class, config, inputs)
        else:
            x = layer_class.from_config(config)(inputs)
        rebuilt[id(layer.output)] = x
    return x
