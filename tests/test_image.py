import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tfrecord_tools import image


def picture(width=640, height=480):
    """Smooth, colourful, and different in every corner."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    channels = [np.sin(5 * x + 2 * y), np.cos(7 * y - x), np.sin(9 * x * y + 1)]
    return Image.fromarray((127 + 100 * np.stack(channels, -1)).astype(np.uint8))


def jpeg(source, **options):
    out = io.BytesIO()
    source.save(out, "JPEG", **{"quality": 95, **options})
    return out.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(float)


def reference(data, size):
    """Full decode, upright, centre crop, Lanczos: Pillow's plain way."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    side = min(upright.size)
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    box = (left, top, left + side, top + side)
    return upright.resize((size, size), Image.Resampling.LANCZOS, box=box)


def psnr(first, second):
    return 10 * np.log10(255**2 / max(np.mean((first - second) ** 2), 1e-9))


@pytest.mark.parametrize("dimensions", [(640, 480), (481, 640), (300, 300), (1999, 1333), (100, 90)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_equals_a_full_decode_of_pillow(dimensions, options):
    data = jpeg(picture(*dimensions), **options)
    converted = image.convert(data, 128, 95)
    assert (converted.width, converted.height) == dimensions
    assert psnr(pixels(converted.jpeg), pixels(jpeg(reference(data, 128)))) > 45


def test_equals_a_full_decode_of_pillow_on_real_images():
    if "MELANOMA_DATA" not in os.environ:
        pytest.skip("MELANOMA_DATA is not set: no real images")
    folder = Path(os.environ["MELANOMA_DATA"]) / "isic_archive_fullres" / "jpeg"
    found = []
    for path in sorted(folder.iterdir())[:12]:
        data = path.read_bytes()
        found.append(psnr(pixels(image.convert(data, 256, 95).jpeg), pixels(jpeg(reference(data, 256)))))
    assert np.mean(found) > 45
    assert min(found) > 38


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(picture(640, 400), exif=exif)
    converted = image.convert(data, 100, 95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (converted.width, converted.height) == upright.size
    assert psnr(pixels(converted.jpeg), pixels(jpeg(reference(data, 100)))) > 40


def test_grey_becomes_rgb():
    data = jpeg(picture().convert("L"))
    found = pixels(image.convert(data, 128, 95).jpeg)
    assert found.shape == (128, 128, 3)
    assert np.ptp(found, axis=-1).max() <= 2
    assert psnr(found, pixels(jpeg(reference(data, 128)))) > 45


def test_the_result_carries_no_metadata():
    exif = Image.Exif()
    exif[0x010E] = "patient's name"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = jpeg(picture(), exif=exif, icc_profile=srgb, comment=b"patient's name")
    converted = image.convert(data, 128, 95).jpeg
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
    found = pixels(image.convert(jpeg(red, icc_profile=swapped_profile()), 64, 95).jpeg)
    assert np.abs(found - (10, 250, 10)).max() < 12


def test_an_srgb_profile_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert image.convert(jpeg(picture(), icc_profile=srgb), 64, 95) == image.convert(jpeg(picture()), 64, 95)


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
    found = pixels(image.convert(data, 64, 95).jpeg)
    assert np.abs(found - rgb).max() < 6


def test_cmyk_without_a_profile_is_rejected():
    with pytest.raises(image.ImageRejected, match="CMYK without an ICC profile"):
        image.convert(jpeg(Image.new("CMYK", (100, 100))), 64, 95)


def test_a_broken_profile_is_rejected():
    with pytest.raises(image.ImageRejected, match="its ICC profile cannot be used"):
        image.convert(jpeg(picture(), icc_profile=b"nonsense"), 64, 95)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_never_yields_an_image(progressive):
    exif = Image.Exif()
    exif[0x010E] = "before the scan stands an end marker: \xff\xd9"
    data = jpeg(picture(160, 120), progressive=progressive, exif=exif)
    for length in range(len(data)):
        with pytest.raises(image.ImageRejected):
            image.convert(data[:length], 32, 95)


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
    with pytest.raises(image.ImageRejected) as caught:
        image.convert(data, 64, 95)
    assert reason in str(caught.value)


def bomb(width, height):
    """A small JPEG whose header claims other dimensions."""
    data = bytearray(jpeg(picture(64, 64)))
    at = data.index(b"\xff\xc0")  # SOF0: marker, length, precision, height, width
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def test_too_many_pixels_are_refused_from_the_header_without_pillows_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(image.ImageRejected, match="60000 x 50000 pixels are over the limit of 100000000"):
            image.convert(bomb(60000, 50000), 64, 95)
        with pytest.raises(image.ImageRejected, match="over the limit of 307199"):
            image.convert(jpeg(picture(640, 480)), 64, 95, max_pixels=640 * 480 - 1)
        assert image.convert(jpeg(picture(640, 480)), 64, 95, max_pixels=640 * 480)


def test_decode_reads_what_convert_wrote():
    found = image.decode(image.convert(jpeg(picture()), 64, 95).jpeg)
    assert (found.size, found.mode) == ((64, 64), "RGB")
    with pytest.raises(image.ImageRejected):
        image.decode(jpeg(picture())[:-500])
