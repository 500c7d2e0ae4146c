"""Classifiers: the graph of a published backbone between our own input normalization and one logit.

`keras.applications` adds a rescaling only when built with `weights="imagenet"`, so rebuilding with `weights=None` and
loading a checkpoint would silently change the input scale. Our normalization is part of the model instead, the same for
every source of weights.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras

from melanoma_tf.models import heads, registry
from melanoma_tf.models.batch_norm import BatchNormalization

# (published layer, config of its copy, inputs of its copy) -> outputs of its copy.
MakeLayer = Callable[[keras.layers.Layer, dict[str, Any], Any], Any]

DEFAULT_HEAD = heads.Head()
MIN_IMAGE_SIZE = 32  # pixels: five halvings leave one feature
# Stages by the names of layers: EfficientNets, ConvNeXts, MobileNets (each block is one) and ResNets.
_STAGE = re.compile(r"^block\d+|_stage_\d+|^expanded_conv(_\d+)?|^conv\d+(?=_block)")
_PREPROCESSING = (keras.layers.Rescaling, keras.layers.Normalization)  # of published graphs; ours replaces them


def published(name: str, image_size: int, weights: str | None = None) -> keras.Model:
    """The graph of a backbone as it was published, without its top.

    Args:
      name: a key of `registry.BACKBONES`.
      image_size: pixels.
      weights: a file that its constructor can read; None for random weights.

    Raises:
      ValueError: unknown name.
    """
    spec = registry.backbone(name)
    constructor = getattr(importlib.import_module(spec.module), spec.constructor)
    return constructor(weights=weights, include_top=False, input_shape=(image_size, image_size, 3))


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
    head: heads.Head = DEFAULT_HEAD,
) -> keras.Model:
    """A classifier `image: f32[B,H,W,3] in [0,1] -> logit: f32[B,1]` with H = W = image_size.

    Under a mixed precision policy the backbone computes in the policy's dtype; normalization, pooling and head stay
    float32.

    Args:
      name: a key of `registry.BACKBONES`.
      image_size: pixels, at least 32; need not be divisible by 32.
      dropout: rate before the head, in [0,1).
      drop_connect: rate at which the last residual branch is dropped for a whole image, in [0,1); it grows linearly
        with depth from 0 at the first block (stochastic depth, https://arxiv.org/abs/1603.09382). EfficientNets and
        ConvNeXts only; the other backbones were published without.
      prior: expected share of positives, in (0,1), for the head's bias; None: bias 0.
      batch_norm_momentum: in [0,1); None keeps the backbone's own (V1 and Lite 0.99, V2 0.9).
      freeze_batch_norm: batch norm uses its moving statistics in training too, and is not trained.
      rewrite: gives the function that copies each layer of the published graph; None: `plain_layer`. Weights and their
        names must stay the same.
      head: see `heads.classifier`; it may take metadata beside the image, and give the logits of diagnoses too.

    Raises:
      ValueError: unknown name, or a value out of its range.
    """
    spec = registry.backbone(name)
    _check(image_size, dropout, drop_connect, prior, batch_norm_momentum)
    graph = published(name, image_size)
    make_layer = rewrite(graph) if rewrite else plain_layer

    image = keras.Input((image_size, image_size, 3), dtype="float32", name="image")
    # In float32 also under mixed precision: bfloat16 has 8 bits of significand, too few for 8-bit images.
    x = keras.layers.Rescaling(list(spec.scale), list(spec.offset), dtype="float32", name="normalize")(image)
    batch_norm: dict[str, Any] = {"trainable": not freeze_batch_norm}
    if batch_norm_momentum is not None:
        batch_norm["momentum"] = batch_norm_momentum
    x = _clone(graph, image, x, _drop_rates(graph, drop_connect), batch_norm, make_layer)
    return heads.classifier(image, x, dropout=dropout, prior=prior, head=head, name=name)


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that hold pretrained weights, in the order of the graph: all except normalization and head."""
    other = {layer.name for layer in heads.layers(model)}
    layers = (layer for layer in model.layers if layer.name not in other and not isinstance(layer, _PREPROCESSING))
    return [layer for layer in layers if layer.weights]


def stages(model: keras.Model) -> list[list[keras.layers.Layer]]:
    """The layers with weights in the order of the graph: the stem, each stage of the backbone, the head.

    Layers between two stages, which ConvNeXts have, belong to the later one; those after the last stage to the head.

    Args:
      model: of `build_classifier`.
    """
    found: dict[str, list[keras.layers.Layer]] = {}
    waiting: list[keras.layers.Layer] = []
    for layer in model.layers:
        if layer.weights:
            waiting.append(layer)
            if stage := _STAGE.search(layer.name):
                if not found:
                    found["stem"], waiting = waiting[:-1], waiting[-1:]
                found.setdefault(stage[0], []).extend(waiting)
                waiting = []
    return [*found.values(), waiting]


def named_layers(graph: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers of a published graph by the names of their copies; those inside a `Sequential` one by one.

    Keras numbers layers without a name by what the process has built before; their copies have numbers of their own.
    """
    count = 0
    for layer in graph.layers:
        for each in layer.layers if isinstance(layer, keras.Sequential) else [layer]:
            name = each.name
            if _letters(name) == _letters(type(each).__name__):
                name, count = f"unnamed_{count}", count + 1
            yield name, each


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


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


def _drop_rates(graph: keras.Model, drop_connect: float) -> dict[str, float]:
    """The drop-connect rate of each residual branch by the layer at its end: EfficientNets' drop, ConvNeXts' identity.

    Set here because the constructors of keras.applications do not take it, and because in EfficientNetV2 they divide by
    the number of blocks before depth scaling, so that B1 to B3 exceed the requested rate.
    """
    names = [layer.name for layer in graph.layers]
    ends = [f"{name.removesuffix('project_conv')}drop" for name in names if name.endswith("_project_conv")]
    ends = ends or [name for name in names if name.endswith("_identity")]
    return {end: drop_connect * i / len(ends) for i, end in enumerate(ends)}


def _clone(
    graph: keras.Model,
    image: Any,
    normalized: Any,
    drop_rates: dict[str, float],
    batch_norm: dict[str, Any],
    make_layer: MakeLayer,
) -> Any:
    """Copies `graph` without its preprocessing on top of `normalized`, which is made of `image`; returns its features.

    The layers are new, because a layer called twice has no single `.output` for others (Grad-CAM, export) to ask for.
    """
    names = {id(layer): name for name, layer in named_layers(graph)}

    def copy(layer: keras.layers.Layer, inputs: Any) -> Any:
        config = {**layer.get_config(), "name": names[id(layer)]}
        if layer.name in drop_rates:
            if not isinstance(layer, keras.layers.Dropout):
                layer = keras.layers.Dropout(0.0, noise_shape=(None, 1, 1, 1), name=layer.name)
                config = layer.get_config()
            config["rate"] = drop_rates[layer.name]
        if isinstance(layer, keras.layers.BatchNormalization):
            config.update(batch_norm)
        return make_layer(layer, config, inputs)

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if args[0] is image:
            if isinstance(operation, _PREPROCESSING):
                return image
            args = (normalized, *args[1:])
        if isinstance(operation, keras.Sequential):
            x = args[0]
            for layer in operation.layers:
                x = copy(layer, x)
            return x
        if isinstance(operation, keras.layers.Layer):
            return copy(operation, args[0])
        return type(operation).from_config(operation.get_config())(*args, **kwargs)

    return keras.models.clone_model(
        graph, input_tensors=image, clone_function=lambda operation: operation, call_function=call
    ).output
