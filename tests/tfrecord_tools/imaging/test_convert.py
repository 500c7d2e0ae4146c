import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from tests.support.images import cmyk_profile, jpeg, many_scans, pixels, psnr, swapped_profile, waves
from tests.support.lanczos import exact_lanczos
from tests.support.process import run_command
from tfrecord_tools.imaging import convert, jpeg_decoder


def reference(data, size):
    """Full decode, upright, center crop, Lanczos: Pillow's plain way."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    side = min(upright.size)
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    box = (left, top, left + side, top + side)
    return upright.resize((size, size), Image.Resampling.LANCZOS, box=box)


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
        box = convert._center_square(full.shape[1], full.shape[0], 1)
        found.append(psnr(squares[-1].astype(float), np.clip(exact_lanczos(full, box, 256, 256), 0, 255)))
    assert np.mean(found) >= 53
    assert min(found) > 45


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("source", "size", "reduction", "allowed"),
    [(700, 384, 1, 0.3), (1536, 384, 2, 5.6), (1536, 128, 4, 1.2), (3072, 384, 4, 3.1), (2048, 128, 8, 1.2)],
)
def test_false_patterns_of_a_zone_plate_are_faint(source, size, reduction, allowed, mode):
    """Rings finer than the result can show become grey, apart from what JPEG's own reduction aliases.

    A reduced inverse DCT cuts off the high coefficients of each block, which leaves a pattern of up to 7.0 levels where
    float Lanczos of all pixels leaves 1.7 and the rings have 85. `allowed`: levels beyond float Lanczos.
    """
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
    real = jpeg_decoder.decode_reduced

    def counting(data, image, reduction):
        calls.append(reduction)
        return real(data, image, reduction)

    monkeypatch.setattr(jpeg_decoder, "decode_reduced", counting)
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


def by_pillow(data, reduction):
    """u8[H,W,C] of Pillow's draft mode, which is libjpeg's reduction too."""
    image = Image.open(io.BytesIO(data))
    image.draft(image.mode, (image.width // reduction, image.height // reduction))  # never decodes to less than this
    found = np.asarray(image)
    return found.reshape(*found.shape[:2], -1)


def decoded(data, reduction):
    return jpeg_decoder.decode_reduced(data, jpeg_decoder.open_header(data), reduction)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("factor", [0x11, 0x21, 0x22, 0x12, 0x41])
def test_every_subsampling_of_the_source_gives_pillows_pixels(factor, reduction):
    """4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1: the sampling factors of the first component, in the frame header."""
    names = {0x11: "444", 0x21: "422", 0x22: "420", 0x12: "440", 0x41: "411"}
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(waves(645, 479)), 95, "RGB", names[factor])
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == factor
    np.testing.assert_array_equal(decoded(data, reduction), by_pillow(data, reduction))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_every_kind_of_file_gives_pillows_pixels(reduction, mode, options):
    data = jpeg(waves(1300, 1000).convert(mode), **options)
    np.testing.assert_array_equal(decoded(data, reduction), by_pillow(data, reduction))


@pytest.mark.parametrize("transform", [0, 1])
def test_the_adobe_marker_decides_whether_components_are_rgb_or_ycbcr(transform):
    """In a file without a JFIF marker."""
    source = waves(1300, 1000)
    data = jpeg(source, keep_rgb=transform == 0)
    jfif = data.find(b"\xff\xe0")
    plain = data if jfif < 0 else data[:jfif] + data[jfif + 18 :]
    adobe = b"\xff\xee\0\x0eAdobe\0\x64" + bytes(4) + bytes([transform])
    data = b"\xff\xd8" + adobe + plain[2:].replace(adobe, b"")
    assert Image.open(io.BytesIO(data)).info["adobe_transform"] == transform
    assert psnr(pixels(convert.convert(data, 96, 95).jpeg), pixels(jpeg(reference(data, 96)))) > 45
    np.testing.assert_array_equal(decoded(data, 4), by_pillow(data, 4))


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_strip_of_three_pixels_is_decoded(mode, fit):
    """Long enough for 1/8, but too narrow."""
    data = jpeg(waves(1000, 3).convert(mode))
    assert sides(convert.convert_sizes(data, (16,), 95, fit=fit).jpegs[0]) == (16, 16)


def test_without_simplejpeg_nothing_is_built(data, tmp_path):
    code = "import sys; sys.modules['simplejpeg'] = None; from tfrecord_tools import build; build.run()"
    args = [
        "--size",
        "32",
        "--csv",
        str(data / "train.csv"),
        "--images",
        str(data / "jpeg/train"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = run_command("-c", code, *args)
    assert done.returncode == 1
    assert done.stderr == "error: simplejpeg is not installed; it decodes the images: pip install simplejpeg\n"
    assert not (tmp_path / "out").exists()


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


def test_an_icc_profile_is_applied():
    red = Image.new("RGB", (200, 200), (250, 10, 10))
    found = pixels(convert.convert(jpeg(red, icc_profile=swapped_profile()), 64, 95).jpeg)
    assert np.abs(found - (10, 250, 10)).max() < 12


def test_an_srgb_profile_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert convert.convert(jpeg(waves(), icc_profile=srgb), 64, 95) == convert.convert(jpeg(waves()), 64, 95)


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


DECODED_AT = {240: 1, 100: 2, 60: 4, 30: 8}  # size -> reduction at which 640 x 480 pixels are decoded for it


@pytest.mark.parametrize("size", DECODED_AT)
@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_truncated_jpeg_with_an_end_marker_is_rejected_as_damaged(cut, size):
    data = jpeg(waves())
    with pytest.raises(convert.ImageRejectedError, match="damaged: Corrupt JPEG data: premature end of data segment"):
        convert.convert(data[: int(cut * len(data))] + b"\xff\xd9", size, 95)


@pytest.mark.parametrize("size", DECODED_AT)
def test_an_image_damaged_in_the_middle_is_rejected(size):
    assert convert._reduction(640, 480, size, "crop") == DECODED_AT[size]
    data = jpeg(waves())
    middle = len(data) // 2
    data = data[:middle] + data[middle + 2000 :]
    with pytest.raises(convert.ImageRejectedError, match="damaged: Corrupt JPEG data"):
        convert.convert(data, size, 95)


def test_a_few_bytes_of_padding_before_the_end_do_no_harm():
    data = jpeg(waves())
    assert convert.convert(data[:-2] + b"\0\0" + data[-2:], 64, 95) == convert.convert(data, 64, 95)


def test_padding_before_a_restart_marker_hides_no_damage_after_it():
    """libjpeg warns only once: of the two bytes, not of the missing half."""
    out = io.BytesIO()
    waves().save(out, "JPEG", restart_marker_rows=1)
    data = out.getvalue()
    at = data.index(b"\xff\xd0")
    padded = data[:at] + b"\0\0" + data[at:]
    with pytest.raises(convert.ImageRejectedError, match="damaged: Corrupt JPEG data: 2 extraneous bytes"):
        convert.convert(padded[: len(padded) // 2] + b"\xff\xd9", 64, 95)


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
    with pytest.raises(convert.ImageRejectedError, match="30000 x 20000 pixels are over the limit"):
        convert.decode(many_scans(30_000, 20_000, 1))
