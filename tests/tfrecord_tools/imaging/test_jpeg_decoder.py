"""Structure of JPEGs, and damage that the decoder notices."""

import io
import random
import struct
import time

import numpy as np
import pytest
from PIL import Image

from tests.support.images import jpeg, many_scans, pixels, psnr, waves
from tests.tfrecord_tools.imaging.test_convert import cmyk_profile
from tfrecord_tools.imaging import convert, jpeg_decoder


def rejected(data, **options):
    with pytest.raises(convert.ImageRejectedError) as caught:
        convert.convert_sizes(data, (32,), 95, **options)
    return str(caught.value)


def test_thousands_of_scans_are_refused_before_decoding():
    data = many_scans(6000, 4000, 2000)
    before = time.process_time()
    assert rejected(data) == "more than 100 scans, which may take minutes to decode; encode it again"
    assert time.process_time() - before < 1


@pytest.mark.parametrize("scans", [1, 10, 100])
def test_up_to_100_scans_are_decoded(scans):
    found = pixels(convert.convert(many_scans(100, 80, scans), 32, 95).jpeg)
    np.testing.assert_array_equal(found, 128)


def test_scans_of_a_thumbnail_and_of_further_images_do_not_count():
    out = io.BytesIO()
    small = many_scans(16, 16, 101)
    exif = Image.Exif()
    exif[0x010E] = small[:20_000].decode("latin-1")
    waves().save(out, "MPO", save_all=True, append_images=[waves(64, 64)], exif=exif)
    data = out.getvalue() + small
    assert data.count(b"\xff\xda") > 100
    assert psnr(pixels(convert.convert(data, 64, 95).jpeg), pixels(convert.convert(jpeg(waves()), 64, 95).jpeg)) > 30


def test_what_follows_the_image_is_ignored():
    """Phones append films, whose bytes hold any pair."""
    data = jpeg(waves())
    trailer = random.Random(0).randbytes(4000) + b"\xff\xda\0"
    assert convert.convert(data + trailer, 64, 95) == convert.convert(data, 64, 95)


def test_many_segments_are_refused():
    data = jpeg(waves())
    assert rejected(data[:2] + b"\xff\xfe\0\2" * 20_000 + data[2:]) == "more than 10000 segments; encode it again"


@pytest.mark.parametrize("segment", [b"\xff\xe0\0\0", b"\xff\xe0\0\1"])
def test_a_segment_without_a_length_is_refused(segment):
    data = jpeg(waves())
    assert rejected(data[:2] + segment + data[2:]) == "not a JPEG that can be read: a segment without a length"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_zeroed_coded_data_are_found_in_every_mode(mode, progressive):
    data = jpeg(waves().convert(mode), progressive=progressive, icc_profile=cmyk_profile() if mode == "CMYK" else None)
    convert.convert(data, 64, 95)
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    damaged = data[:middle] + bytes(600) + data[middle + 600 :]
    assert rejected(damaged).startswith("damaged: ")


@pytest.mark.parametrize("count", [1, 2, 16])
def test_padding_is_zeros_before_the_end_and_nothing_else(count):
    data = jpeg(waves())
    found = convert.convert(data[:-2] + bytes(count) + data[-2:], 64, 95)
    assert found == convert.convert(data, 64, 95)
    lost = rejected(data[:-2] + b"\x5a" * count + data[-2:])
    assert lost == f"damaged: Corrupt JPEG data: {count} extraneous bytes before marker 0xd9"


def test_a_warning_that_is_not_of_coded_data_rejects_too():
    """A second progressive scan of the same bits, of which libjpeg warns; Pillow shows what comes out."""
    data = many_scans(64, 64, 2)
    scan = data.rindex(b"\xff\xda")
    twice = data[:-2] + data[scan:]
    Image.open(io.BytesIO(twice)).load()
    assert rejected(twice).startswith("damaged: Inconsistent progression sequence")


def test_a_kind_of_jpeg_that_is_not_supported_is_not_called_damaged():
    data = jpeg(waves())
    lossless = data.replace(b"\xff\xc0", b"\xff\xc3", 1)
    assert rejected(lossless).startswith("cannot be decoded: Unsupported JPEG process")


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_and_ycck_give_pillows_pixels(reduction, transform):
    data = bytearray(jpeg(waves(1300, 1000).convert("CMYK")))
    at = data.index(b"Adobe")
    data[at + 11] = transform
    image = Image.open(io.BytesIO(data))
    image.draft("CMYK", (image.width // reduction, image.height // reduction))
    header = jpeg_decoder.open_header(bytes(data))
    np.testing.assert_array_equal(jpeg_decoder.decode_reduced(bytes(data), header, reduction), np.asarray(image))


def test_sampling_factors_without_a_name_are_decoded_by_pillow():
    """4:1:0 in its frame header, of an image small enough that the coded data fit both."""
    data = bytearray(jpeg(Image.new("RGB", (8, 8), (200, 30, 30)), subsampling="4:2:0"))
    at = data.index(b"\xff\xc0")
    assert data[at + 11] == 0x22
    data[at + 11] = 0x24  # one MCU of 16 x 32 pixels: eight luma blocks, of which the file has four
    reason = "Could not determine subsampling"
    with pytest.raises(ValueError, match=reason):
        jpeg_decoder.simplejpeg.decode_jpeg(bytes(data))
    assert np.abs(pixels(convert.convert(bytes(data), 32, 95).jpeg).mean((0, 1)) - (200, 30, 30)).max() < 30


def test_the_length_of_a_segment_may_not_lead_beyond_the_end():
    data = bytearray(jpeg(waves()))
    struct.pack_into(">H", data, data.index(b"\xff\xda") + 2, 0xFFFF)
    assert rejected(bytes(data[:20_000])).startswith("truncated")
