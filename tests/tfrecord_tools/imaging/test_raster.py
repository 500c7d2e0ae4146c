"""Images that are no JPEGs: Pillow writes them, the same pixels have to come out, or one sentence."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.support.images import cmyk_profile, jpeg, mutated, pixels, psnr, swapped_profile, waves
from tfrecord_tools.imaging import convert, raster, signatures

# Extension, options. Lossless ones first.
LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("WEBP", {"lossless": True}),
    ("JPEG2000", {}),
    ("PPM", {}),
]
LOSSY = [("WEBP", {"quality": 98}), ("TIFF", {"compression": "jpeg", "quality": 98}), ("GIF", {})]


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rejected(data, **options):
    with pytest.raises(convert.ImageRejectedError) as caught:
        convert.convert_sizes(data, (32,), 95, **options)
    return str(caught.value)


def resized(image, size):
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box)


@pytest.mark.parametrize(("kind", "options"), LOSSLESS + LOSSY)
def test_every_format_gives_the_pixels_that_were_written(kind, options):
    source = waves(400, 300)
    found = convert.convert(saved(source, kind, **options), 128, 95)
    assert (found.width, found.height) == (400, 300)
    least = 45 if (kind, options) in LOSSLESS else 25
    assert psnr(pixels(found.jpeg), pixels(jpeg(resized(source, 128)))) > least


@pytest.mark.parametrize("fit", convert.FITS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_result_is_that_of_a_jpeg_of_the_same_pixels(kind, fit):
    decoded = Image.open(io.BytesIO(jpeg(waves(250, 200))))
    same = convert.convert_sizes(jpeg(waves(250, 200)), (128,), 95, fit=fit)
    assert convert.convert_sizes(saved(decoded, kind), (128,), 95, fit=fit) == same


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_bits_grey_and_palettes_become_rgb(kind, mode):
    source = waves(200, 160).convert(mode)
    found = pixels(convert.convert(saved(source, kind), 160, 95).jpeg)
    assert found.shape == (160, 160, 3)
    assert psnr(found, pixels(jpeg(source.convert("RGB").crop((20, 0, 180, 160))))) > 25


def gradient16():
    return (np.arange(65536, dtype=np.uint32).reshape(256, 256)).astype(np.uint16)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("PPM", "I;16")])
def test_16_bits_are_scaled_to_8(kind, mode):
    levels = gradient16()
    image = (
        Image.fromarray(levels) if mode == "I;16" else Image.frombytes(mode, (256, 256), levels.byteswap().tobytes())
    )
    found = np.asarray(raster.read(saved(image, kind), convert.MAX_PIXELS))
    np.testing.assert_array_equal(found, np.rint(levels / 257).astype(np.uint8))


def png(width, height, depth, color, rows):
    """A PNG written by hand (ISO/IEC 15948)."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_16_bits_of_color_are_scaled_to_8():
    levels = np.linspace(0, 65535, 64).astype(np.uint16)
    row = np.repeat(levels[:, None], 3, axis=1).astype(">u2").tobytes()
    found = np.asarray(raster.read(png(64, 4, 16, 2, [row] * 4), convert.MAX_PIXELS))
    assert np.abs(found[0, :, 0] - levels / 257).max() <= 1


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_of_32_bits_are_refused(mode):
    image = Image.fromarray(np.full((64, 64), 1000, np.float32 if mode == "F" else np.int32))
    assert rejected(saved(image, "TIFF")) == "values of 32 bits, whose white is unknown; save it with 8 or 16 bits"


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_transparent_pixels_become_black_in_proportion(kind, options):
    alpha = Image.linear_gradient("L").resize((256, 256))
    source = Image.new("RGB", (256, 256), (200, 100, 50))
    source.putalpha(alpha)
    found = np.asarray(raster.read(saved(source, kind, **options), convert.MAX_PIXELS)).astype(float)
    expected = np.asarray(alpha)[..., None] / 255 * np.array([200, 100, 50])
    assert np.abs(found - expected).max() <= 1


def test_a_transparent_color_of_a_palette_becomes_black():
    source = Image.new("P", (64, 64), 1)
    source.putpalette([255, 0, 0, 0, 255, 0])
    source.paste(0, (0, 0, 32, 64))
    found = np.asarray(raster.read(saved(source, "PNG", transparency=0), convert.MAX_PIXELS))
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[0, 63].tolist() == [0, 255, 0]


def test_grey_with_alpha_stays_grey():
    source = Image.merge("LA", (Image.new("L", (64, 64), 200), Image.new("L", (64, 64), 51)))
    found = raster.read(saved(source, "PNG"), convert.MAX_PIXELS)
    assert (found.mode, found.getpixel((5, 5))) == ("L", 40)


def test_an_image_without_an_opaque_pixel_is_refused():
    source = Image.new("RGBA", (64, 64), (200, 100, 50, 0))
    assert rejected(saved(source, "PNG")) == "every pixel is transparent; save it without an alpha channel"


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_icc_profile_is_applied(kind):
    red = Image.new("RGB", (200, 200), (250, 10, 10))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = pixels(convert.convert(saved(red, kind, icc_profile=swapped_profile(), **options), 64, 95).jpeg)
    assert np.abs(found - (10, 250, 10)).max() < 12
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = saved(waves(), kind, **options)
    assert convert.convert(saved(waves(), kind, icc_profile=srgb, **options), 64, 95) == convert.convert(plain, 64, 95)


def test_cmyk_needs_a_profile():
    source = Image.new("CMYK", (100, 100), (0, 0, 0, 255))
    assert rejected(saved(source, "TIFF")) == "CMYK without an ICC profile: its colors are unknown"
    found = pixels(convert.convert(saved(source, "TIFF", icc_profile=cmyk_profile()), 64, 95).jpeg)
    assert found.max() < 6
    assert rejected(saved(source, "TIFF", icc_profile=cmyk_profile()), swap_rb=True).endswith("cannot be swapped")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_comes_out_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = waves(320, 200)
    options = {"lossless": True} if kind == "WEBP" else {}
    converted = convert.convert(saved(source, kind, exif=exif, **options), 100, 95)
    turned = Image.open(io.BytesIO(saved(source, "PNG", exif=exif)))
    upright = ImageOps.exif_transpose(turned)
    assert (converted.width, converted.height) == upright.size
    assert psnr(pixels(converted.jpeg), pixels(jpeg(resized(upright, 100)))) > 40


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (64, 64), color) for color in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    found = pixels(convert.convert(saved(frames[0], kind, save_all=True, append_images=frames[1:]), 32, 95).jpeg)
    assert np.abs(found - (255, 0, 0)).max() < 8


def test_red_and_blue_are_swapped_if_asked():
    data = saved(Image.new("RGB", (64, 64), (250, 10, 20)), "PNG")
    found = pixels(convert.convert_sizes(data, (32,), 95, swap_rb=True).jpegs[0])
    assert np.abs(found - (20, 10, 250)).max() < 5


# ------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize(("kind", "options"), LOSSLESS + LOSSY)
def test_a_file_that_is_cut_off_is_refused(kind, options):
    data = saved(waves(96, 64), kind, **options)
    for length in [*range(12), *range(12, len(data) - 16, max(1, len(data) // 150))]:
        assert rejected(data[:length])


def test_every_changed_byte_of_a_png_is_found_before_its_pixels_are_used():
    data, rng = saved(waves(64, 48), "PNG"), random.Random(0)
    for at in [*range(8, 60), *(rng.randrange(8, len(data) - 12) for _ in range(300))]:
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        assert rejected(bytes(changed))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM"])
def test_any_damage_gives_an_image_or_a_reason_that_quotes_nothing(kind):
    data, rng, reasons = saved(waves(64, 48), kind), random.Random(1), set()
    for _ in range(150):
        try:
            found = convert.convert(mutated(data, rng), 32, 95, max_pixels=1_000_000)
        except convert.ImageRejectedError as error:
            reasons.add(str(error))
        else:
            assert convert.decode(found.jpeg).size == (32, 32)
    assert reasons
    assert all(reason.isascii() and "b'" not in reason and "\\x" not in reason for reason in reasons)


def test_a_header_that_claims_too_many_pixels_is_refused_undecoded():
    rows = [bytes(8)]
    assert rejected(png(60000, 50000, 8, 0, rows)) == "60000 x 50000 pixels are over the limit of 100000000"
    assert "over the limit of 99" in rejected(saved(waves(10, 10), "BMP"), max_pixels=99)


def test_a_file_that_expands_is_no_more_than_its_pixels():
    """100 MB of zeros in 100 KB, of which the image has 64 bytes."""
    data = png(8, 8, 8, 0, [bytes(8)] * 7 + [bytes(100_000_000)])
    assert len(data) < 200_000
    assert pixels(convert.convert(data, 32, 95).jpeg).max() == 0


# ----------------------------------------------------------------------------------------- other formats


def dng():
    out = io.BytesIO()
    waves(64, 64).save(out, "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (bytes(2000), "only zero bytes"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42isom", "a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw file (CR3)"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(90), "raw file (CR2)"),
        (bytes(128) + b"DICM" + bytes(90), "DICOM"),
        (b"%PDF-1.7\n%secret", "PDF"),
        (b"image_name,target\nsecret,1\n", "text"),
        (b"<!DOCTYPE html><title>secret", "an HTML page"),
        (b"<?xml version='1.0'?><svg>secret", "XML or SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid secret", "Git LFS pointer"),
        (b"8BPS\0\1secret", "Photoshop"),
        (b"PK\3\4secret", "ZIP"),
        (b"\xff\x0asecret", "JPEG XL"),
        (b"\x80\x81\x82\x83secret", "no known format"),
        (dng(), "raw file (DNG)"),
        (saved(waves(64, 64), "TIFF", tiffinfo={254: 1}), "first image is a preview"),
    ],
)
def test_what_cannot_be_converted_is_named_in_one_sentence(data, words):
    reason = rejected(data)
    assert words in reason
    assert "secret" not in reason
    assert "\n" not in reason


def test_names_are_those_of_the_content_not_of_the_file():
    made = {signatures.name_of(saved(waves(16, 16), kind)) for kind in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")}
    made |= {signatures.name_of(saved(waves(16, 16), kind)) for kind in ("JPEG2000", "PPM")}
    assert made == set(signatures.CONVERTED)
