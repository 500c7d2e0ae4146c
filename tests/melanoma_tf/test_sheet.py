import io

import numpy as np
import pytest
from PIL import Image

from melanoma_tf import sheet
from melanoma_tf.augment import operations, policies, preview
from melanoma_tf.data import dataset, pipeline
from tests.support.builds import records_of
from tests.support.process import run_command

pytestmark = pytest.mark.integration


def test_every_operation_and_ready_policy_is_on_the_sheet():
    shown = {op for text in sheet.EVERY for op in text.replace("(", "|").split("|")}
    assert set(operations.OPS) | set(policies.POLICIES) - {"none"} <= shown


def test_the_command_draws_a_policy(shards, tmp_path):
    out = tmp_path / "sheet.png"
    args = ["--policy", "flip|affine(rotate=90)", "--out", str(out), "--images=2", "--draws=3", "--size=32"]
    done = run_command("-m", "melanoma_tf.sheet", "--data", str(shards), *args)
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = np.asarray(Image.open(out).convert("RGB")).astype(int)
    white = (drawn == 255).all(axis=2)
    rows, columns = blocks(rows_of(white), 32), blocks(white[rows_of(white)].mean(axis=0) < 0.5, 32)
    assert len(rows) == 2
    assert len(columns) == 4  # the original and three draws
    gaps = np.diff(columns) - 32
    assert gaps[0] > gaps[1] == gaps[2] > 0  # the original stands apart
    cells = [[drawn[top : top + 32, left : left + 32] for left in columns] for top in rows]
    names = pipeline.read_metadata(dataset.open_data(str(shards)).train)["image_name"]
    stored = {r.image_name: np.asarray(Image.open(io.BytesIO(r.image))) for r in records_of(shards).values()}
    for name, (original, *augmented) in zip(names, cells, strict=False):
        assert np.abs(original - stored[name]).mean() < 3
        assert all(not np.array_equal(original, each) for each in augmented)
    text = drawn[: rows[0]].min(axis=2) < 128
    assert text[:40].any()  # a heading
    assert (drawn[rows[0] + 32 : rows[1]].min(axis=2) < 128).any()  # and a label above each row


def rows_of(white):
    """Pixel rows that hold images."""
    return white.mean(axis=1) < 0.3  # of text, more is white


def blocks(dark, size):
    """Starts of the stretches of `size` dark pixels."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dark.astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    assert set(ends - starts) == {size}
    return starts.tolist()


@pytest.mark.parametrize("width", [6, 12, 40])
def test_a_long_policy_is_wrapped_and_whole(width):
    policy = "Augmentation: flip|affine(rotate=180, shear=20)|hair(20)"
    lines = preview._wrapped(policy, lambda text: len(text) <= width)
    assert "".join(lines).replace(" ", "") == policy.replace(" ", "")
    assert all(len(line) <= width or not set(line.strip("|, ")) & set("|, ") for line in lines)
    assert (len(lines) == 2) == (width == 40)
