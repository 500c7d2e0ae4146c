import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from tests.support.images import jpeg, pixels, psnr, waves
from tfrecord_tools.imaging import convert, resample


def reference(data, size):
    """Full decode, upright, centre crop, Lanczos: Pillow's plain way."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    side = min(upright.size)
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    box = (left, top, left + side, top + side)
    return upright.resize((size, size), Image.Resampling.LANCZOS, box=box)


def exact_lanczos(pixels, box, width, height):
    """Lanczos3 in float64 as one dense matrix for each axis: f64[height,width,C], not clipped."""

    def matrix(length, start, stop, outputs):
        scale = (stop - start) / outputs
        centre = start + (np.arange(outputs)[:, None] + 0.5) * scale
        distance = (np.arange(length) + 0.5 - centre) / max(scale, 1)
        weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
        return weights / weights.sum(axis=1, keepdims=True)

    left, top, right, bottom = box
    down = matrix(pixels.shape[0], top, bottom, height)
    across = matrix(pixels.shape[1], left, right, width)
    return np.einsum("iy,yxc,jx->ijc", down, pixels.astype(float), across, optimize=True)


@pytest.mark.parametrize("dimensions", [(640, 480), (481, 640), (300, 300), (1999, 1333), (100, 90)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_equals_a_full_decode_of_pillow(dimensions, options):
    data = jpeg(waves(*dimensions), **options)
    converted = convert.convert(data, 128, 95)
    assert (converted.width, converted.height) == dimensions
    assert psnr(pixels(converted.jpeg), pixels(jpeg(reference(data, 128)))) > 45


def test_equals_a_full_decode_and_float_lanczos_on_real_images(monkeypatch):
    if "MELANOMA_DATA" not in os.environ:
        pytest.skip("MELANOMA_DATA is not set: no real images")
    squares = []

    def keep(square, *_):
        squares.append(square)
        return b""

    monkeypatch.setattr(convert, "_encode", keep)
    folder = Path(os.environ["MELANOMA_DATA"]) / "isic_archive_fullres" / "jpeg"
    found = []
    for path in sorted(folder.iterdir())[::11]:
        data = path.read_bytes()
        convert.convert(data, 256, 95)
        full = np.asarray(Image.open(io.BytesIO(data)))
        box = convert._centre_square(full.shape[1], full.shape[0], 1)
        found.append(psnr(squares[-1].astype(float), np.clip(exact_lanczos(full, box, 256, 256), 0, 255)))
    assert np.mean(found) >= 53
    assert min(found) > 45


# ----------------------------------------------------------------------------------------------- resampling

in_c = pytest.mark.skipif(resample._resample is None, reason="no C compiler was there at installation")


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
    """Python makes sound ones only; C checks, because it would read other memory."""
    ends = (np.array(first, np.int32), np.ones((2, 2), np.float32))
    sound = (np.array([0, 1], np.int32), np.ones((2, 2), np.float32))
    pixels, out = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    for rows, columns in [(ends, sound), (sound, ends)]:
        with pytest.raises(ValueError, match="outside the image"):
            resample._resample.resample_into(pixels, pixels.shape, rows, columns, out)
    # The last two are sizes whose product is zero in 64 bits.
    for shape, given in [((4, 4, 3), pixels), ((2**62, 4, 4), b""), ((4, 2**62, 4), b"")]:
        with pytest.raises(ValueError, match="must be bytes of"):
            resample._resample.resample_into(given, shape, sound, sound, out[:1])


@pytest.mark.parametrize("kernel", [pytest.param("c", marks=in_c), "numpy"])
@pytest.mark.parametrize("pixels", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 2), np.uint8)])
def test_other_than_pixels_are_refused(pixels, kernel, monkeypatch):
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
def test_resampling_is_float_lanczos_but_for_rounding(height, width, box, to, channels, kernel, monkeypatch):
    if kernel == "numpy":
        monkeypatch.setattr(resample, "_resample", None)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    found = resample.resample(pixels, box, *to)
    exact = np.clip(exact_lanczos(pixels, box, *to), 0, 255)
    assert found.shape == (to[1], to[0], channels)
    # Half a level for rounding to bytes. A weight of the second pass is off by up to 2^-12: on noise of the full range,
    # over the six or so taps that matter, by another fifth of a level.
    assert np.abs(found - exact).max() < 0.5 + 0.2
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.3  # rounding alone: 1 / sqrt(12) = 0.289


def test_resampling_sums_whole_numbers_that_float32_holds_exactly():
    """The worst image for the weights of many sizes: the largest sum of both passes stays below 2**24."""
    for length, outputs in [(7, 32), (100, 99), (384, 384), (769, 384), (1536, 384), (6000, 32), (90, 1024)]:
        for start, stop in [(0, length), (0.3, length - 0.4)]:
            _, weights = resample.lanczos_weights(length, start, stop, outputs)
            spread = np.abs(weights).sum(axis=1).max()
            assert 255 * spread * 2**resample._FIRST < 2**24
            assert 255 * spread**2 * 2 ** (resample._BETWEEN + resample._SECOND) < 2**24


def test_a_plain_colour_stays_what_it_is():
    pixels = np.full((211, 307, 3), (0, 137, 255), np.uint8)
    assert (resample.resample(pixels, (20.5, 3, 280, 208.25), 61, 47) == (0, 137, 255)).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("source", "size", "reduction", "allowed"),
    [(700, 384, 1, 0.3), (1536, 384, 2, 0.5), (1536, 128, 4, 0.5), (3072, 384, 4, 1.2), (2048, 128, 8, 0.5)],
)
def test_a_zone_plate_leaves_no_false_pattern(source, size, reduction, allowed, mode):
    """Rings finer than the result can show must become grey, not coarse rings, at whatever scale they are decoded."""
    assert convert._reduction(source, source, size, "crop") == reduction
    y, x = np.mgrid[0:source, 0:source] - (source - 1) / 2
    radius2 = x * x + y * y
    # phase pi r^2 / source: the local frequency r / source reaches the Nyquist frequency, 1/2, at the edge
    rings = (127.5 + 120 * np.cos(np.pi * radius2 / source)).astype(np.uint8)
    data = jpeg(Image.fromarray(rings).convert(mode), quality=100, subsampling="4:4:4")
    found = pixels(convert.convert(data, size, 100).jpeg)[..., 0]
    middle = (np.arange(size) - (size - 1) / 2) * source / size
    radius = np.hypot(middle[:, None], middle)  # in pixels of the source
    nyquist = size / 2  # where the frequency is that of the result's Nyquist
    beyond = (radius > 1.4 * nyquist) & (radius < 0.95 * source / 2)
    exact = exact_lanczos(rings[..., None], (0, 0, source, source), size, size)[..., 0]
    assert found[beyond].std() < exact[beyond].std() + allowed
    within = radius < 0.5 * nyquist
    assert np.abs(found[within] - exact[within]).max() < 8
    at = middle.astype(int) + source // 2
    assert rings[np.ix_(at, at)][beyond].std() > 60  # what no filter at all would show


# ------------------------------------------------------------------------------- sizes, fit, subsampling


def sides(data):
    return Image.open(io.BytesIO(data)).size


def test_several_sizes_come_from_one_decoding(monkeypatch):
    calls = []
    real = convert._decode_reduced

    def counting(data, opened, reduction, needed):
        calls.append(reduction)
        return real(data, opened, reduction, needed)

    monkeypatch.setattr(convert, "_decode_reduced", counting)
    data = jpeg(waves(1300, 1100))
    found = convert.convert_sizes(data, (64, 256, 128), 95)
    assert calls == [2]
    assert [sides(each) for each in found.jpegs] == [(64, 64), (256, 256), (128, 128)]
    assert found.jpegs[1] == convert.convert(data, 256, 95).jpeg  # the largest is as alone
    alone = convert.convert_sizes(data, (64,), 95, decode_for=256)
    assert found.jpegs[0] == alone.jpegs[0]  # and the others as with the same decode_for
    assert psnr(pixels(found.jpegs[0]), pixels(convert.convert(data, 64, 95).jpeg)) > 40


@pytest.mark.parametrize("dimensions", [(640, 400), (400, 640), (1400, 300)])
def test_pad_shows_the_whole_image_between_black(dimensions):
    width, height = dimensions
    found = pixels(convert.convert_sizes(jpeg(waves(width, height)), (128,), 95, fit="pad").jpegs[0])
    across, down = round(128 * width / max(dimensions)), round(128 * height / max(dimensions))
    left, top = (128 - across) // 2, (128 - down) // 2
    expected = np.zeros((128, 128, 3), np.uint8)
    expected[top : top + down, left : left + across] = waves(width, height).resize(
        (across, down), Image.Resampling.LANCZOS
    )
    assert psnr(found, pixels(jpeg(Image.fromarray(expected)))) > 40


@pytest.mark.parametrize("orientation", [1, 6])
def test_stretch_shows_the_whole_image_without_its_proportions(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = waves(700, 300)
    found = convert.convert_sizes(jpeg(source, exif=exif), (96,), 95, fit="stretch")
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg(source, exif=exif)))).resize(
        (96, 96), Image.Resampling.LANCZOS
    )
    assert psnr(pixels(found.jpegs[0]), pixels(jpeg(expected))) > 40
    assert (found.width, found.height) == ((700, 300) if orientation == 1 else (300, 700))


@pytest.mark.parametrize(("subsampling", "factors"), [("4:2:0", 2), ("4:2:2", 1), ("4:4:4", 0)])
def test_subsampling_is_that_of_the_file(subsampling, factors):
    found = convert.convert_sizes(jpeg(waves()), (64,), 95, subsampling=subsampling).jpegs[0]
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(found))) == factors


@pytest.mark.parametrize("factor", [0x11, 0x21, 0x22, 0x12, 0x41])
def test_every_subsampling_of_the_source_gives_pillows_pixels(factor, monkeypatch):
    """4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1: the sampling factors of the first component, in the frame header."""
    simplejpeg = pytest.importorskip("simplejpeg")
    names = {0x11: "444", 0x21: "422", 0x22: "420", 0x12: "440", 0x41: "411"}
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(waves(640, 480)), 95, "RGB", names[factor])
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == factor
    opened = convert._open(data)
    assert np.array_equal(convert._decode_reduced(data, opened, 1, (0, 0, 640, 480)), np.asarray(opened))
    reduced = {r: convert._decode_reduced(data, opened, r, (0, 0, 640 // r, 480 // r)) for r in (2, 4, 8)}
    for decoder in without_decoders(monkeypatch):
        for reduction, expected in reduced.items():
            found = convert._decode_reduced(data, opened, reduction, (0, 0, 640 // reduction, 480 // reduction))
            assert np.array_equal(found, expected), (decoder, reduction)


def without_decoders(monkeypatch):
    """Yields after taking away one more."""
    for decoder in ("_jpeg", "simplejpeg"):
        monkeypatch.setattr(convert, decoder, None)
        yield decoder


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_without_any_of_the_decoders_the_bytes_are_the_same(monkeypatch, mode, options):
    data = jpeg(waves(1300, 1000).convert(mode), **options)
    fastest = convert.convert(data, 96, 95)
    for _ in without_decoders(monkeypatch):
        assert convert.convert(data, 96, 95) == fastest


@pytest.mark.parametrize("transform", [0, 1])
def test_what_adobe_says_of_the_colours_goes_for_all_decoders(monkeypatch, transform):
    """The components are RGB or YCbCr, of a file that does not say that it is JFIF."""
    source = waves(1300, 1000)
    data = jpeg(source, keep_rgb=transform == 0)
    jfif = data.find(b"\xff\xe0")
    plain = data if jfif < 0 else data[:jfif] + data[jfif + 18 :]
    adobe = b"\xff\xee\0\x0eAdobe\0\x64" + bytes(4) + bytes([transform])
    data = b"\xff\xd8" + adobe + plain[2:].replace(adobe, b"")
    assert Image.open(io.BytesIO(data)).info["adobe_transform"] == transform
    fastest = convert.convert(data, 96, 95)
    assert psnr(pixels(fastest.jpeg), pixels(jpeg(reference(data, 96)))) > 45
    for _ in without_decoders(monkeypatch):
        assert convert.convert(data, 96, 95) == fastest


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_strip_of_three_pixels_is_decoded_by_all(monkeypatch, mode, fit):
    """Long enough for 1/8, but too narrow."""
    data = jpeg(waves(1000, 3).convert(mode))
    fastest = convert.convert_sizes(data, (16,), 95, fit=fit)
    for _ in without_decoders(monkeypatch):
        assert convert.convert_sizes(data, (16,), 95, fit=fit) == fastest


# --------------------------------------------------------------------------------------- unusual images


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(waves(640, 400), exif=exif)
    converted = convert.convert(data, 100, 95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (converted.width, converted.height) == upright.size
    assert psnr(pixels(converted.jpeg), pixels(jpeg(reference(data, 100)))) > 40


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_is_padded_as_if_it_had_been_stored_upright(orientation):
    """26 rows or columns of 128 are added on one side, 25 on the other, never the other way round."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = jpeg(waves(640, 385), exif=exif, quality=100, subsampling="4:4:4")
    upright = jpeg(ImageOps.exif_transpose(Image.open(io.BytesIO(turned))), quality=100, subsampling="4:4:4")
    found, expected = (
        pixels(convert.convert_sizes(data, (128,), 95, fit="pad").jpegs[0]) for data in (turned, upright)
    )
    assert psnr(found, expected) > 40


def test_grey_becomes_rgb():
    data = jpeg(waves().convert("L"))
    found = pixels(convert.convert(data, 128, 95).jpeg)
    assert found.shape == (128, 128, 3)
    assert np.ptp(found, axis=-1).max() <= 2
    assert psnr(found, pixels(jpeg(reference(data, 128)))) > 45


def test_the_result_carries_no_metadata():
    exif = Image.Exif()
    exif[0x010E] = "patient's name"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = jpeg(waves(), exif=exif, icc_profile=srgb, comment=b"patient's name")
    converted = convert.convert(data, 128, 95).jpeg
    assert b"patient" in data
    assert b"patient" not in converted
    assert not {"exif", "icc_profile", "comment"} & Image.open(io.BytesIO(converted)).info.keys()


def swapped_profile():
    """An sRGB profile whose red and green primaries are exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")
    for first, second in ((b"rXYZ", b"gXYZ"), (b"rTRC", b"gTRC")):
        profile = profile.replace(first, b"????", 1).replace(second, first, 1).replace(b"????", second, 1)
    return profile


def test_an_icc_profile_is_applied():
    red = Image.new("RGB", (200, 200), (250, 10, 10))
    found = pixels(convert.convert(jpeg(red, icc_profile=swapped_profile()), 64, 95).jpeg)
    assert np.abs(found - (10, 250, 10)).max() < 12


def test_an_srgb_profile_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert convert.convert(jpeg(waves(), icc_profile=srgb), 64, 95) == convert.convert(jpeg(waves()), 64, 95)


def cmyk_profile():
    """A minimal ICC v2 output profile (ICC.1:2001-04): a lut8 in which ink takes lightness linearly, K takes it all."""
    corners = [(100 - 100 * k) * (3 - c - m - y) / 3 for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    clut = b"".join(bytes([round(lightness * 2.55), 128, 128]) for lightness in corners)
    matrix = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + clut + bytes(range(256)) * 3
    lut += bytes(-len(lut) % 4)
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    description += bytes(-len(description) % 4)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = [(b"desc", description), (b"wtpt", white), (b"A2B0", lut)]
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    header = bytearray(128)
    struct.pack_into(">I4s", header, 0, start + len(body), b"lcms")
    header[8:12] = b"\x02\x20\0\0"
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    struct.pack_into(">3i", header, 68, 63190, 65536, 54061)
    return bytes(header) + table + body


@pytest.mark.parametrize(("ink", "rgb"), [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((255, 255, 255, 0), 0)])
def test_cmyk_with_a_profile_is_converted(ink, rgb):
    data = jpeg(Image.new("CMYK", (100, 100), ink), icc_profile=cmyk_profile())
    found = pixels(convert.convert(data, 64, 95).jpeg)
    assert np.abs(found - rgb).max() < 6


def test_cmyk_is_padded_with_black_too():
    """No ink would be white."""
    data = jpeg(Image.new("CMYK", (120, 40), (0, 0, 0, 0)), icc_profile=cmyk_profile())
    found = pixels(convert.convert_sizes(data, (60,), 95, fit="pad").jpegs[0])
    assert found[:12].max() < 6
    assert found[28:32].min() > 249


def test_cmyk_without_a_profile_is_rejected():
    with pytest.raises(convert.ImageRejectedError, match="CMYK without an ICC profile"):
        convert.convert(jpeg(Image.new("CMYK", (100, 100))), 64, 95)


def test_a_broken_profile_is_rejected():
    with pytest.raises(convert.ImageRejectedError, match="its ICC profile cannot be used"):
        convert.convert(jpeg(waves(), icc_profile=b"nonsense"), 64, 95)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_never_yields_an_image(progressive):
    exif = Image.Exif()
    exif[0x010E] = "before the scan stands an end marker: \xff\xd9"
    data = jpeg(waves(160, 120), progressive=progressive, exif=exif)
    for length in range(len(data)):
        with pytest.raises(convert.ImageRejectedError):
            convert.convert(data[:length], 32, 95)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_truncated_jpeg_that_was_given_an_end_marker_is_rejected_as_damaged(cut):
    pytest.importorskip("simplejpeg")
    data = jpeg(waves())
    with pytest.raises(convert.ImageRejectedError, match="damaged: Corrupt JPEG data: premature end of data segment"):
        convert.convert(data[: int(cut * len(data))] + b"\xff\xd9", 64, 95)


def test_a_image_damaged_in_the_middle_is_rejected():
    pytest.importorskip("simplejpeg")
    data = jpeg(waves())
    middle = len(data) // 2
    data = data[:middle] + data[middle + 2000 :]
    with pytest.raises(convert.ImageRejectedError, match="damaged: Corrupt JPEG data"):
        convert.convert(data, 64, 95)


def test_a_few_bytes_of_padding_before_the_end_do_no_harm():
    data = jpeg(waves())
    assert convert.convert(data[:-2] + b"\0\0" + data[-2:], 64, 95) == convert.convert(data, 64, 95)


def test_padding_before_a_restart_marker_hides_no_damage_behind_it():
    """libjpeg warns only once, here of the two bytes and not of the half that is missing."""
    pytest.importorskip("simplejpeg")
    out = io.BytesIO()
    waves().save(out, "JPEG", restart_marker_rows=1)
    data = out.getvalue()
    at = data.index(b"\xff\xd0")
    padded = data[:at] + b"\0\0" + data[at:]
    with pytest.raises(convert.ImageRejectedError, match="damaged: Corrupt JPEG data: 2 extraneous bytes"):
        convert.convert(padded[: len(padded) // 2] + b"\xff\xd9", 64, 95)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG: the file is empty"),
        (b"\x89PNG\r\n\x1a\n0000", "not a JPEG: it begins with b'\\x89PNG"),
        (b"<html>not found</html>", "not a JPEG: it begins with b'<html>no'"),
        (b"\xff\xd8\xff\xd9", "not a JPEG that can be read"),
        (b"\xff\xd8\xff" + b"garbage" * 9 + b"\xff\xd9", "not a JPEG that can be read"),
    ],
)
def test_what_is_no_jpeg_is_rejected_with_the_reason(data, reason):
    with pytest.raises(convert.ImageRejectedError) as caught:
        convert.convert(data, 64, 95)
    assert reason in str(caught.value)


def bomb(width, height):
    """A small JPEG whose header claims other dimensions."""
    data = bytearray(jpeg(waves(64, 64)))
    at = data.index(b"\xff\xc0")  # SOF0: marker, length, precision, height, width
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def test_too_many_pixels_are_refused_from_the_header_without_pillows_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(convert.ImageRejectedError, match="60000 x 50000 pixels are over the limit of 100000000"):
            convert.convert(bomb(60000, 50000), 64, 95)
        with pytest.raises(convert.ImageRejectedError, match="over the limit of 307199"):
            convert.convert(jpeg(waves(640, 480)), 64, 95, max_pixels=640 * 480 - 1)
        assert convert.convert(jpeg(waves(640, 480)), 64, 95, max_pixels=640 * 480)


def test_decode_reads_what_convert_wrote():
    found = convert.decode(convert.convert(jpeg(waves()), 64, 95).jpeg)
    assert (found.size, found.mode) == ((64, 64), "RGB")
    with pytest.raises(convert.ImageRejectedError):
        convert.decode(jpeg(waves())[:-500])
