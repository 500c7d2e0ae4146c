"""Damaged input: what comes out is what Pillow sees, or a reason; never a crash, never another image's pixels."""

from __future__ import annotations

# ruff: noqa: PT017 -- which inputs raise is not known beforehand
import io
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.images import mutated
from tfrecord_tools import schema
from tfrecord_tools.imaging import convert
from tfrecord_tools.metadata import table
from tfrecord_tools.records import tfrecord

SIZE = 32


def image(seed, mode="RGB"):
    """Smooth shapes that no other seed has, and no dark pixel: so black or foreign pixels would be seen."""
    numbers = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:128] / 128
    waves = [np.sin(numbers.uniform(2, 9) * x + numbers.uniform(2, 9) * y + numbers.uniform(0, 6)) for _ in range(3)]
    return Image.fromarray((160 + 60 * np.stack(waves, -1)).astype(np.uint8)).convert(mode)


def originals():
    """JPEGs of every kind that the fast decoder takes: subsamplings, baseline, progressive, restart markers, grey."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"subsampling": "4:2:2", "progressive": True}),
        ("RGB", {"subsampling": "4:4:4", "restart_marker_blocks": 4}),
        ("RGB", {"optimize": True, "quality": 60}),
        ("L", {}),
        ("L", {"progressive": True}),
    ]
    for seed, (mode, options) in enumerate(kinds):
        out = io.BytesIO()
        image(seed, mode).save(out, "JPEG", **options)
        yield out.getvalue()


def pillow(data):
    """What Pillow makes of it, plainly: full decode, upright, center crop, Lanczos, encoded alike; f64[SIZE,SIZE,3]."""
    found = Image.open(io.BytesIO(data))
    found.load()
    side = min(found.size)
    left, top = (found.width - side) / 2, (found.height - side) / 2
    rgb = found.convert("RGB")
    small = rgb.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    # Colors of damaged blocks are so wild that 4:2:0 alone can cost 9 levels.
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=95, subsampling="4:2:0")
    return np.asarray(Image.open(encoded)).astype(float)


def check_jpegs(count, seed):
    """Returns how many were converted and how many rejected."""
    rng, sources = random.Random(seed), list(originals())
    converted = rejected = 0
    before = convert.convert(sources[0], SIZE, 95)
    for index in range(count):
        data = mutated(rng.choice(sources), rng)
        try:
            found = convert.convert(data, SIZE, 95, max_pixels=1_000_000)
        except convert.ImageRejectedError as error:
            assert str(error)
            rejected += 1
            continue
        converted += 1
        decoded = convert.decode(found.jpeg)
        assert (decoded.size, decoded.mode) == ((SIZE, SIZE), "RGB")
        difference = np.abs(np.asarray(decoded).astype(float) - pillow(data))
        # Reduced decoding lies between them; damage that passed as an image has hard edges.
        assert difference.mean() < 8, f"mutation {index}: {difference.mean():.1f} levels from Pillow"
        if index % 20 == 0:  # what came before leaves nothing behind
            assert convert.convert(sources[0], SIZE, 95) == before
    return converted, rejected


def test_300_damaged_jpegs_give_pillows_image_or_a_reason():
    converted, rejected = check_jpegs(300, seed=1)
    assert converted > 10
    assert rejected > 100


@pytest.mark.slow
def test_10000_damaged_jpegs_give_pillows_image_or_a_reason():
    converted, rejected = check_jpegs(10_000, seed=2)
    assert converted > 400
    assert rejected > 3000


CSV = (
    b"image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
    b"ISIC_0000001,IP_1,male,45,torso,nevus,benign,0\n"
    b"ISIC_0000002,IP_2,female,50,head/neck,melanoma,malignant,1\n"
    b"ISIC_0000003,IP_2,,,,unknown,benign,0\n"
)


def test_300_damaged_csvs_give_whole_rows_or_an_error_that_names_the_file(tmp_path):
    rng, path = random.Random(3), tmp_path / "train.csv"
    read = refused = 0
    for _ in range(300):
        path.write_bytes(mutated(CSV, rng))
        try:
            frame = table.read_table(path, labelled=True)
        except table.TableError as error:
            assert "train.csv" in str(error)
            refused += 1
            continue
        read += 1
        assert frame["image_name"].str.fullmatch(schema.IMAGE_NAME.pattern).all()
        assert frame["image_name"].is_unique
        assert set(frame["target"]) <= {0, 1}
        assert set(frame["sex"]) <= {-1, 0, 1}
    assert read
    assert refused > 100


def records():
    for number in range(3):
        jpeg = convert.convert(next(originals()), SIZE, 95).jpeg
        yield schema.encode(
            schema.Record(jpeg, f"ISIC_{number}", number, 0, 50, 3, f"IP_{number}", 128, 96, 0, number, "x", bytes(32))
        )


def test_300_damaged_shards_give_the_records_written_or_an_error_that_names_the_record(tmp_path):
    rng, path, written = random.Random(4), tmp_path / "train00-3.tfrec", list(records())
    with path.open("wb") as file:
        for data in written:
            tfrecord.write_record(file, data)
    whole = path.read_bytes()
    damaged = 0
    for _ in range(300):
        path.write_bytes(mutated(whole, rng))
        found = []
        try:
            for data in tfrecord.read_records(path):
                found.append(data)
        except tfrecord.CorruptRecordError as error:
            assert "train00-3.tfrec: record " in str(error)
            damaged += 1
        assert found == written[: len(found)]
    assert damaged > 250


def test_300_damaged_records_decode_to_a_sound_record_or_an_error():
    rng, written = random.Random(5), list(records())
    refused = 0
    for _ in range(300):
        try:
            record = schema.decode(mutated(rng.choice(written), rng))
        except schema.SchemaError as error:
            assert str(error)
            refused += 1
            continue
        assert -1 <= record.target <= 1
        assert schema.IMAGE_NAME.fullmatch(record.image_name)
    assert refused > 30
