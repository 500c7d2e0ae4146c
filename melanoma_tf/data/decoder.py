"""Multi-threaded JPEG decoding of whole batches into reused memory.

TensorFlow's decoder allocates memory for every image and copies it into the batch. Here simplejpeg (libjpeg-turbo)
decodes each image in place, into the memory of an earlier batch that is no longer referenced. TensorFlow decodes what
simplejpeg cannot, and images of another size; the samples are the same (accurate inverse DCT).
"""

from __future__ import annotations

import collections
import functools
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import simplejpeg
import tensorflow as tf

ImageArray = npt.NDArray[np.uint8]

_SHARE = 8  # images per task of a thread
_ALIGNMENT = 64  # bytes; TensorFlow copies memory that is aligned to less


@functools.cache
def of_size(size: int) -> Decoder:
    """Returns this process's decoder for a size; only one, because TensorFlow never frees functions in graphs."""
    return Decoder(size)


class Decoder:
    """Decodes JPEGs to square RGB images, resampling those of another size.

    The memory of a result is reused by a later call once nothing references it.

    Args:
        size: Side of the images in pixels.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decoder")
        self._free: collections.deque[ImageArray] = collections.deque()

    def graph(self, jpegs: tf.Tensor) -> tf.Tensor:
        """Decodes string[B] to u8[B,S,S,3] in a graph; raises InvalidArgumentError for what is no image."""
        pixels = tf.numpy_function(self, [jpegs], tf.uint8, stateful=False)
        return tf.ensure_shape(pixels, [jpegs.shape[0], self._size, self._size, 3])

    def __call__(self, jpegs: npt.NDArray[np.object_]) -> ImageArray:
        """Decodes object[B] of bytes to u8[B,S,S,3]; raises ValueError for what is no image."""
        pixels = self._allocate(len(jpegs))

        def decode(first: int) -> None:
            for index in range(first, min(first + _SHARE, len(jpegs))):
                _decode(jpegs[index], pixels[index])

        collections.deque(self._threads.map(decode, range(0, len(jpegs), _SHARE)), maxlen=0)
        return pixels

    def _allocate(self, count: int) -> ImageArray:
        """Returns u8[count,S,S,3], in the memory of a released batch if there is one."""
        length = count * self._size * self._size * 3
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) <= length:
            fresh = np.empty(length + 2 * _ALIGNMENT, np.uint8)
            memory = fresh[-fresh.ctypes.data % _ALIGNMENT :]
        # NumPy's views keep the array at the end of their chain of bases alive. Through a memoryview the chain ends at
        # `lent`, whose end therefore means that no view is left; `memory` lives on.
        lent = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent[:length].reshape(count, self._size, self._size, 3)


def _decode(jpeg: bytes, pixels: ImageArray) -> None:
    """Fills u8[S,S,3] from a JPEG; raises ValueError if it cannot be decoded."""
    try:
        if simplejpeg.decode_jpeg_header(jpeg)[:2] == pixels.shape[:2]:
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=pixels)
            return
    except ValueError:  # TensorFlow decides: it decodes more kinds
        pass
    try:
        # TensorFlow's default is the fast DCT, which no other tool uses.
        found = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
        pixels[:] = found if found.shape == pixels.shape else _resample(found, len(pixels))
    except tf.errors.OpError as error:
        raise ValueError(f"not an image: {error.message}") from error


def _resample(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes images of a small trial on a large build, or of external data."""
    resampled = tf.image.resize(image, [size, size], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resampled), 0, 255), tf.uint8)
