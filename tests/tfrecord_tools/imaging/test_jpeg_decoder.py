"""Structure of JPEGs, and damage that the decoder notices."""

import io
import random
import struct
import time

import numpy as np
import pytest
from PIL import Image

from tests.support.images import cmyk_profile, jpeg, many_scans, pixels, psnr, waves
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
def test_zeros_before_the_end_are_padding(count):
    data = jpeg(waves())
    assert convert.convert(data[:-2] + bytes(count) + data[-2:], 64, 95) == convert.convert(data, 64, 95)


def test_other_bytes_before_the_end_are_coded_data_that_lost_synchronization():
    data = jpeg(waves())
    lost = rejected(data[:-2] + b"\x5a" * 16 + data[-2:])  # the decoder has read the first two already
    assert lost == "damaged: Corrupt JPEG data: 14 extraneous bytes before marker 0xd9"
    assert "extraneous bytes" in rejected(data[:-2] + bytes(40) + data[-2:])


def test_a_warning_that_is_not_of_coded_data_rejects_too():
    """A second progressive scan of the same bits, of which libjpeg warns; Pillow shows what comes out."""
    data = many_scans(64, 64, 2)
    scan = data.rindex(b"\xff\xda")
    twice = data[:-2] + data[scan:]
    Image.open(io.BytesIO(twice)).load()
    assert rejected(twice).startswith("damaged: Inconsistent progression sequence")


def test_a_kind_of_jpeg_that_is_not_supported_is_not_called_damaged():
    data = jpeg(waves())
    differential = data.replace(b"\xff\xc0", b"\xff\xc5", 1)
    assert rejected(differential).startswith("cannot be decoded: ")


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


def flat_410():
    """A JPEG of 16 x 32 pixels of Y 160, Cb 100, Cr 150 in one MCU of eight luma blocks, written by hand."""

    def segment(marker, body):
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    frame = b"\x08\x00\x20\x00\x10\x03" + b"\1\x24\0\2\x11\0\3\x11\0"
    dc = bytes([0x00, 0, 3, *[0] * 14, 0, 5, 6])  # codes 00, 01, 10: differences of 0, 5 and 6 bits
    ac = bytes([0x10, 1, *[0] * 15, 0])  # code 0: end of block
    luma = "10" + "100000" + "0" + ("00" + "0") * 7  # 32 levels above the middle
    bits = luma + "01" + "00011" + "0" + "01" + "10110" + "0"  # -28 and 22
    bits += "1" * (-len(bits) % 8)
    head = segment(0xDB, b"\0" + b"\x08" * 64) + segment(0xC0, frame) + segment(0xC4, dc) + segment(0xC4, ac)
    scan = segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0") + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\xff\xd8" + head + scan + b"\xff\xd9"


def test_sampling_factors_without_a_name_are_decoded_by_pillow():
    data = flat_410()
    with pytest.raises(ValueError, match="Could not determine subsampling"):
        jpeg_decoder.simplejpeg.decode_jpeg(data)
    luma, blue, red = 160, 100 - 128, 150 - 128  # ITU-R BT.601, as JFIF has it
    expected = luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue
    assert np.abs(pixels(convert.convert(data, 32, 95).jpeg) - expected).max() < 4


def test_the_length_of_a_segment_may_not_lead_beyond_the_end():
    data = bytearray(jpeg(waves()))
    struct.pack_into(">H", data, data.index(b"\xff\xda") + 2, 0xFFFF)
    assert rejected(bytes(data[:20_000])).startswith("truncated")
