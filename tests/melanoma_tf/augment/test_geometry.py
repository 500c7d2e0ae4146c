"""Affine maps against SciPy's, on hand-made cases and on real images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from melanoma_tf.augment import geometry
from melanoma_tf.augment.warp import affine, shears
from melanoma_tf.augment.warp.affine import METHODS
from melanoma_tf.augment.warp.coordinates import FILLS
from tests.support.process import run_command

pytestmark = pytest.mark.integration

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
ODD = RNG.integers(0, 256, (4, 33, 33, 3), dtype=np.uint8)
# The Pallas kernel of shears is interpreted here, in seconds a case, and off by default.
EACH_METHOD = [pytest.param(method, marks=[pytest.mark.slow] * (method == "shears")) for method in METHODS]
EVEN_AND_ODD = pytest.mark.parametrize("images", [IMAGES, ODD], ids=["even", "odd"])
IDENTITY = np.tile(np.eye(3, dtype=np.float32), (4, 1, 1))


def warp(images, matrices, *, method="gather", **options):
    """`affine.affine`; shears run under JAX whatever the Keras backend, large images by matmul under XLA."""
    matrices = np.asarray(matrices)
    if method == "shears":
        options.pop("reach", None)
        return np.asarray(_shears(**options)(images, matrices))
    if method != "matmul":
        return affine.affine(images, matrices, method=method, **options)
    run: Any = (
        _matmul(**options) if images.shape[1] > 64 else functools.partial(affine.affine, method=method, **options)
    )
    # One image at a time, because the weights of one of 192 px take 170 MB.
    return np.concatenate([run(images[i : i + 1], matrices[i : i + 1]) for i in range(len(images))])


@functools.cache
def _matmul(**options):
    """One compiled function for all maps, which are its input."""
    return tf.function(functools.partial(affine.affine, method="matmul", **options), jit_compile=True)


@functools.cache
def _shears(**options):
    import jax

    jax.config.update("jax_platforms", "cpu")
    return jax.jit(functools.partial(shears.by_shears, **options))


def matrix(rotate=0.0, shear=0.0, zoom_x=1.0, zoom_y=1.0, shift_x=0.0, shift_y=0.0, count=1):
    values = [np.full(count, v, np.float32) for v in (rotate, shear, zoom_x, zoom_y, shift_x, shift_y)]
    return np.asarray(geometry.matrix(*values))


def by_scipy(image, m, order, mode, value=0.0):
    """The same map of one image in float64. SciPy's reflect, nearest, constant are ours, in (row, column) order."""
    size = np.array(image.shape[:2])
    linear = m[:2, :2][::-1, ::-1].astype(np.float64)
    center = (size - 1) / 2
    offset = center - linear @ center + m[:2, 2][::-1]
    channels = [
        ndimage.affine_transform(image[..., c].astype(np.float64), linear, offset, order=order, mode=mode, cval=value)
        for c in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)


def psnr(found, expected):
    return 10 * np.log10(255**2 / np.mean((np.asarray(found, np.float64) - expected) ** 2))


@pytest.fixture(scope="module")
def images(request):
    """Real images at 192 px where there are any, else smooth random ones: u8[N,S,S,3]."""
    try:
        folder = request.getfixturevalue("real_data") / "isic2020_512" / "jpeg"
    except pytest.skip.Exception:
        noise = RNG.normal(size=(3, 192, 192, 3))
        smooth = np.stack([ndimage.gaussian_filter(each, (1.5, 1.5, 0)) for each in noise])
        return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    paths = sorted(folder.glob("*.jpg"))[::150][:3]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((192, 192))) for path in paths])


# ---------------------------------------------------------------------------------------------------- symmetries


@pytest.mark.parametrize("method", EACH_METHOD)
@pytest.mark.parametrize("symmetry", range(8))
def test_the_matrix_of_a_symmetry_moves_pixels_as_it_does(symmetry, method):
    codes = np.full(4, symmetry, np.int32)
    found = warp(IMAGES, geometry.symmetry_matrix(codes), method=method)
    np.testing.assert_allclose(found, geometry.dihedral(IMAGES, codes), atol=1e-3)


def test_the_inverse_of_a_symmetry_undoes_it():
    symmetry = np.arange(8, dtype=np.int32)
    images = RNG.integers(0, 256, (8, 5, 5, 3), dtype=np.uint8)
    there = geometry.dihedral(images, symmetry)
    np.testing.assert_array_equal(geometry.dihedral(there, geometry.inverse(symmetry)), images)


def test_composed_symmetries_equal_one_after_the_other():
    first, second = (np.repeat(np.arange(8, dtype=np.int32), 8), np.tile(np.arange(8, dtype=np.int32), 8))
    images = np.repeat(IMAGES[:1], 64, axis=0)
    step_by_step = geometry.dihedral(geometry.dihedral(images, first), second)
    np.testing.assert_array_equal(geometry.dihedral(images, geometry.compose(first, second)), step_by_step)
    composed = np.asarray(geometry.symmetry_matrix(first)) @ np.asarray(geometry.symmetry_matrix(second))
    np.testing.assert_array_equal(composed, geometry.symmetry_matrix(geometry.compose(first, second)))


# --------------------------------------------------------------------------------------------------- exact cases


@EVEN_AND_ODD
@pytest.mark.parametrize("method", EACH_METHOD)
def test_the_identity_changes_nothing(method, images):
    np.testing.assert_allclose(warp(images, IDENTITY, method=method), images, atol=1e-3)


@EVEN_AND_ODD
@pytest.mark.parametrize("method", EACH_METHOD)
@pytest.mark.parametrize(("fill", "beyond"), [("constant", 7.0), ("nearest", None), ("reflect", None)])
def test_whole_shifts_are_exact(method, fill, beyond, images):
    size = images.shape[1]
    m = matrix(shift_x=3, shift_y=-2, count=4)
    found = np.asarray(warp(images, m, fill=fill, value=7.0, method=method, reach=size))
    mode: Any = {"constant": "constant", "nearest": "edge", "reflect": "symmetric"}[fill]
    options: dict[str, Any] = {"constant_values": 7} if beyond else {}
    padded = np.pad(images, [(0, 0), (3, 3), (3, 3), (0, 0)], mode=mode, **options)
    np.testing.assert_allclose(found, padded[:, 5 : 5 + size, :size], atol=1e-3)


@EVEN_AND_ODD
@pytest.mark.parametrize("method", EACH_METHOD)
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3), (270, 3)])
def test_positive_angles_turn_counter_clockwise(method, degrees, turns, images):
    found = warp(images, matrix(rotate=degrees, count=4), method=method)
    np.testing.assert_allclose(found, np.rot90(images, turns, axes=(1, 2)), atol=2e-3)


def test_zoom_shear_and_shift_go_the_way_they_say():
    dot = np.zeros((1, 41, 41, 1), np.float32)
    dot[0, 10, 30] = 255.0  # 10 right of the center, 10 above it
    for m, row, column in (
        (matrix(zoom_x=2, zoom_y=0.5), 15, 40),
        (matrix(shift_x=4, shift_y=6), 16, 34),
        (matrix(shear=45), 10, 20 + 20),
    ):
        for method in METHODS:
            found = np.asarray(warp(dot, m, method=method, fill="constant"))[0, ..., 0]
            assert np.unravel_index(found.argmax(), found.shape) == (row, column)


def test_each_image_has_its_own_map():
    maps = np.concatenate([matrix(rotate=angle) for angle in (0, 30, 90, 200)])
    for method in METHODS:
        together = np.asarray(warp(IMAGES, maps, method=method))
        for n in range(4):
            alone = warp(IMAGES[n : n + 1], maps[n : n + 1], method=method)
            np.testing.assert_allclose(alone[0], together[n], atol=2e-3)


# ------------------------------------------------------------------------------------------------ against SciPy


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shape", [(24, 24), (20, 31)])
@pytest.mark.parametrize("method", ["gather", "kernel"])
def test_four_taps_are_scipys_bilinear(fill, shape, method):
    image = RNG.integers(0, 256, (1, *shape, 3), dtype=np.uint8)
    for m in (matrix(33, 4, 0.8, 1.1, 3, -5), matrix(-160, 0, 0.4, 0.5), matrix(shift_x=70.5)):
        found = np.asarray(warp(image, m, fill=fill, value=9.0, method=method))[0]
        expected = by_scipy(image[0], m[0], 1, "grid-constant" if fill == "constant" else fill, 9.0)
        np.testing.assert_allclose(found, expected, atol=0.02)


# Both sides of where "matmul" and "shears" transpose (45 degrees), and rotations beyond 90.
ANGLES = (5, 44, 46, 135)
MORE_ANGLES = (2, 15, 30, 40, 60, 89, 170)


@pytest.mark.parametrize(
    ("angles", "fill"),
    [
        ((44, 46), "reflect"),
        pytest.param(ANGLES, "reflect", marks=pytest.mark.slow),
        pytest.param(MORE_ANGLES, "reflect", marks=pytest.mark.slow),
        pytest.param(ANGLES + MORE_ANGLES, "nearest", marks=pytest.mark.slow),
    ],
)
def test_matmul_and_shears_gain_on_four_taps_at_every_angle(images, angles, fill):
    """All against a float64 cubic spline, edges included; on real images if available."""
    gained: dict[affine.Method, dict[int, float]] = {"matmul": {}, "shears": {}}
    for angle in angles:
        m = matrix(angle, count=len(images))
        expected = np.stack([by_scipy(image, m[0], 3, fill) for image in images])
        gathered = psnr(warp(images, m, fill=fill), expected)
        for method, gains in gained.items():
            gains[angle] = psnr(warp(images, m, method=method, fill=fill), expected) - gathered
    assert min(min(gains.values()) for gains in gained.values()) > 2, gained


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_matmul_and_shears_gain_on_four_taps_in_whole_maps(images, seed):
    """Rotation, shear, zoom and shift at once, up to nearly all draws of the deotte policy."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform([-180, -4, 0.85, 0.85, -9, -9], [180, 4, 1.2, 1.2, 9, 9])
    m = np.repeat(matrix(*drawn), len(images), axis=0)
    expected = np.stack([by_scipy(image, m[0], 3, "reflect") for image in images])
    gathered = warp(images, m)
    for method in ("matmul", "shears"):
        found = warp(images, m, method=method, reach=96 * 1.5 / 0.85 + 9)
        assert psnr(found, expected) > psnr(gathered, expected)
        assert psnr(found, np.asarray(gathered, np.float64)) > 35


@pytest.mark.slow
def test_bfloat16_costs_no_more_than_it_says(images):
    """bfloat16 has 8 bits, so images keep 40 dB, as `affine.affine` states."""
    m = matrix(44, count=len(images))
    exact, half = (warp(images, m, method="matmul", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert psnr(half, np.asarray(exact, np.float64)) > 40
    assert half.dtype == exact.dtype
    exact, half = (warp(images, m, method="shears", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert psnr(half, exact.astype(np.float64)) > 55


@pytest.mark.parametrize(("angle", "less"), [(0, 3.5), (20, 3.5), (45, 3.0)])
@pytest.mark.parametrize("method", EACH_METHOD)
def test_zooming_out_does_not_alias(method, angle, less):
    """A zone plate of frequencies up to Nyquist at half size: finer detail must become grey, not rings."""
    size = 192
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    plate = (127.5 + 127.5 * np.cos(np.pi * (x**2 + y**2) / size))[None, ..., None].astype(np.float32)
    m = matrix(rotate=angle, zoom_x=0.5, zoom_y=0.5)
    options: dict[str, Any] = {"fill": "constant", "value": 127.5, "antialias": True}
    found = np.asarray(warp(plate, m, method=method, **options))[0, ..., 0]
    # The plate reaches half of Nyquist, the most that half the pixels can show, at a radius of size/8 of the output.
    r = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2))
    beyond = (r > size / 8 * 1.4) & (r < size / 4)
    naive = np.asarray(warp(plate, m, **options | {"antialias": False}))[0, ..., 0]
    assert found[beyond].std() < naive[beyond].std() / less


# --------------------------------------------------------------------------------------------------------- shears


def test_shear_parameters_compose_to_the_map():
    """The decomposition of `shears._parameters`, multiplied out in float64."""
    rng = np.random.default_rng(0)
    count, size = 500, 48
    drawn = rng.uniform([-180, -40, 0.4, 0.4, -30, -30], [180, 40, 2.5, 2.5, 30, 30], (count, 6)).astype(np.float32)
    codes = rng.integers(0, 8, count).astype(np.int32)
    maps = np.asarray(geometry.symmetry_matrix(codes)) @ np.asarray(geometry.matrix(*drawn.T))
    found = np.asarray(shears._parameters(maps, size), np.float64)

    def of(entries):
        return np.array(entries, np.float64)

    largest = (shears._canvas(size) - 8) / (size * np.sqrt(2))
    for expected, (first, second, third, scale_x, shift_x, scale_y, shift_y, last, transposed) in zip(
        maps, found, strict=True
    ):
        steps = [
            of([[0, 1, 0], [1, 0, 0], [0, 0, 1]]) if transposed else np.eye(3),
            of([[scale_x, 0, shift_x], [0, scale_y, shift_y], [0, 0, 1]]),
            of([[1, first, 0], [0, 1, 0], [0, 0, 1]]),
            of([[1, 0, 0], [second, 1, 0], [0, 0, 1]]),
            of([[1, third, 0], [0, 1, 0], [0, 0, 1]]),
            np.diag([last, last, 1]),
        ]
        np.testing.assert_allclose(functools.reduce(np.matmul, steps), expected, atol=1e-4)
        assert abs(second) < np.sin(np.radians(80))
        assert 1 <= last <= largest * (1 + 1e-6)


@pytest.mark.slow
def test_shears_are_divided_among_devices(tmp_path):
    """A batch sharded over two JAX devices gives the same pixels as on one, and stays sharded."""
    code = (
        "import sys, jax, keras, numpy as np; from melanoma_tf.augment import policy; "
        "layer = policy.Augment('affine(rotate=180, zoom=0.1)', method='shears', dtype='float32'); "
        "images, seeds = np.load(sys.argv[1]), np.arange(4, dtype=np.uint32); "
        "run = lambda *given: jax.jit(lambda x, s: layer(x, s, training=True))(*given); "
        "alone = run(images, seeds); spread = keras.distribution.DataParallel(); "
        "keras.distribution.set_distribution(spread); mesh = spread.device_mesh.backend_mesh; "
        "cut = jax.sharding.NamedSharding(mesh, jax.P('batch')); "
        "found = run(*(jax.device_put(each, cut) for each in (images, seeds))); "
        "assert found.sharding.is_equivalent_to(cut, 4), found.sharding; "
        "print(len(mesh.devices), float(abs(np.asarray(found) - np.asarray(alone)).max()))"
    )
    np.save(tmp_path / "images.npy", IMAGES)
    two = "--xla_force_host_platform_device_count=2"
    options = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": two}
    done = run_command("-c", code, str(tmp_path / "images.npy"), **options)
    assert done.returncode == 0, done.stderr[-2000:]
    devices, difference = done.stdout.split()
    assert (devices, float(difference)) == ("2", 0.0)


# ------------------------------------------------------------------------------------------------------ bad input


def test_unsupported_arguments_raise():
    with pytest.raises(ValueError, match="unknown fill 'wrap'; expected one of: reflect, nearest, constant"):
        warp(IMAGES, IDENTITY, fill="wrap")
    with pytest.raises(ValueError, match="unknown method 'fft'; expected one of: gather, kernel, matmul, shears"):
        warp(IMAGES, IDENTITY, method="fft")
    with pytest.raises(ValueError, match="'shears' needs the JAX backend, got tensorflow; use method 'matmul'"):
        affine.affine(IMAGES, IDENTITY, method="shears")
    with pytest.raises(ValueError, match="needs square images, got 4 x 6"):
        warp(np.zeros((1, 4, 6, 3), np.uint8), IDENTITY[:1], method="matmul")
    with pytest.raises(
        ValueError, match="images of 800 px exceed a TPU's fast memory; expected at most 768 px: use method 'matmul'"
    ):
        warp(np.zeros((1, 800, 800, 3), np.uint8), IDENTITY[:1], method="shears")
