"""Corruptions of images at stated severities, by the operations of `augment`; JPEG by libjpeg-turbo."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from keras import ops
from numpy.typing import NDArray

from melanoma_tf.augment import color, degradation, geometry, operations, random
from melanoma_tf.augment.operations import PixelOp
from melanoma_tf.augment.warp import affine

Images = NDArray[np.uint8]
Seeds = NDArray[np.uint32]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of corruption.

    Attributes:
      apply: images u8[B,S,S,3], seeds u32[B] of the images and a level to images u8[B,S,S,3].
      levels: severities.
      label: format of a level, and of its negative, for a reader.
      identity: level that changes nothing, if there is one.
    """

    apply: Callable[[Images, Seeds, float], Images]
    levels: tuple[float, ...]
    label: str
    identity: float | None = None


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A kind of corruption at one of its levels; see KINDS."""

    kind: str
    level: float

    @property
    def severity(self) -> str:
        """The level for a reader."""
        return KINDS[self.kind].label.format(self.level, -self.level)

    def __call__(self, images: Images, seeds: Seeds) -> Images:
        """Corrupts images u8[B,S,S,3] by the seeds u32[B] of their names."""
        return KINDS[self.kind].apply(images, seeds, self.level)


def _in_unit(change: Callable[[Any, Seeds, float], Any]) -> Callable[[Images, Seeds, float], Images]:
    """Makes a change of float32[B,S,S,3] in [0,1] one of u8, rounded as a camera stores it."""

    def apply(images: Images, seeds: Seeds, level: float) -> Images:
        changed = change(ops.cast(images, "float32") * (1.0 / 255.0), seeds, level)
        return np.asarray(ops.convert_to_numpy(ops.round(ops.clip(changed, 0.0, 1.0) * 255.0))).astype(np.uint8)

    return apply


def _each(level: float, seeds: Seeds) -> Any:
    return ops.full((len(seeds),), level, dtype="float32")


def _drawn(op: PixelOp, images: Any, seeds: Seeds) -> Any:
    return op.apply(images, op.draw(random.Stream(ops.convert_to_tensor(seeds))))


@_in_unit
def blur(images: Any, seeds: Seeds, level: float) -> Any:
    """Gaussian blur; level: standard deviation as a fraction of the side."""
    sigma = level * images.shape[1]
    return degradation.blur(images, _each(sigma, seeds), max_sigma=max(sigma, 0.5))


@_in_unit
def brightness(images: Any, seeds: Seeds, level: float) -> Any:
    """Adds to all values; level: in [-1,1]."""
    one, zero = _each(1.0, seeds), _each(0.0, seeds)
    return color.transform(images, color.matrix(_each(level, seeds), one, one, zero))


@_in_unit
def color_cast(images: Any, seeds: Seeds, level: float) -> Any:
    """Light that is warmer (level above 0: more red, less blue, by this share) or colder."""
    factors = [_each(1.0 + level * side, seeds) for side in (1, 0, -1)]
    return color.transform(images, color.gains(ops.stack(factors, axis=1)))


@_in_unit
def hair(images: Any, seeds: Seeds, level: float) -> Any:
    """Hairs; level: the largest number of them, at least 1 is drawn."""
    return _drawn(operations.Hair(int(level), p=1.0), images, seeds)


@_in_unit
def ink(images: Any, seeds: Seeds, level: float) -> Any:
    """Strokes of a skin marker; level: the largest number of them, at least 1 is drawn."""
    return _drawn(operations.Ink(int(level), p=1.0), images, seeds)


@_in_unit
def ruler(images: Any, seeds: Seeds, level: float) -> Any:
    """Ruler marks; level: length of the ticks as a fraction of the side."""
    return _drawn(operations.Ruler(level, p=1.0), images, seeds)


@_in_unit
def dark_corners(images: Any, seeds: Seeds, level: float) -> Any:
    """The round border of a dermoscope; level: its radius as a fraction of the side."""
    return degradation.microscope(images, _each(level, seeds))


@_in_unit
def zoom(images: Any, seeds: Seeds, level: float) -> Any:
    """Enlarges about the center; level: factor. Below 1, what lies beyond the edges is their reflection."""
    zero, factor = _each(0.0, seeds), _each(level, seeds)
    return affine.affine(images, geometry.matrix(zero, zero, factor, factor, zero, zero), antialias=level < 1)


def jpeg(images: Images, seeds: Seeds, level: float) -> Images:
    """Compression with 4:2:0 chroma, decoded again; level: quality from 1 to 100."""
    files = (simplejpeg.encode_jpeg(image, quality=int(level), colorsubsampling="420") for image in images)
    return np.stack([simplejpeg.decode_jpeg(file) for file in files])


KINDS = {
    "blur": Kind(blur, (0.005, 0.01, 0.02), "sigma {:.1%} of the side", identity=0.0),
    "brightness": Kind(brightness, (-0.2, -0.1, 0.1, 0.2), "{:+.0%} of full scale", identity=0.0),
    "color cast": Kind(color_cast, (-0.2, -0.1, 0.1, 0.2), "red {0:+.0%}, blue {1:+.0%}", identity=0.0),
    "hair": Kind(hair, (10, 36), "1 to {:.0f} hairs"),
    "ink": Kind(ink, (2, 8), "1 to {:.0f} strokes"),
    "ruler marks": Kind(ruler, (0.04, 0.1), "ticks of {:.0%} of the side", identity=0.0),
    "dark corners": Kind(dark_corners, (0.65, 0.57, 0.5), "beyond {:.0%} of the side from the center", identity=1.0),
    "JPEG": Kind(jpeg, (50, 20, 10), "quality {:.0f}"),
    "zoom": Kind(zoom, (0.8, 1.25, 1.5), "{:g} times", identity=1.0),
}
CORRUPTIONS = tuple(Corruption(name, level) for name, kind in KINDS.items() for level in kind.levels)
