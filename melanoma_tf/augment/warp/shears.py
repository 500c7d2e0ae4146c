"""Affine warps on TPUs under JAX: one Pallas kernel that keeps an image in the chip's fast memory throughout.

A map is decomposed into a scaling, shift and mirroring (two matrix products with weights made on the fly), three shears
that make the rotation (A. W. Paeth, "A fast algorithm for general raster rotation", 1986), and a final zoom out (two
more products). A shear shifts each row by its own amount: by whole pixels in steps of 1, 2, 4, ... under a mask, and by
the remainder with eight taps. This suits the vector unit, gathers nothing, and accesses main memory only to read the u8
image and to write the result.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from melanoma_tf.augment.warp.coordinates import Fill

_TAPS = 8  # of Lanczos4
_LANES, _SUBLANES = 128, 8  # of a TPU's vector registers
_ROWS = 64  # sheared at a time
LARGEST = 768  # pixels; 1,024 take nearly all of a v5p's 64 MB of fast memory, and more than a minute to compile
_DEFAULT_VMEM = 16 << 20  # bytes that a kernel may use without asking for more
_MAX_ZOOM_OUT = 2.0  # without aliasing
_FINAL_ZOOM_OUT = 1.15  # at least; more where rounding up makes the canvas larger


@dataclasses.dataclass(frozen=True)
class _Options:
    """Static options of the kernel, see `by_shears`."""

    fill: Fill
    value: float
    antialias: bool


def by_shears(
    images: Any,
    matrices: Any,
    *,
    fill: Fill = "reflect",
    value: float = 0.0,
    antialias: bool = False,
    dtype: Any = None,
) -> Any:
    """Warps each image by its own affine map, resampled by Lanczos4.

    On other devices than a TPU the kernel is interpreted, which is slow and meant for tests.

    Args:
      images: [B,S,S,C], any dtype; S at most LARGEST. Under a Keras distribution B must be a multiple of its devices.
      matrices: f32[B,3,3], see `geometry`; with a shear beyond 30 degrees the corners may show the opposite edge.
      fill: beyond the edges, see `affine.affine`.
      value: fill value of "constant".
      antialias: zoom out by up to 2 without aliasing.
      dtype: of the result; None is float32. The arithmetic is float32.

    Returns:
      [B,S,S,C] in the scale of `images`; it overshoots by a few percent at sharp edges.

    Raises:
      ValueError: the images are too large.
    """
    import jax
    import jax.numpy as jnp
    import keras

    size = images.shape[1]
    if size > LARGEST:
        raise ValueError(
            f"images of {size} px exceed a TPU's fast memory; expected at most {LARGEST} px: use method 'matmul'"
        )
    kernel = functools.partial(_call, options=_Options(fill, value, antialias), dtype=dtype or jnp.float32)

    def local(parameters: Any, planes: Any) -> Any:
        interpreted = functools.partial(kernel, interpret=True)
        return jax.lax.platform_dependent(parameters, planes, tpu=kernel, default=interpreted)

    # XLA does not partition a Pallas kernel among devices.
    distribution = keras.distribution.distribution()
    if distribution is not None and len(images) % distribution.device_mesh.shape[0] == 0:
        divided = jax.P(distribution.batch_dim_name)
        mesh = distribution.device_mesh.backend_mesh
        local = jax.shard_map(local, mesh=mesh, in_specs=(divided, divided), out_specs=divided, check_vma=False)
    # Channels first is how XLA lays out images on a TPU, so this costs nothing.
    planes = jnp.transpose(jnp.asarray(images), (0, 3, 1, 2))
    return jnp.transpose(local(_parameters(jnp.asarray(matrices), size), planes), (0, 2, 3, 1))


def _canvas(size: int) -> int:
    """Side in pixels of the square on which images are sheared; a rotated image has to fit."""
    return -(-math.ceil(size * math.sqrt(2) * _FINAL_ZOOM_OUT + _TAPS) // _LANES) * _LANES


def _parameters(matrices: Any, size: int) -> Any:
    """Decomposes maps into the kernel's parameters.

    source = transpose . (scale_x, scale_y, shift_x, shift_y) . shear_x(1st) . shear_y(2nd) . shear_x(3rd) . scale.

    Args:
      matrices: f32[B,3,3].
      size: side of the images in pixels.

    Returns:
      f32[B,9]: the three shears, scale and shift along x and then along y, the final scale, whether to transpose.
    """
    import jax.numpy as jnp

    upper, lower = matrices[:, 0], matrices[:, 1]
    # The shears rotate by the angle of the lower row; transposing exchanges the rows.
    transposed = jnp.abs(upper[:, 1]) * _length(lower) > jnp.abs(lower[:, 1]) * _length(upper)
    upper, lower = (
        jnp.where(transposed[:, None], lower, upper),
        jnp.where(transposed[:, None], upper, lower),
    )
    # Mirror rows and columns, so that the rotation is within 45 degrees and the map keeps its orientation.
    sign_y = jnp.where(lower[:, 1] < 0, -1.0, 1.0)
    lower = lower * sign_y[:, None]
    determinant = upper[:, 0] * lower[:, 1] - upper[:, 1] * lower[:, 0]
    sign_x = jnp.where(determinant < 0, -1.0, 1.0)
    upper = upper * sign_x[:, None]
    scale_y = _length(lower)
    sin, cos = lower[:, 0] / scale_y, lower[:, 1] / scale_y
    scale_x = jnp.abs(determinant) / scale_y
    shear = (upper[:, 0] * sin + upper[:, 1] * cos) / scale_x
    half = sin / (1.0 + cos)  # the tangent of half the angle
    # Zoom out as late as the canvas allows, because shears blur an image that has lost pixels.
    last = jnp.clip(jnp.maximum(scale_x, scale_y), 1.0, (_canvas(size) - _TAPS) / (size * math.sqrt(2)))
    first = [sign_x * scale_x / last, sign_x * upper[:, 2], sign_y * scale_y / last, sign_y * lower[:, 2]]
    return jnp.stack([shear - half, sin, -half, *first, last, transposed.astype(jnp.float32)], axis=1)


def _length(row: Any) -> Any:
    import jax.numpy as jnp

    return jnp.hypot(row[:, 0], row[:, 1])


def _call(parameters: Any, planes: Any, options: _Options, dtype: Any, interpret: bool = False) -> Any:
    """Calls the kernel on planes [B,C,S,S] with parameters f32[B,9]; returns [B,C,S,S] of `dtype`."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    count, channels, size, _ = planes.shape
    width = _canvas(size)
    plane = pl.BlockSpec((1, 1, size, size), lambda image, channel: (image, channel, 0, 0))
    result = jax.ShapeDtypeStruct(planes.shape, dtype)
    products = 3 * 2 * 2 * width * size * (size + width)
    shears = 3 * width**2 * (2 * _TAPS + width.bit_length())
    halves = [pltpu.VMEM(shape, jnp.bfloat16) for shape in ((2, size, size), (2, width, size), (2, size, width))]
    # Rows are padded to whole registers; input and output planes are double-buffered. The factor of 7/4 and the 2 MiB
    # are working memory, measured with libtpu at 384 to 1,024 px.
    rows = -(-size // _LANES) * _LANES
    held = 4 * (width**2 + size * rows + width * rows + size * width)
    held += 2 * size * rows * (planes.dtype.itemsize + result.dtype.itemsize)
    needed = 7 * held // 4 + (2 << 20)
    return pl.pallas_call(
        functools.partial(_kernel, options),
        out_shape=result,
        grid=(count, channels),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), plane],
        out_specs=plane,
        scratch_shapes=[*halves, pltpu.VMEM((width, width), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"),
            vmem_limit_bytes=needed if needed > _DEFAULT_VMEM else None,
        ),
        # Without an estimate the compiler counts the kernel as free.
        cost_estimate=pl.CostEstimate(
            flops=count * channels * (products + shears),
            bytes_accessed=planes.size * (planes.dtype.itemsize + result.dtype.itemsize),
            transcendentals=count * channels * 8 * width * size,
        ),
        interpret=interpret,
    )(parameters.reshape(-1), planes)


def _kernel(
    options: _Options, parameters: Any, image: Any, out: Any, plane: Any, tall: Any, final: Any, canvas: Any
) -> None:
    """Warps one channel of one image.

    Args:
      options: static options.
      parameters: f32[B*9] of all images.
      image: input [1,1,S,S].
      out: output [1,1,S,S].
      plane: scratch [2,S,S] for `_halves`, as the next two.
      tall: scratch [2,width,S].
      final: scratch [2,S,width].
      canvas: scratch f32[width,width] with the image about its center.
    """
    from jax.experimental import pallas as pl

    start = pl.program_id(0) * 9
    shear_1, shear_2, shear_3, scale_x, shift_x, scale_y, shift_y, last, transposed = (
        parameters[start + i] for i in range(9)
    )
    size, width = image.shape[2], canvas.shape[0]
    middle, center = (size - 1) / 2, (width - 1 + size % 2) / 2  # pixel lies on pixel, in odd images too
    _load(options, image, plane)
    for begin in range(0, size, _ROWS):
        rows = slice(begin, min(begin + _ROWS, size))
        positions = last * (_along(0, rows.stop - begin) + (begin - middle)) + center
        _store(final, _weights(positions, last, width, "constant", options.antialias), rows)

    def fill_tall(rows: Any, distances: Any) -> None:
        positions = scale_x * distances + (shift_x + middle)
        _store(tall, _weights(positions, scale_x, size, options.fill, options.antialias), rows)

    def place(rows: Any, distances: Any) -> None:
        positions = scale_y * distances + (shift_y + middle)
        weights = _halves(_weights(positions, scale_y, size, options.fill, options.antialias))
        _place(canvas, rows, weights, plane, tall, transposed)

    def narrow(rows: Any, distances: Any) -> None:
        del distances
        _store(tall, _product(_halves(canvas[rows, :]), (final[0], final[1]), 1), rows)

    _for_rows(width, center, fill_tall)
    _for_rows(width, center, place)
    _shear_rows(canvas, center, shear_1)
    _shear_columns(canvas, center, shear_2)
    _shear_rows(canvas, center, shear_3)
    _for_rows(width, center, narrow)
    for begin in range(0, size, _ROWS):
        rows = slice(begin, min(begin + _ROWS, size))
        result = _product((final[0, rows, :], final[1, rows, :]), (tall[0], tall[1]), 0)
        out[0, 0, rows, :] = (result + options.value).astype(out.dtype)


def _for_rows(width: int, center: float, function: Callable[[Any, Any], None]) -> None:
    """Calls function(rows, their distances f32[_ROWS,1] from the center) for all rows of the canvas."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl

    def block_of_rows(block: Any, _: None) -> None:
        begin = pl.multiple_of(block * _ROWS, _ROWS)
        function(pl.ds(begin, _ROWS), _along(0, _ROWS) + begin.astype(jnp.float32) - center)

    jax.lax.fori_loop(0, width // _ROWS, block_of_rows, None)


def _load(options: _Options, image: Any, plane: Any) -> None:
    """Stores the image in `plane`, relative to the fill value."""
    import jax.numpy as jnp

    source = image[0, 0]
    if source.dtype == jnp.uint8:
        source = source.astype(jnp.int32)  # TPUs have no instruction from bytes to floats
    _store(plane, source.astype(jnp.float32) - options.value)


def _place(canvas: Any, rows: Any, weights: tuple[Any, Any], plane: Any, tall: Any, transposed: Any) -> None:
    """Scales the plane onto rows of the canvas: by `weights` down the columns, by `tall` along the rows."""
    from jax.experimental import pallas as pl

    across = tall[0], tall[1]

    @pl.when(transposed > 0)
    def _() -> None:
        canvas[rows, :] = _product(_halves(_product(weights, (plane[0], plane[1]), 1)), across, 1)

    @pl.when(transposed <= 0)
    def _() -> None:
        canvas[rows, :] = _product(_halves(_product(weights, (plane[0], plane[1]), 0)), across, 1)


def _shear_rows(canvas: Any, center: float, amount: Any) -> None:
    def shear(rows: Any, distances: Any) -> None:
        canvas[rows, :] = _shift(canvas[rows, :], amount * distances, 1)

    _for_rows(canvas.shape[0], center, shear)


def _shear_columns(canvas: Any, center: float, amount: Any) -> None:
    for begin in range(0, canvas.shape[0], _LANES):
        columns = slice(begin, begin + _LANES)
        distances = _along(1, _LANES) + (begin - center)
        canvas[:, columns] = _shift(canvas[:, columns], amount * distances, 0)


def _halves(values: Any) -> tuple[Any, Any]:
    """Values as a sum of two bfloat16: 16 bits, of which TPUs multiply 8 at a time."""
    import jax.numpy as jnp

    high = values.astype(jnp.bfloat16)
    return high, (values - high.astype(jnp.float32)).astype(jnp.bfloat16)


def _store(scratch: Any, values: Any, rows: Any = slice(None)) -> None:
    scratch[0, rows, :], scratch[1, rows, :] = _halves(values)


def _product(a: tuple[Any, Any], b: tuple[Any, Any], axis: int) -> Any:
    """Product f32 of two `_halves`: a @ b for axis 0, a @ b.T for axis 1, without low times low (2**-16)."""
    import jax
    import jax.numpy as jnp

    def dot(x: Any, y: Any) -> Any:
        return jax.lax.dot_general(x, y, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)

    return dot(a[0], b[0]) + (dot(a[0], b[1]) + dot(a[1], b[0]))


def _weights(positions: Any, step: Any, size: int, fill: Fill, antialias: bool) -> Any:
    """Weights f32[N,size] of each pixel, at positions f32[N,1] that lie `step` pixels apart."""
    import jax.numpy as jnp

    width = jnp.clip(jnp.abs(step), 1.0, _MAX_ZOOM_OUT) if antialias else 1.0
    pixels = _along(1, size)

    def kernel(distance: Any) -> Any:
        return _lanczos(distance / width)

    # Sum of an uncut row of weights; not quite one for a widened kernel.
    taps = _along(1, _LANES) - _LANES // 2
    total = jnp.sum(kernel(positions - jnp.floor(positions) - taps), axis=1, keepdims=True)
    if fill == "constant":
        return kernel(positions - pixels) / total
    if fill == "reflect":
        phase = jnp.mod(positions + 0.5, 2.0 * size)
        positions = jnp.minimum(phase, 2.0 * size - phase) - 0.5
        # Each pixel is also seen in the mirrors at both edges.
        distances = (positions - pixels, positions + 1.0 + pixels, 2.0 * size - 1.0 - pixels - positions)
        return (kernel(distances[0]) + kernel(distances[1]) + kernel(distances[2])) / total
    positions = jnp.clip(positions, 0.0, size - 1.0)
    taps = _along(1, _LANES) + 1.0  # the edge also takes the weights of pixels beyond it
    edges = (positions, size - 1.0 - positions)
    before, after = (jnp.sum(kernel(edge + taps), axis=1, keepdims=True) for edge in edges)
    beyond = jnp.where(pixels == 0, before, 0.0) + jnp.where(pixels == size - 1, after, 0.0)
    return (kernel(positions - pixels) + beyond) / total


def _shift(values: Any, by: Any, axis: int) -> Any:
    """Circular shift values[i + by] along an axis. by: f32[R,1] for axis 1, f32[1,C] for axis 0."""
    import jax.numpy as jnp
    from jax.experimental.pallas import tpu as pltpu

    length = values.shape[axis]

    def moved(array: Any, places: int) -> Any:
        return pltpu.roll(array, -places % length, axis) if places else array

    whole = jnp.floor(by)
    steps = jnp.mod(whole.astype(jnp.int32), length)
    for bit in range((length - 1).bit_length()):
        taken = jnp.broadcast_to(jnp.bitwise_and(steps, 1 << bit), values.shape) > 0
        values = jnp.where(taken, moved(values, 1 << bit), values)
    # All taps at once, along the axis in which `by` has length 1.
    tap = _along(axis, _LANES if axis else _SUBLANES)
    weights = jnp.where(tap < _TAPS, _lanczos(tap - (_TAPS // 2 - 1) - (by - whole)), 0.0)
    weights = weights / jnp.sum(weights, axis=axis, keepdims=True)
    each = [weights[:, i : i + 1] if axis else weights[i : i + 1] for i in range(_TAPS)]
    return sum(moved(values, i - (_TAPS // 2 - 1)) * weight for i, weight in enumerate(each))


def _lanczos(distance: Any) -> Any:
    """Lanczos4: sinc(x) sinc(x / 4) for |x| < 4."""
    import jax.numpy as jnp

    distance = jnp.minimum(jnp.abs(distance), 4.0)
    x = jnp.pi * jnp.maximum(distance, 1e-4)
    return jnp.where(distance < 1e-4, 1.0, 4.0 * jnp.sin(x) * jnp.sin(x / 4.0) / (x * x))


def _along(axis: int, length: int) -> Any:
    """0, 1, 2, ... as f32[length,1] for axis 0, f32[1,length] for axis 1."""
    import jax
    import jax.numpy as jnp

    shape = (1, length) if axis else (length, 1)
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis).astype(jnp.float32)
