"""JPEGs to pixels on all cores, a batch at a time: what the host spends nearly all of its time on.

TensorFlow's own decoder gives every image fresh memory and copies it into its batch. Here the images of a batch are
decoded where they will lie, in the memory of a batch that is gone: by `_jpeg.c` where it is compiled, else by
simplejpeg, and what these decline by TensorFlow. All give the same samples (libjpeg-turbo's accurate inverse DCT).
"""

from __future__ import annotations

import collections
import functools
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import tensorflow as tf

try:
    from tfrecord_tools.imaging import _jpeg
except ImportError:  # not compiled, for want of a C compiler at installation, or not for this machine
    _jpeg = None  # type: ignore[assignment]
try:
    import simplejpeg
except ImportError:  # no wheel for this platform
    simplejpeg = None

Pixels = npt.NDArray[np.uint8]

_SHARE = 8  # images that a thread takes at a time
_ALIGNMENT = 64  # bytes; of other memory TensorFlow makes a copy


@functools.cache
def of_size(size: int) -> Decoder:
    """This process's decoder of images of so many pixels. One, since TensorFlow keeps whatever a graph has called."""
    return Decoder(size)


class Decoder:
    """Turns JPEGs into square RGB images, resampled where they are of another size.

    The memory of a call's images is used again by a later one, once nothing refers to them any more.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decoder")
        self._free: collections.deque[Pixels] = collections.deque()

    def graph(self, jpegs: tf.Tensor) -> tf.Tensor:
        """string[B] -> u8[B,S,S,3]; InvalidArgumentError where one of them is no image."""
        pixels = tf.numpy_function(self, [jpegs], tf.uint8, stateful=False)
        return tf.ensure_shape(pixels, [jpegs.shape[0], self._size, self._size, 3])

    def __call__(self, jpegs: npt.NDArray[np.object_]) -> Pixels:
        """object[B] of bytes -> u8[B,S,S,3]. Raises ValueError where one of them is no image."""
        pixels = self._room(len(jpegs))

        def decode(first: int) -> None:
            some = slice(first, first + _SHARE)
            self._decode(tuple(jpegs[some]), pixels[some])

        collections.deque(self._threads.map(decode, range(0, len(jpegs), _SHARE)), maxlen=0)
        return pixels

    def _room(self, count: int) -> Pixels:
        """u8[count,S,S,3]: of a batch that is gone, if there is one."""
        length = count * self._size * self._size * 3
        try:
            room = self._free.pop()
        except IndexError:
            room = np.empty(0, np.uint8)
        if len(room) <= length:
            memory = np.empty(length + 2 * _ALIGNMENT, np.uint8)
            room = memory[-memory.ctypes.data % _ALIGNMENT :]
        # Views of arrays refer to the first array that was made of the memory. Made of a memoryview, that is this one,
        # and not `room`, which always lives.
        lent = np.frombuffer(room.data, np.uint8)
        weakref.finalize(lent, self._free.append, room).atexit = False
        return lent[:length].reshape(count, self._size, self._size, 3)

    def _decode(self, jpegs: tuple[bytes, ...], pixels: Pixels) -> None:
        done = 0
        while done < len(jpegs):
            if _jpeg:
                done += _jpeg.decode_each(jpegs[done:], (self._size, self._size), pixels[done:])
            if done < len(jpegs):
                _decode_one(jpegs[done], pixels[done])
                done += 1


def _decode_one(jpeg: bytes, pixels: Pixels) -> None:
    """What `_jpeg.c` declines."""
    if simplejpeg:
        try:
            if simplejpeg.decode_jpeg_header(jpeg)[:2] == pixels.shape[:2]:
                simplejpeg.decode_jpeg(jpeg, "RGB", buffer=pixels)
                return
        except ValueError:  # TensorFlow's verdict counts
            pass
    try:
        # TensorFlow's default is the quick DCT, which no other tool uses.
        found = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
        pixels[:] = found if found.shape == pixels.shape else _resample(found, len(pixels))
    except tf.errors.OpError as error:
        raise ValueError(f"not a image: {error.message}") from error


def _resample(image: tf.Tensor, size: int) -> tf.Tensor:
    """For a small trial on a big build, or external data of another size."""
    resampled = tf.image.resize(image, [size, size], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resampled), 0, 255), tf.uint8)
