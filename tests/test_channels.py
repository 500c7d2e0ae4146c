import io

import numpy as np
import pytest
from PIL import Image

from tfrecord_tools import channels


def jpeg(red: int, green: int, blue: int, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options) -> bytes:
    """A gradient around a colour."""
    ramp = np.linspace(-20, 20, size[0])[None, :, None] + np.zeros((size[1], 1, 1))
    pixels = np.clip(np.array([red, green, blue]) + ramp, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


SKIN = jpeg(200, 150, 130)


def test_skin_with_more_blue_than_red_looks_swapped():
    found = channels.channels_look_swapped([jpeg(130, 150, 200)] * 3 + [SKIN])
    assert found.swapped
    assert (found.images, found.bluer) == (4, 0.75)
    assert found.red == pytest.approx((3 * 130 + 200) / 4, abs=1)
    assert str(found).startswith("red and blue look swapped: mean R 147, G 150, B 18")
    assert str(found).endswith("more blue than red in 75% of 4 images; skin is redder than blue")


def test_skin_looks_right_and_what_is_no_image_is_passed_over():
    found = channels.channels_look_swapped([SKIN, b"noise", SKIN[:200]])
    assert not found.swapped
    assert found.images == 1
    assert channels.channels_look_swapped([]).swapped is False


@pytest.mark.parametrize(
    ("folder", "every", "at_most"),
    [("isic2020_512", 4, 0.02), ("ham10000_256", 50, 0.06), ("isic_archive_fullres", 1, 0.06)],
)
def test_real_images_look_right(real_data, folder, every, at_most):
    paths = sorted((real_data / folder / "jpeg").glob("*.jpg"))[::every]
    found = channels.channels_look_swapped(path.read_bytes() for path in paths)
    assert found.images == len(paths) > 100
    assert found.bluer <= at_most
    assert found.red > found.blue + 20
