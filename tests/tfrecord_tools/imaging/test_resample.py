"""The resampler against float Lanczos, and its C against its NumPy code."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from tests.support.lanczos import exact_lanczos
from tests.support.process import REPOSITORY
from tfrecord_tools.imaging import resample

in_c = pytest.mark.skipif(resample._resample is None, reason="no C compiler at installation")


@in_c
def test_c_and_numpy_give_the_same_bits(monkeypatch):
    rng = np.random.default_rng(0)
    cases = []
    for number in range(300):
        height, width, across, down = (int(extent) for extent in rng.integers(1, (200, 200, 150, 150)))
        shape = (height, width, (1, 3, 4)[number % 3])
        # Black and white pixels reach the largest sums and the clipping, even ones the halves between two levels.
        levels = ([0, 255], range(256), range(0, 256, 2))[number % 3]
        pixels = rng.choice(np.array(levels, np.uint8), size=shape)
        (left, right), (top, bottom) = (sorted(rng.uniform(0, extent, 2)) for extent in (width, height))
        box = (left, top, right, bottom) if min(right - left, bottom - top) > 0.5 else (0.0, 0.0, width, height)
        cases.append((pixels[:, :: 1 - 2 * (number % 2)], box, across, down))  # every other one mirrored, a view
    found = [resample.resample(*case) for case in cases]
    monkeypatch.setattr(resample, "_resample", None)
    for result, case in zip(found, cases, strict=True):
        np.testing.assert_array_equal(result, resample.resample(*case))


@in_c
@pytest.mark.parametrize("first", [[-1, 0], [0, 3], [2, 1]])
def test_weights_for_pixels_outside_are_refused(first):
    """Python never makes such weights; C checks, because it would read other memory."""
    ends = (np.array(first, np.int32), np.ones((2, 2), np.float32))
    sound = (np.array([0, 1], np.int32), np.ones((2, 2), np.float32))
    pixels, out = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    for rows, columns in [(ends, sound), (sound, ends)]:
        with pytest.raises(ValueError, match="outside the image"):
            resample._resample.resample_into(pixels, pixels.shape, rows, columns, out)
    # The last two are sizes whose product is zero in 64 bits.
    for shape, given in [((4, 4, 3), pixels), ((2**62, 4, 4), b""), ((4, 2**62, 4), b"")]:
        with pytest.raises(ValueError, match="as bytes of"):
            resample._resample.resample_into(given, shape, sound, sound, out[:1])


@pytest.mark.parametrize("kernel", [pytest.param("c", marks=in_c), "numpy"])
@pytest.mark.parametrize("pixels", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 2), np.uint8)])
def test_other_shapes_and_dtypes_are_refused(pixels, kernel, monkeypatch):
    if kernel == "numpy":
        monkeypatch.setattr(resample, "_resample", None)
    with pytest.raises(ValueError, match=r"pixels must be u8\[H,W,1, 3 or 4\], got "):
        resample.resample(pixels, (0, 0, 8, 8), 4, 4)


@pytest.mark.parametrize(
    ("height", "width", "box", "to"),
    [
        (97, 203, (0, 0, 203, 97), (64, 32)),
        (300, 200, (3.25, 50.5, 196.75, 244), (48, 48)),
        (40, 30, (0, 0, 30, 40), (128, 96)),  # enlarged
        (50, 50, (0, 0, 50, 50), (50, 50)),
        (1, 7, (0, 0, 7, 1), (5, 3)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kernel", [pytest.param("c", marks=in_c), "numpy"])
def test_resampling_is_float_lanczos_up_to_rounding(height, width, box, to, channels, kernel, monkeypatch):
    if kernel == "numpy":
        monkeypatch.setattr(resample, "_resample", None)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    found = resample.resample(pixels, box, *to)
    exact = np.clip(exact_lanczos(pixels, box, *to), 0, 255)
    assert found.shape == (to[1], to[0], channels)
    # Half a level of rounding to bytes. Weights of the second pass are off by up to 2^-12: on noise of the full range
    # and the six or so taps that matter, another fifth of a level.
    assert np.abs(found - exact).max() < 0.5 + 0.2
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.3  # rounding alone: 1 / sqrt(12) = 0.289


def test_sums_are_integers_that_float32_holds_exactly():
    """The largest possible sums of both passes, for many sizes."""
    for length, outputs in [(7, 32), (100, 99), (384, 384), (769, 384), (1536, 384), (6000, 32), (90, 1024)]:
        for start, stop in [(0, length), (0.3, length - 0.4)]:
            _, weights = resample.lanczos_weights(length, start, stop, outputs)
            spread = np.abs(weights).sum(axis=1).max()
            assert 255 * spread * 2**resample._FIRST < 2**24
            assert 255 * spread**2 * 2 ** (resample._BETWEEN + resample._SECOND) < 2**24


def test_a_flat_color_is_preserved():
    pixels = np.full((211, 307, 3), (0, 137, 255), np.uint8)
    assert (resample.resample(pixels, (20.5, 3, 280, 208.25), 61, 47) == (0, 137, 255)).all()


SANITIZED = """
import importlib.util, sys
import pytest
spec = importlib.util.spec_from_file_location("tfrecord_tools.imaging._resample", sys.argv[1])
sys.modules["tfrecord_tools.imaging._resample"] = importlib.util.module_from_spec(spec)
from tfrecord_tools.imaging import resample
assert resample._resample.__file__ == sys.argv[1]
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not slow", sys.argv[2]]))
"""


@in_c
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers are loaded as on Linux")
def test_the_sanitizers_find_nothing_in_the_c_code(tmp_path):
    """The tests above, under gcc's AddressSanitizer and UndefinedBehaviorSanitizer."""
    built = tmp_path / "_resample.abi3.so"
    include = sysconfig.get_paths()["include"]
    flags = ["-O1", "-g", "-shared", "-fPIC", "-DPy_LIMITED_API=0x030B0000", f"-I{include}"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = REPOSITORY / "tfrecord_tools/imaging/_resample.c"
    subprocess.run(["gcc", *flags, *checks, str(source), "-o", str(built)], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {**os.environ, "LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(built), __file__],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
