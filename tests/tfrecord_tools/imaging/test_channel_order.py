import io

import pytest
from PIL import Image

from tests.support.images import SKIN, flat_jpeg, many_scans
from tfrecord_tools.imaging import channel_order


def test_skin_with_more_blue_than_red_looks_swapped():
    found = channel_order.channels_look_swapped([flat_jpeg(130, 150, 200)] * 3 + [SKIN])
    assert found.swapped
    assert (found.images, found.bluer) == (4, 0.75)
    assert found.red == pytest.approx((3 * 130 + 200) / 4, abs=1)
    assert str(found).startswith("red and blue look swapped: mean R 147, G 150, B 18")
    assert str(found).endswith("more blue than red in 75% of 4 images; skin is redder than blue")


def test_skin_looks_right_and_what_is_no_image_is_passed_over():
    found = channel_order.channels_look_swapped([SKIN, b"noise", SKIN[:200]])
    assert not found.swapped
    assert found.images == 1
    assert channel_order.channels_look_swapped([]).swapped is False


def test_what_may_take_long_is_passed_over():
    jpeg2000 = io.BytesIO()
    Image.open(io.BytesIO(SKIN)).save(jpeg2000, "JPEG2000")
    large, scans = many_scans(6000, 5000, 1), many_scans(64, 64, 101)
    found = channel_order.channels_look_swapped([large, scans, jpeg2000.getvalue(), many_scans(64, 64, 100), SKIN])
    assert found.images == 2


@pytest.mark.parametrize(
    ("folder", "every", "at_most"),
    [("isic2020_512", 4, 0.02), ("ham10000_256", 50, 0.06), ("isic_archive_fullres", 1, 0.06)],
)
def test_real_images_look_right(real_data, folder, every, at_most):
    paths = sorted((real_data / folder / "jpeg").glob("*.jpg"))[::every]
    found = channel_order.channels_look_swapped(path.read_bytes() for path in paths)
    assert found.images == len(paths) > 100
    assert found.bluer <= at_most
    assert found.red > found.blue + 20
