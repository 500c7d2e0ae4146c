"""Detection of JPEGs whose red and blue are swapped.

OpenCV stores images as BGR. A writer that converts them to RGB before OpenCV encodes them swaps the channels in the
file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from PIL import ImageStat

from tfrecord_tools.core.text import counted
from tfrecord_tools.imaging import convert, signatures

_PIXELS = 64  # least side in pixels at which images are decoded for their means
# What is looked at. No worker decodes it that could be killed after a time, so it must not take long: with the limit on
# scans, a second. The largest image of ISIC 2020 has 24 million pixels; OpenCV writes both formats.
_MAX_PIXELS = 25_000_000
_QUICK = (signatures.JPEG, signatures.PNG)


@dataclasses.dataclass(frozen=True)
class Channels:
    """Mean channels of a set of images.

    Attributes:
        red: Mean over the images, 0..255.
        green: Same for green.
        blue: Same for blue.
        images: Number of images.
        bluer: Share of images with more blue than red.
    """

    red: float
    green: float
    blue: float
    images: int
    bluer: float

    @property
    def swapped(self) -> bool:
        """Whether most images are bluer than red.

        Measured: 1 of 456 images of ISIC 2020, 13 of 501 of HAM10000, 6 of 131 of the ISIC Archive; 82 of 82 in a set
        known to be swapped.
        """
        return self.bluer > 0.5

    def __str__(self) -> str:
        verdict = "look swapped" if self.swapped else "look right"
        return (
            f"red and blue {verdict}: mean R {self.red:.0f}, G {self.green:.0f}, B {self.blue:.0f}, more blue than red "
            f"in {self.bluer:.0%} of {counted(self.images, 'image')}; skin is redder than blue"
        )


def channels_look_swapped(images: Iterable[bytes]) -> Channels:
    """Measures the mean channels of images: skin of any tone is redder than blue.

    Images that cannot be decoded are skipped, as the conversion reports them, and those that may take long.
    """
    means = [mean for mean in map(_mean_rgb, images) if mean is not None]
    if not means:
        return Channels(0.0, 0.0, 0.0, 0, 0.0)
    red, green, blue = (sum(channel) / len(means) for channel in zip(*means, strict=True))
    return Channels(red, green, blue, len(means), sum(mean[2] > mean[0] for mean in means) / len(means))


def _mean_rgb(data: bytes) -> list[float] | None:
    if signatures.name_of(data) not in _QUICK:
        return None
    try:
        return ImageStat.Stat(convert.preview(data, "RGB", _PIXELS, _MAX_PIXELS)).mean
    except convert.ImageRejectedError:
        return None
