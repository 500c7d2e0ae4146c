"""The decoder in C against libjpeg-turbo, which simplejpeg and Pillow bring: the same samples to the bit, or none.

At 1/1 these are libjpeg's pixels. At 1/2, 1/4 and 1/8 they are its luma of twice the size, halved, with its chroma.
"""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import sysconfig
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.support.images import mutated
from tests.support.process import REPOSITORY
from tfrecord_tools.imaging import convert

jpeg = pytest.importorskip("tfrecord_tools.imaging._jpeg", reason="no C compiler was there at installation")
simplejpeg = pytest.importorskip("simplejpeg")

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def noise(height, width, seed=0, smooth=0):
    """u8[H,W,3] of the full range: the more it is smoothed, the fewer coefficients."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if not smooth:
        return pixels
    small = Image.fromarray(pixels).resize((max(1, width // smooth), max(1, height // smooth)))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels, **options):
    ImageFile.MAXBLOCK = 1 << 20  # bytes; noise with `optimize` needs more than Pillow takes by itself
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


def size_of(data, reduction):
    """(height, width) at 1/reduction."""
    width, height = Image.open(io.BytesIO(data)).size
    return -(-height // reduction), -(-width // reduction)


def decoded(data, reduction=1, needed=None, size=None):
    """u8[H,W,3], zero outside of `needed`, or None."""
    height, width = size or size_of(data, reduction)
    out = np.zeros((height, width, 3), np.uint8)
    return out if jpeg.decode_into(data, reduction, needed or (0, 0, width, height), out) else None


def libjpeg(data, reduction=1):
    """Raises ValueError if anything is wrong with the file."""
    if reduction == 1:
        return simplejpeg.decode_jpeg(data, "RGB")
    height, width = size_of(data, reduction // 2)
    luma = simplejpeg.decode_jpeg(data, "GRAY", min_height=height, min_width=width)[..., 0]
    assert luma.shape == (height, width)
    height, width = size_of(data, reduction)
    opened: Any = Image.open(io.BytesIO(data))
    opened.draft("YCbCr", (opened.width // reduction, opened.height // reduction))  # no less than this
    _, blue, red = np.moveaxis(np.asarray(opened), 2, 0).astype(int) - 128
    assert blue.shape == (height, width)
    # ITU-T T.871, clause 7, with factors of 16 bits behind the point
    differences = np.stack([91881 * red, -22554 * blue - 46802 * red, 116130 * blue], axis=-1)
    rgb = halved(luma)[..., None] + ((differences + 2**15) >> 16)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def halved(luma):
    """Half of the size by the taps of _jpeg.c, down and then across; the edge goes on outside."""
    taps = np.array([-17, 26, 119, 119, 26, -17])
    assert taps.sum() == 256
    wide = np.pad(luma.astype(int), 3, "edge")
    down = np.stack([np.convolve(column, taps, "valid")[1::2] for column in wide.T], axis=1)
    across = np.stack([np.convolve(row, taps, "valid")[1::2] for row in (down + 16) >> 5])
    height, width = (-(-extent // 2) for extent in luma.shape)
    return np.clip((across + 1024) >> 11, 0, 255)[:height, :width]


# ---------------------------------------------------------------------------------------------- what it decodes


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_samples_are_those_of_libjpeg(subsampling, reduction):
    rng = random.Random(reduction)
    for seed in range(60):
        # 600 px are more than two groups of 16 MCUs; up to 32 px make less than three columns of chroma at 1/8.
        height, width = rng.randint(reduction, 150), rng.randint(33, 600)
        options = {
            "quality": rng.choice([1, 30, 75, 95, 100]),
            "optimize": rng.random() < 0.5,
            "restart_marker_blocks": rng.choice([0, 0, 1, 5]),
        }
        data = encoded(noise(height, width, seed, rng.choice([0, 2, 9])), subsampling=subsampling, **options)
        found = decoded(data, reduction)
        # Noise at quality 1 has coefficients that no image has.
        if found is None:
            assert options["quality"] == 1
        else:
            np.testing.assert_array_equal(found, libjpeg(data, reduction), err_msg=f"{width} x {height}, {options}")


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_part_is_what_it_is_in_the_whole_and_nothing_else_is_touched(subsampling, reduction):
    rng = random.Random(reduction)
    data = encoded(noise(130, 700, smooth=2), subsampling=subsampling, quality=90)
    whole = decoded(data, reduction)
    height, width = whole.shape[:2]
    for _ in range(150):
        left, top = rng.randrange(width), rng.randrange(height)
        right, bottom = rng.randint(left + 1, width), rng.randint(top + 1, height)
        expected = np.zeros_like(whole)
        expected[top:bottom, left:right] = whole[top:bottom, left:right]
        np.testing.assert_array_equal(decoded(data, reduction, (left, top, right, bottom)), expected)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128)])
def test_a_plain_grey_comes_from_one_coefficient(colour):
    """128 + DC * step / 8 in the luma, and nothing in the chroma (T.81, A.3.3)."""
    data = encoded(np.full((40, 50, 3), colour, np.uint8), quality=100)  # all steps are 1
    for reduction in (1, 2, 4, 8):
        assert (decoded(data, reduction) == colour).all()


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_real_images_are_decoded_as_libjpeg_does(step, real_data):
    for path in sorted((real_data / "isic_archive_fullres" / "jpeg").iterdir())[::step]:
        data = path.read_bytes()
        for reduction in (1, 2, 4, 8):
            found = decoded(data, reduction)
            assert found is not None, path.name
            np.testing.assert_array_equal(found, libjpeg(data, reduction), err_msg=path.name)


def test_many_of_one_size_are_decoded_in_turn_up_to_the_first_that_is_not():
    """Their tables differ: Huffman's from the third on, steps from the fourth."""
    options: list[dict[str, Any]] = [{}, {"subsampling": "4:4:4"}, {"optimize": True}, {"quality": 30}, {}]
    files = tuple(encoded(noise(40, 56, seed, smooth=3), **each) for seed, each in enumerate(options))
    out = np.zeros((5, 40, 56, 3), np.uint8)
    assert jpeg.decode_each(files, (40, 56), out) == 5
    np.testing.assert_array_equal(out, np.stack([libjpeg(data) for data in files]))
    missing_tables = files[0].replace(b"\xff\xc4", b"\xff\xe9")  # those of the file before are not its own
    for other in (b"", encoded(noise(56, 40)), encoded(noise(40, 56), progressive=True), missing_tables):
        out[:] = 0
        assert jpeg.decode_each((*files[:2], other, *files[3:]), (40, 56), out) == 2
        assert out[:2].any()
        assert not out[3:].any()
    assert jpeg.decode_each((), (40, 56), out[:0]) == 0


def test_many_into_room_of_another_size_are_refused():
    files, out = (encoded(noise(40, 56)),) * 2, np.zeros((2, 40, 56, 3), np.uint8)
    for size, room in [
        ((40, 56), out[:1]),
        ((40, 56), out.ravel()[:-1]),
        ((20, 56), out),
        ((0, 56), out),
        ((40, -1), out),
    ]:
        with pytest.raises(ValueError, match=r"out must be u8\[2,height,width,3\], of 1 to 65500 rows and columns"):
            jpeg.decode_each(files, size, room)
    with pytest.raises(TypeError):
        jpeg.decode_each((files[0], "text"), (40, 56), out)


# ------------------------------------------------------------------------------------------- what it leaves alone


def with_sampling(name):
    return simplejpeg.encode_jpeg(noise(64, 64, smooth=4), 90, "RGB", name)


def with_a_code_of_ones():
    """The table of AC luma as the file has it, but its longest code lengthened to where only ones are left."""
    data = bytearray(encoded(noise(64, 64)))
    counts = data.index(b"\xff\xc4\0\xb5\x10") + 5
    assert data[counts + 15] == 125  # of 16 bits; one more, as many as the symbols behind, would be all ones
    data[counts + 14] -= 1
    data[counts + 15] += 1
    return bytes(data)


def with_profile(*parts):
    """A file with the parts of an ICC profile that are numbered so: number, of how many, number, ..."""
    data = encoded(noise(64, 64))
    pairs = zip(parts[::2], parts[1::2], strict=True)
    segments = [b"\xff\xe2\0\x18ICC_PROFILE\0" + bytes(pair) + bytes(8) for pair in pairs]
    return data[:2] + b"".join(segments) + data[2:]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("progressive", encoded(noise(64, 64), progressive=True)),
        ("grey", encoded(noise(64, 64)[..., 0])),
        ("RGB that was not made YCbCr", encoded(noise(64, 64), keep_rgb=True)),
        ("CMYK", simplejpeg.encode_jpeg(np.zeros((64, 64, 4), np.uint8), 90, "CMYK", "444")),
        ("4:4:0", with_sampling("440")),
        ("4:1:1", with_sampling("411")),
        ("two columns of chroma", encoded(noise(16, 4), subsampling="4:2:0")),
        ("JFIF of a version to come", encoded(noise(64, 64)).replace(b"JFIF\0\1", b"JFIF\0\2")),
        (
            "a table with differences of 12 bits",
            encoded(noise(64, 64)).replace(bytes(range(12)), bytes([*range(11), 12])),
        ),
        ("a code of ones only", with_a_code_of_ones()),
        ("a profile in two parts", encoded(noise(64, 64), icc_profile=bytes(70_000))),
        ("a profile twice", with_profile(1, 1, 1, 1)),
        ("the second part of a profile alone", with_profile(2, 2)),
        (
            "a side that libjpeg does not take",
            encoded(noise(8, 64)).replace(struct.pack(">HH", 8, 64), b"\xff\xff\0\x40"),
        ),
        ("nothing", b""),
        ("a beginning", b"\xff\xd8"),
        ("no segment", b"\xff\xd8\xff\xd9"),
    ],
)
def test_other_kinds_are_declined(kind, data):
    assert decoded(data, size=(64, 64)) is None, kind


def test_the_kinds_above_are_declined_for_what_sets_them_apart():
    assert decoded(encoded(noise(64, 64))) is not None
    assert decoded(encoded(noise(8, 64))) is not None
    assert decoded(with_profile(1, 1)) is not None
    assert bytes(range(12)) in encoded(noise(64, 64))


def test_sizes_that_are_not_the_files_are_declined():
    data = encoded(noise(64, 48))
    out = np.zeros((64, 48, 3), np.uint8)
    assert jpeg.decode_into(data, 1, (0, 0, 48, 64), out)
    for needed in [
        (0, 0, 2**63 - 1, 64),
        (-(2**63), 0, 2**63 - 1, 64),
        (-1, 0, 48, 64),
        (0, -1, 48, 64),
        (0, 0, 49, 64),
        (0, 0, 48, 65),
        (9, 9, 9, 20),
        (9, 9, 20, 9),
    ]:
        assert not jpeg.decode_into(data, 1, needed, out)
    assert not jpeg.decode_into(data, 1, (0, 0, 48, 64), out[:-1])
    assert not jpeg.decode_into(data, 2, (0, 0, 24, 32), out)
    for reduction in (0, 3, 16, -1):
        with pytest.raises(ValueError, match=f"reduction must be 1, 2, 4 or 8, got {reduction}"):
            jpeg.decode_into(data, reduction, (0, 0, 48, 64), out)


def test_a_truncated_file_is_declined_wherever_it_ends():
    data = encoded(noise(40, 60, smooth=3), restart_marker_blocks=3)
    assert decoded(data) is not None
    for length in range(len(data) - 2):
        cut = data[:length]
        assert decoded(cut, size=(40, 60)) is None
        assert decoded(cut + b"\xff\xd9", size=(40, 60)) is None or length >= len(data) - 3
        # Also where the rows that are looked at are whole.
        assert not jpeg.decode_into(cut, 1, (0, 0, 60, 8), np.zeros((40, 60, 3), np.uint8))


def test_a_restart_marker_too_few_too_many_or_out_of_order_is_declined():
    data = encoded(noise(40, 60, smooth=3), restart_marker_blocks=3)
    first, second = data.index(b"\xff\xd0"), data.index(b"\xff\xd1")
    for changed in (
        data[:first] + data[second:],
        data[:second] + data[first:],
        data[:first] + b"\xff\xd2" + data[first + 2 :],
    ):
        assert decoded(changed) is None


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_coefficients_too_large_for_a_image_are_declined_or_as_libjpeg_has_them(reduction):
    """Larger steps make larger coefficients; where 16 bits no longer hold their sums, implementations differ."""
    rng, declined, same = random.Random(reduction), 0, 0
    for seed in range(150):
        data = bytearray(
            encoded(noise(48, 64, seed, rng.choice([0, 2, 8])), quality=95, subsampling=rng.choice(list(SUBSAMPLINGS)))
        )
        at = data.index(b"\xff\xdb") + 5
        most = rng.choice([8, 30, 100, 255])
        for step in range(64):
            data[at + step] = min(255, data[at + step] * rng.randint(1, most))
        found = decoded(bytes(data), reduction)
        declined += found is None
        if found is not None:
            same += 1
            np.testing.assert_array_equal(found, libjpeg(bytes(data), reduction))
    assert declined > 20
    assert same > 20


# -------------------------------------------------------------------------------------------------- damaged files


def sources():
    """Two groups of 16 MCUs wide."""
    for number, subsampling in enumerate(SUBSAMPLINGS):
        for restart, optimize, quality in ((0, False, 85), (4, False, 40), (0, True, 95), (7, True, 60)):
            options = {"restart_marker_blocks": restart, "optimize": optimize, "quality": quality}
            yield encoded(noise(40, 300, number, smooth=4), subsampling=subsampling, **options)


def check_damaged(count, seed):
    """Returns how many damaged files were decoded and how many declined."""
    rng, originals = random.Random(seed), list(sources())
    found = {False: 0, True: 0}
    for index in range(count):
        data = mutated(rng.choice(originals), rng)
        try:
            height, width = size_of(data, 1)
        except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
            height, width = 40, 300
        if height * width > 1_000_000:
            continue
        reduction = rng.choice([1, 2, 4, 8])
        if min(height, width) < reduction:
            continue  # Pillow has no chroma of less than a pixel
        rows, columns = -(-height // reduction), -(-width // reduction)
        left, top = rng.randrange(columns), rng.randrange(rows)
        needed = (left, top, rng.randint(left + 1, columns), rng.randint(top + 1, rows))
        ours = decoded(data, reduction, needed, (rows, columns))
        found[ours is not None] += 1
        if ours is not None:  # then libjpeg finds nothing to complain about, and the same image
            box = slice(top, needed[3]), slice(left, needed[2])
            np.testing.assert_array_equal(ours[box], libjpeg(data, reduction)[box], err_msg=f"mutation {index}")
    return found[True], found[False]


def test_1000_damaged_files_are_declined_or_sound_to_libjpeg():
    sound, declined = check_damaged(1000, seed=1)
    assert sound > 30
    assert declined > 300


SANITIZED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tfrecord_tools.imaging._jpeg", sys.argv[1])
sys.modules["tfrecord_tools.imaging._jpeg"] = importlib.util.module_from_spec(spec)
from tests.tfrecord_tools.imaging import test_jpeg
assert test_jpeg.jpeg.__file__ == sys.argv[1]
print(test_jpeg.check_damaged(20_000, seed=int(sys.argv[2])))
test_jpeg.test_many_of_one_size_are_decoded_in_turn_up_to_the_first_that_is_not()
test_jpeg.test_many_into_room_of_another_size_are_refused()
for reduction in (1, 2, 4, 8):
    test_jpeg.test_coefficients_too_large_for_a_image_are_declined_or_as_libjpeg_has_them(reduction)
    for subsampling in test_jpeg.SUBSAMPLINGS:
        test_jpeg.test_samples_are_those_of_libjpeg(subsampling, reduction)
        test_jpeg.test_a_part_is_what_it_is_in_the_whole_and_nothing_else_is_touched(subsampling, reduction)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers are loaded as on Linux")
def test_20000_damaged_files_make_no_sanitizer_complain(tmp_path):
    """Memory and undefined behaviour, watched by gcc's AddressSanitizer and UndefinedBehaviorSanitizer."""
    built = tmp_path / "_jpeg.abi3.so"
    include = sysconfig.get_paths()["include"]
    flags = ["-O1", "-g", "-shared", "-fPIC", "-DPy_LIMITED_API=0x030B0000", f"-I{include}"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = REPOSITORY / "tfrecord_tools/imaging/_jpeg.c"
    subprocess.run(["gcc", *flags, *checks, str(source), "-o", str(built)], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {**os.environ, "LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(built), "2"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sound, declined = map(int, done.stdout.strip("()\n").split(","))
    assert sound > 600
    assert declined > 6000


# ----------------------------------------------------------------------------------------------- in the converter


def test_the_converter_gives_the_same_bytes_without_it(monkeypatch):
    cases = [
        (encoded(noise(height, width, smooth=3), subsampling=subsampling, quality=90), fit)
        for height, width in [(300, 500), (701, 333), (90, 1300)]
        for subsampling in SUBSAMPLINGS
        for fit in convert.FITS
    ]
    fast = [convert.convert_sizes(data, (48, 32), 95, fit=fit) for data, fit in cases]
    monkeypatch.setattr(convert, "_jpeg", None)
    assert [convert.convert_sizes(data, (48, 32), 95, fit=fit) for data, fit in cases] == fast


@pytest.mark.parametrize("fit", convert.FITS)
def test_the_converter_reads_no_pixel_that_it_says_it_does_not_need(fit):
    for width, height, sizes in [(500, 300, (32,)), (300, 500, (48, 32)), (1301, 99, (128,)), (64, 64, (200, 16))]:
        reduction = convert._reduction(width, height, max(sizes), fit)
        left, top, right, bottom = convert._needed(width, height, reduction, sizes, fit)
        pixels, other = (noise(-(-height // reduction), -(-width // reduction), seed) for seed in (0, 1))
        other[top:bottom, left:right] = pixels[top:bottom, left:right]
        for size in sizes:
            expected = convert._fit(pixels, width, height, reduction, size, fit)
            np.testing.assert_array_equal(convert._fit(other, width, height, reduction, size, fit), expected)
