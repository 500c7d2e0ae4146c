"""The published graph rebuilt for TPUs: spatial splits, joint gradients and full depthwise convolutions.

Weights, their names and, up to the order of sums, outputs and gradients are those of the plain graph.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from melanoma_tf.devices.profile import DeviceProfile
from melanoma_tf.models.backbones import MakeLayer
from melanoma_tf.tpu import depthwise, fused_conv_bn, halo_batch_norm, spatial_split


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """The `rewrite` of `backbones.build_classifier`.

    Attributes:
      spatial_splits: parts of each image in the first blocks; halved until the rows of a block can be divided so.
      fast_layers: joint gradients of convolution and batch norm, and depthwise convolutions on matrix units (JAX).
    """

    spatial_splits: int = 1
    fast_layers: bool = False

    def __call__(self, published: keras.Model) -> MakeLayer:
        """The function that copies each layer of `published`.

        Raises:
          ValueError: fast layers where Keras does not run on JAX.
        """
        if self.fast_layers and keras.backend.backend() != "jax":
            raise ValueError(f"TPU layers are written in JAX; Keras runs on {keras.backend.backend()}")
        splitter = spatial_split.SpatialSplitter(published, self.spatial_splits)

        def make_layer(layer: keras.layers.Layer, config: dict[str, Any], inputs: Any) -> Any:
            layer_class = layer.__class__
            if layer_class is keras.layers.BatchNormalization:
                module = fused_conv_bn if self.fast_layers else halo_batch_norm
                layer_class = module.BatchNormalization
            elif layer_class is keras.layers.DepthwiseConv2D and self.fast_layers:
                layer_class = depthwise.DepthwiseConv2D
                config = {**config, "full": depthwise.worthwhile(layer) if splitter.fills_lanes(layer) else "never"}
            if splitter.covers(layer):
                return splitter.rebuild(layer, layer_class, config, inputs)
            return layer_class.from_config(config)(inputs)

        return make_layer


def choose(settings: Any, profile: DeviceProfile, batch_size: int, compute_dtype: str) -> Rewrite | None:
    """The rewrite that `settings` (`config.tpu`) ask for on these devices; None for the plain graph.

    Args:
      settings: `config.tpu`.
      profile: devices of the step.
      batch_size: images in a global batch.
      compute_dtype: of the precision policy.
    """
    splits, fast = profile.spatial_splits(settings, batch_size), profile.tpu_rewrites(settings, compute_dtype)
    return Rewrite(splits, fast) if splits > 1 or fast else None


def spatial_splits(classifier: keras.Model) -> int:
    """Parts into which the first blocks split each image."""
    return next((layer.splits for layer in classifier.layers if isinstance(layer, spatial_split.SplitRows)), 1)


def describe(classifier: keras.Model) -> str:
    """What was rewritten in a classifier, for the log."""
    joint = sum(isinstance(layer, fused_conv_bn.BatchNormalization) for layer in classifier.layers)
    splits = spatial_splits(classifier)
    parts = [f"first blocks on {splits} splits of each image"] if splits > 1 else []
    parts += ["layers for TPUs"] if joint else []
    return " and ".join(parts) or "plain graph"
