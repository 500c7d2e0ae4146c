"""Affine maps on TPUs, under JAX: one Pallas kernel that keeps a image in the chip's fast memory from first to last.

A map is a scaling, a shift and a mirroring (two matrix products with weights made on the fly), then three shears, into
which any rotation falls apart (A. W. Paeth, "A fast algorithm for general raster rotation", 1986), then what zooms out
(two products again). A shear moves each row by an amount of its own: by whole pixels in steps of 1, 2, 4, ... that are
taken or not, and by what remains with eight taps. That is what the vector unit is good at, nothing is gathered, and of
the main memory only the u8 image is read and the result written.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

_TAPS = 8  # of Lanczos4
_LANES, _SUBLANES = 128, 8  # of a TPU's vector registers
_ROWS = 64  # sheared at a time
LARGEST = 768  # pixels; 1,024 take nearly all of a v5p's 64 MB of fast memory, and more than a minute to compile
_FAST_MEMORY = 16 << 20  # bytes that a kernel may use if it does not ask for more
_MOST_ZOOMED_OUT = 2.0  # without aliasing
_ZOOMED_OUT_LAST = 1.15  # at least this much, and more where the canvas happens to be larger


def affine(
    images: Any, matrices: Any, *, fill: str = "reflect", value: float = 0.0, antialias: bool = False, dtype: Any = None
) -> Any:
    """Each image through its own affine map, resampled by Lanczos4.

    On anything but a TPU the kernel is interpreted, which is slow, and meant for tests.

    Args:
      images: [B,S,S,C], any dtype; S at most LARGEST. Under a Keras distribution B must be a multiple of its devices.
      matrices: f32[B,3,3], see `geometry`; of a shear beyond 30 degrees the corners may show what lies opposite.
      fill, value: what lies beyond the edges, see `geometry.affine`.
      antialias: zooms out by up to 2 without aliasing.
      dtype: of the result; float32 if None. The arithmetic is float32.

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
        raise ValueError(f"images of {size} px; up to {LARGEST} fit a TPU's fast memory: use method 'matmul'")
    kernel = functools.partial(_call, fill=fill, value=value, antialias=antialias, dtype=dtype or jnp.float32)

    def local(parameters: Any, planes: Any) -> Any:
        interpreted = functools.partial(kernel, interpret=True)
        return jax.lax.platform_dependent(parameters, planes, tpu=kernel, default=interpreted)

    # A kernel is not divided among devices by itself.
    distribution = keras.distribution.distribution()
    if distribution is not None and len(images) % distribution.device_mesh.shape[0] == 0:
        divided = jax.P(distribution.batch_dim_name)
        mesh = distribution.device_mesh.backend_mesh
        local = jax.shard_map(local, mesh=mesh, in_specs=(divided, divided), out_specs=divided, check_vma=False)
    # Channels first, which costs nothing: so XLA lays images out on a TPU.
    planes = jnp.transpose(jnp.asarray(images), (0, 3, 1, 2))
    return jnp.transpose(local(_parameters(jnp.asarray(matrices), size), planes), (0, 2, 3, 1))


def _canvas(size: int) -> int:
    """Side of the square on which images are sheared: a turned one has to fit."""
    return -(-math.ceil(size * math.sqrt(2) * _ZOOMED_OUT_LAST + _TAPS) // _LANES) * _LANES


def _parameters(matrices: Any, size: int) -> Any:
    """f32[B,9]: the three shears, scale and shift along x and along y, the scale in the end, whether to transpose.

    source = transpose . (scale_x, scale_y, shift_x, shift_y) . shear_x(1st) . shear_y(2nd) . shear_x(3rd) . scale.
    """
    import jax.numpy as jnp

    upper, lower = matrices[:, 0], matrices[:, 1]
    # The turn that the shears are to make is the angle of the lower row; transposing exchanges the rows.
    transposed = jnp.abs(upper[:, 1]) * _length(lower) > jnp.abs(lower[:, 1]) * _length(upper)
    upper, lower = (
        jnp.where(transposed[:, None], lower, upper),
        jnp.where(transposed[:, None], upper, lower),
    )
    # Mirrored rows and columns, so that the turn is within 45 degrees and the map keeps its orientation.
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
    # Pixels are left out as late as the canvas allows: a image that has lost some is sheared less well.
    last = jnp.clip(jnp.maximum(scale_x, scale_y), 1.0, (_canvas(size) - _TAPS) / (size * math.sqrt(2)))
    first = [sign_x * scale_x / last, sign_x * upper[:, 2], sign_y * scale_y / last, sign_y * lower[:, 2]]
    return jnp.stack([shear - half, sin, -half, *first, last, transposed.astype(jnp.float32)], axis=1)


def _length(row: Any) -> Any:
    import jax.numpy as jnp

    return jnp.hypot(row[:, 0], row[:, 1])


def _call(
    parameters: Any, planes: Any, fill: str, value: float, antialias: bool, dtype: Any, interpret: bool = False
) -> Any:
    """f32[B,9], [B,C,S,S] -> [B,C,S,S]."""
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
    # Rows fill up to whole registers; the plane that comes and the one that goes are there twice; the rest is working
    # room, as measured with libtpu at 384 to 1,024 px.
    rows = -(-size // _LANES) * _LANES
    held = 4 * (width**2 + size * rows + width * rows + size * width)
    held += 2 * size * rows * (planes.dtype.itemsize + result.dtype.itemsize)
    needed = 7 * held // 4 + (2 << 20)
    return pl.pallas_call(
        functools.partial(_kernel, fill, value, antialias),
        out_shape=result,
        grid=(count, channels),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), plane],
        out_specs=plane,
        scratch_shapes=[*halves, pltpu.VMEM((width, width), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"),
            vmem_limit_bytes=needed if needed > _FAST_MEMORY else None,
        ),
        # Without it the compiler's analysis would take the kernel for nothing.
        cost_estimate=pl.CostEstimate(
            flops=count * channels * (products + shears),
            bytes_accessed=planes.size * (planes.dtype.itemsize + result.dtype.itemsize),
            transcendentals=count * channels * 8 * width * size,
        ),
        interpret=interpret,
    )(parameters.reshape(-1), planes)


def _kernel(
    fill: str,
    value: float,
    antialias: bool,
    given: Any,
    image: Any,
    out: Any,
    plane: Any,
    tall: Any,
    final: Any,
    canvas: Any,
) -> None:
    """One channel of one image.

    given: f32[B*9] of all images. image, out: [1,1,S,S]. The rest is room, of which the first three hold `_halves`:
    plane [2,S,S], tall [2,width,S], final [2,S,width], canvas f32[width,width] with the image about its centre.
    """
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl

    here = pl.program_id(0) * 9
    shear_1, shear_2, shear_3, scale_x, shift_x, scale_y, shift_y, last, transposed = (
        given[here + i] for i in range(9)
    )
    size, width = image.shape[2], canvas.shape[0]
    middle, centre = (size - 1) / 2, (width - 1 + size % 2) / 2  # pixel lies on pixel, in odd images too

    def for_rows(function: Callable[[Any, Any], None]) -> None:
        """function(rows, their distances f32[_ROWS,1] from the centre) for all rows of the canvas."""

        def some(block: Any, _: None) -> None:
            begin = pl.multiple_of(block * _ROWS, _ROWS)
            function(pl.ds(begin, _ROWS), _along(0, _ROWS) + begin.astype(jnp.float32) - centre)

        jax.lax.fori_loop(0, width // _ROWS, some, None)

    source = image[0, 0]
    if source.dtype == jnp.uint8:
        source = source.astype(jnp.int32)  # there is no instruction from bytes to floats
    _store(plane, source.astype(jnp.float32) - value)
    for begin in range(0, size, _ROWS):
        rows = slice(begin, min(begin + _ROWS, size))
        at = last * (_along(0, rows.stop - begin) + (begin - middle)) + centre
        _store(final, _weights(at, last, width, "constant", antialias), rows)

    def prepare(rows: Any, distances: Any) -> None:
        _store(tall, _weights(scale_x * distances + (shift_x + middle), scale_x, size, fill, antialias), rows)

    def place(rows: Any, distances: Any) -> None:
        down = _halves(_weights(scale_y * distances + (shift_y + middle), scale_y, size, fill, antialias))
        across = tall[0], tall[1]

        @pl.when(transposed > 0)
        def _() -> None:
            canvas[rows, :] = _product(_halves(_product(down, (plane[0], plane[1]), 1)), across, 1)

        @pl.when(transposed <= 0)
        def _() -> None:
            canvas[rows, :] = _product(_halves(_product(down, (plane[0], plane[1]), 0)), across, 1)

    def shear_rows(amount: Any) -> Callable[[Any, Any], None]:
        def shear(rows: Any, distances: Any) -> None:
            canvas[rows, :] = _shift(canvas[rows, :], amount * distances, 1)

        return shear

    def narrow(rows: Any, distances: Any) -> None:
        del distances
        _store(tall, _product(_halves(canvas[rows, :]), (final[0], final[1]), 1), rows)

    for_rows(prepare)
    for_rows(place)
    for_rows(shear_rows(shear_1))
    for begin in range(0, width, _LANES):
        columns = slice(begin, begin + _LANES)
        distances = _along(1, _LANES) + (begin - centre)
        canvas[:, columns] = _shift(canvas[:, columns], shear_2 * distances, 0)
    for_rows(shear_rows(shear_3))
    for_rows(narrow)
    for begin in range(0, size, _ROWS):
        rows = slice(begin, min(begin + _ROWS, size))
        result = _product((final[0, rows, :], final[1, rows, :]), (tall[0], tall[1]), 0)
        out[0, 0, rows, :] = (result + value).astype(out.dtype)


def _halves(values: Any) -> tuple[Any, Any]:
    """bfloat16 twice: the values and what that leaves of them. Together 16 bits, of which TPUs multiply 8 at a time."""
    import jax.numpy as jnp

    high = values.astype(jnp.bfloat16)
    return high, (values - high.astype(jnp.float32)).astype(jnp.bfloat16)


def _store(room: Any, values: Any, rows: Any = slice(None)) -> None:
    room[0, rows, :], room[1, rows, :] = _halves(values)


def _product(a: tuple[Any, Any], b: tuple[Any, Any], axis: int) -> Any:
    """f32: a @ b for axis 0, a @ b.T for axis 1, but for what both halves of lower bits would add (2**-16)."""
    import jax
    import jax.numpy as jnp

    def of(x: Any, y: Any) -> Any:
        return jax.lax.dot_general(x, y, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)

    return of(a[0], b[0]) + (of(a[0], b[1]) + of(a[1], b[0]))


def _weights(at: Any, step: Any, size: int, fill: str, antialias: bool) -> Any:
    """f32[N,size]: of each pixel, for places f32[N,1] that lie `step` pixels from one another."""
    import jax.numpy as jnp

    wide = jnp.clip(jnp.abs(step), 1.0, _MOST_ZOOMED_OUT) if antialias else 1.0
    pixels = _along(1, size)

    def kernel(distance: Any) -> Any:
        return _lanczos(distance / wide)

    # The sum of an unbroken row of weights, which a widened kernel's is not quite one.
    taps = _along(1, _LANES) - _LANES // 2
    total = jnp.sum(kernel(at - jnp.floor(at) - taps), axis=1, keepdims=True)
    if fill == "constant":
        return kernel(at - pixels) / total
    if fill == "reflect":
        phase = jnp.mod(at + 0.5, 2.0 * size)
        at = jnp.minimum(phase, 2.0 * size - phase) - 0.5
        # Each pixel is seen in the mirrors at both edges as well.
        return (kernel(at - pixels) + kernel(at + 1.0 + pixels) + kernel(2.0 * size - 1.0 - pixels - at)) / total
    at = jnp.clip(at, 0.0, size - 1.0)
    taps = _along(1, _LANES) + 1.0  # what would fall on pixels beyond an edge falls on the edge
    before, behind = (jnp.sum(kernel(edge + taps), axis=1, keepdims=True) for edge in (at, size - 1.0 - at))
    beyond = jnp.where(pixels == 0, before, 0.0) + jnp.where(pixels == size - 1, behind, 0.0)
    return (kernel(at - pixels) + beyond) / total


def _shift(values: Any, by: Any, axis: int) -> Any:
    """values[i + by] along an axis, round and round. by: f32[R,1] for axis 1, f32[1,C] for axis 0."""
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
    # The weights of all taps at once, along the axis that `by` leaves free.
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
