"""The backbones by name; imports no Keras, so that commands can check a name before it starts.

A backbone is one entry: a constructor as `keras.applications` has them, and the input scale of its weights. Weights
that are published as files have their place and checksum in `catalogue.py`.
"""

from __future__ import annotations

import dataclasses

from melanoma_tf.core.config import PUBLISHED_WEIGHTS
from melanoma_tf.models import catalogue

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)  # RGB in [0,1]; the statistics EfficientNet V1 was published with
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without its top, and its input scale.

    Attributes:
      constructor: name of the function in `module`, called with `weights`, `include_top` and `input_shape`.
      scale: per RGB channel; the network sees `image * scale + offset` of an image in [0,1].
      offset: see scale.
      module: where the constructor is.
    """

    constructor: str
    scale: Channels
    offset: Channels
    module: str = "keras.applications"


def _imagenet(constructor: str) -> Backbone:
    """(image - mean) / std, written as one multiply and one add."""
    scale = tuple(1 / std for std in IMAGENET_STD)
    offset = tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return Backbone(constructor, scale, offset)  # type: ignore[arg-type]


def _centered(constructor: str) -> Backbone:
    """keras.applications: `Rescaling(1 / 128, offset=-1)` of [0,255], which is [-1, 0.9921875] and not [-1, 1]."""
    return Backbone(constructor, (255 / 128,) * 3, (-1.0,) * 3)


def _symmetric(constructor: str) -> Backbone:
    """keras.applications: [0,255] / 127.5 - 1, which is [-1, 1]."""
    return Backbone(constructor, (2.0,) * 3, (-1.0,) * 3)


def _lite(constructor: str) -> Backbone:
    """([0,255] - 127) / 128, as EfficientNet-Lite was published."""
    return Backbone(constructor, (255 / 128,) * 3, (-127 / 128,) * 3, "melanoma_tf.models.efficientnet_lite")


BACKBONES: dict[str, Backbone] = {
    **{f"efficientnet-b{i}": _imagenet(f"EfficientNetB{i}") for i in range(8)},
    **{f"efficientnetv2-b{i}": _imagenet(f"EfficientNetV2B{i}") for i in range(4)},
    **{f"efficientnetv2-{size.lower()}": _centered(f"EfficientNetV2{size}") for size in "SML"},
    **{f"efficientnet-lite{i}": _lite(f"EfficientNetLite{i}") for i in range(3)},
    **{f"convnext-{size.lower()}": _imagenet(f"ConvNeXt{size}") for size in ("Tiny", "Small", "Base")},
    **{f"mobilenetv3-{size.lower()}": _symmetric(f"MobileNetV3{size}") for size in ("Small", "Large")},
    "resnet50v2": _symmetric("ResNet50V2"),
}


def backbone(name: str) -> Backbone:
    """The entry of `BACKBONES` called `name`.

    Raises:
      ValueError: unknown name.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; expected one of: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def check_weights(name: str, weights: str) -> None:
    """Checks that weights of that name are published for a backbone; paths and "none" pass.

    Args:
      name: a key of `BACKBONES`.
      weights: `config.weights`.

    Raises:
      ValueError: unknown backbone, or nothing is published under that name.
      WeightsUnavailableError: they come in a package that is not installed.
    """
    backbone(name)
    recipes = ("noisy-student", "autoaugment") if name in catalogue.NOISY_STUDENT_MD5 else ()
    allowed = ("none", "imagenet", *recipes)
    if weights in PUBLISHED_WEIGHTS and weights not in allowed:
        raise ValueError(f"no {weights!r} weights are published for {name}; expected one of: {', '.join(allowed)}")
    if weights == "imagenet" and name in catalogue.LITE_SHA256:
        catalogue.lite_file(name)
