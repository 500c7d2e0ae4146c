import numpy as np
import pytest
from PIL import Image

from melanoma_tf import sheet
from melanoma_tf.augment import operations, policy
from tests.support.process import run_command

pytestmark = pytest.mark.integration


def test_every_operation_and_ready_policy_is_on_the_sheet():
    shown = {op for text in sheet.EVERY for op in text.replace("(", "|").split("|")}
    assert set(operations.OPS) | set(policy.POLICIES) - {"none"} <= shown


def test_the_command_draws_a_policy(shards, tmp_path):
    out = tmp_path / "sheet.png"
    args = ["--policy", "flip|affine(rotate=90)", "--out", str(out), "--images=2", "--draws=3", "--size=32"]
    done = run_command("-m", "melanoma_tf.sheet", "--data", str(shards), *args)
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (2 * (32 + 16), 4 * 32, 3)
    original, augmented = drawn[16:48, :32], drawn[16:48, 32:64]
    assert original.std() > 5
    assert not np.array_equal(original, augmented)
