"""Which JPEGs are kept as they are: against files that Pillow and simplejpeg write."""

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from tests.support.images import jpeg, waves
from tfrecord_tools.imaging import convert, passthrough

ANY = passthrough.Asked()
SQUARE = waves(64, 64)


def with_segment(data, marker, body):
    """A file with one more segment after its start."""
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def converted(data, **changes):
    return convert.convert_sizes(data, (64,), **{"quality": 95, "keep": ANY, **changes}).jpegs[0]


@pytest.mark.parametrize("quality", [40, 75, 95, 100])
@pytest.mark.parametrize("subsampling", passthrough.SUBSAMPLINGS)
def test_a_plain_file_of_the_size_is_kept_byte_for_byte(quality, subsampling):
    data = jpeg(SQUARE, quality=quality, subsampling=subsampling)
    assert converted(data) == data
    assert converted(data, keep=passthrough.Asked(quality, subsampling)) == data
    assert converted(data, keep=None) != data


def test_optimized_huffman_tables_and_restart_markers_are_plain_too():
    for options in ({"optimize": True}, {"restart_marker_blocks": 2}):
        data = jpeg(SQUARE, **options)
        assert converted(data) == data


def test_the_same_image_of_another_encoder_is_plain_too():
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(SQUARE), 90, "RGB", "420")
    assert converted(data, keep=passthrough.Asked(90, "4:2:0")) == data


@pytest.mark.parametrize(
    "asked", [passthrough.Asked(quality=90), passthrough.Asked(subsampling="4:2:2"), passthrough.Asked(95, "4:4:4")]
)
def test_another_quality_or_subsampling_is_encoded(asked):
    data = jpeg(SQUARE, quality=95, subsampling="4:2:0")
    assert not passthrough.is_plain(data, asked)
    assert converted(data, keep=asked, quality=60) == convert.convert_sizes(data, (64,), 60).jpegs[0]


def exif():
    found = Image.Exif()
    found[0x0112] = 6
    return found


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        jpeg(SQUARE, progressive=True),
        jpeg(SQUARE.convert("L")),
        jpeg(SQUARE, exif=exif()),
        jpeg(SQUARE, icc_profile=SRGB),
        jpeg(SQUARE, comment=b"a name"),
        jpeg(SQUARE) + b"more",
        jpeg(SQUARE, keep_rgb=True),
        with_segment(jpeg(SQUARE), 0xE1, b"Exif\0\0"),
        with_segment(jpeg(SQUARE), 0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1abc"),  # a thumbnail of one pixel
    ],
    ids=["progressive", "grey", "EXIF", "ICC", "comment", "trailing bytes", "RGB", "application data", "thumbnail"],
)
def test_what_is_not_plain_is_encoded(data):
    assert not passthrough.is_plain(data, ANY)
    found = converted(data)
    assert found != data
    assert passthrough.is_plain(found, passthrough.Asked(95, "4:2:0"))


def test_a_damaged_file_with_a_plain_frame_is_rejected():
    whole = jpeg(SQUARE)
    damaged = whole[: len(whole) * 3 // 4] + whole[-2:]
    assert passthrough.is_plain(damaged, ANY)
    with pytest.raises(convert.ImageRejectedError, match="damaged"):
        converted(damaged)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 20, 160, 400, 620])
def test_a_file_that_is_cut_off_is_not_plain(length):
    assert not passthrough.is_plain(jpeg(SQUARE)[:length], ANY)


def test_pixels_that_are_to_be_swapped_are_encoded():
    data = jpeg(SQUARE)
    assert converted(data, swap_rb=True) == convert.convert_sizes(data, (64,), 95, swap_rb=True).jpegs[0]


def test_only_the_size_of_the_source_is_kept():
    data = jpeg(SQUARE)
    kept, made = convert.convert_sizes(data, (64, 32), 95, keep=ANY).jpegs
    assert kept == data
    assert made == convert.convert_sizes(data, (64, 32), 95).jpegs[1]
