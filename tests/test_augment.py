"""Augmentation against numpy, TensorFlow's own image ops and closed forms; the generator against a reference."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import stats

from melanoma_tf.augment import color, counter, geometry, policy

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
SEEDS = np.arange(8, dtype=np.uint32)
FULL = "flip|quarter_turn|color(0.1, 0.1, 0.1, 0.02)"


# ------------------------------------------------------------------------------------------------------ generator


def lowbias32(x: int) -> int:
    """The published mixer, in Python's integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_bits_are_those_of_the_published_mixer():
    seeds = np.array([0, 1, 2, 12345, 2**31, 2**32 - 1], np.uint32)
    for draw in (0, 1, 77):
        expected = [lowbias32(lowbias32(int(s)) ^ (draw + 1) * 0x9E3779B9 % 2**32) for s in seeds]
        np.testing.assert_array_equal(counter.bits(seeds, draw), expected)


def test_numbers_are_uniform_and_independent_of_neighbours():
    draws = np.stack([counter.uniform(np.arange(20_000, dtype=np.uint32), d) for d in range(4)])
    assert draws.min() >= 0
    assert draws.max() < 1
    for row in draws:
        assert stats.kstest(row, "uniform").pvalue > 1e-3
    # Correlations between draws, and between neighbouring seeds, have a standard error of 1/sqrt(n) = 0.007.
    correlation = np.corrcoef(draws)
    assert np.abs(correlation - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(draws[0, :-1], draws[0, 1:])[0, 1]) < 0.03
    # Pairs fill the unit square evenly: chi-squared over 16 x 16 cells.
    cells = np.histogram2d(draws[0], draws[1], bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("symmetry", range(8))
def test_each_symmetry_is_that_of_numpy(symmetry):
    expected = IMAGES.transpose(0, 2, 1, 3) if symmetry & 4 else IMAGES
    expected = expected[:, ::-1] if symmetry & 2 else expected
    expected = expected[:, :, ::-1] if symmetry & 1 else expected
    np.testing.assert_array_equal(geometry.dihedral(IMAGES, np.full(8, symmetry, np.int32)), expected)


def test_quarter_turns_are_those_of_numpy_and_equally_likely():
    op, seeds = policy.QuarterTurn(), np.arange(4000, dtype=np.uint32)
    drawn = np.asarray(op.draw(lambda draw, *bounds: counter.uniform(seeds, draw, *bounds)))
    values, counts = np.unique(drawn, return_counts=True)
    assert stats.chisquare(counts).pvalue > 1e-3
    turned = {}
    for value in values:
        out = np.asarray(op.apply(IMAGES[:1], np.array([value], np.int32)))[0]
        turned[value] = [k for k in range(4) if np.array_equal(out, np.rot90(IMAGES[0], k))]
    assert sorted(turned.values()) == [[0], [1], [2], [3]]


def test_quarter_turns_of_a_rectangle_are_refused():
    with pytest.raises(ValueError, match="quarter_turn needs square images, got 4 x 6"):
        policy.QuarterTurn().apply(np.zeros((1, 4, 6, 3), np.uint8), np.zeros(1, np.int32))


# --------------------------------------------------------------------------------------------------------- colour


def apply_color(brightness=0.0, contrast=1.0, saturation=1.0, hue=0.0):
    unit = tf.constant(IMAGES / 255.0, tf.float32)
    values = [tf.fill([8], float(v)) for v in (brightness, contrast, saturation, hue)]
    return unit, color.transform(unit, color.matrix(*values))


def test_no_change_is_the_identity():
    unit, changed = apply_color()
    np.testing.assert_allclose(changed, unit, atol=1e-6)


def test_brightness_is_that_of_tensorflow():
    unit, changed = apply_color(brightness=0.15)
    np.testing.assert_allclose(changed, tf.clip_by_value(tf.image.adjust_brightness(unit, 0.15), 0, 1), atol=1e-6)


def test_contrast_stretches_about_mid_grey():
    unit, changed = apply_color(contrast=1.3)
    np.testing.assert_allclose(changed, np.clip((unit - 0.5) * 1.3 + 0.5, 0, 1), atol=1e-6)


def test_saturation_mixes_with_luma():
    unit, changed = apply_color(saturation=0.25)
    grey = unit @ tf.constant([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(changed, 0.25 * unit + 0.75 * grey, atol=1e-5)


def test_hue_turns_the_chroma_plane_of_tensorflows_yiq():
    unit, changed = apply_color(hue=0.05)
    before, after = (tf.image.rgb_to_yiq(x).numpy() for x in (unit, changed))
    inside = ((changed > 0) & (changed < 1)).numpy().all(-1)  # clipping changes colours
    assert inside.sum() > 200
    chroma = lambda yiq: yiq[..., 1] + 1j * yiq[..., 2]  # noqa: E731
    np.testing.assert_allclose(after[inside][:, 0], before[inside][:, 0], atol=1e-3)
    turned = chroma(before)[inside] * np.exp(2j * np.pi * 0.05)
    np.testing.assert_allclose(chroma(after)[inside], turned, atol=1e-3)


# --------------------------------------------------------------------------------------------------------- policy


def test_a_policy_string_gives_its_operations():
    assert policy.parse(FULL) == (
        policy.Flip(),
        policy.QuarterTurn(),
        policy.Color(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02),
    )
    assert policy.parse("flip(vertical=False)") == (policy.Flip(vertical=False),)
    assert policy.parse("none") == policy.parse("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flip|spin", "no op 'spin'; available ops: color, flip, quarter_turn"),
        ("color(0.1, gloss=2)", r"'color\(0.1, gloss=2\)' does not fit color\(brightness: "),
        ("color(brightness=2)", r"color: brightness=2 must lie in \[0, 1.0\]"),
        ("__import__('os')", "no op '__import__'"),
        ("color(open('x'))", "is not of the form op"),
        ("flip|", "'' is not of the form op"),
    ],
)
def test_a_bad_policy_says_what_there_is(text, message):
    with pytest.raises(ValueError, match=message):
        policy.parse(text)


def augmented(images, seeds, training=True, text=FULL):
    return np.asarray(policy.Augment(text, dtype="float32")(images, seeds, training=training))


def test_inference_only_scales():
    np.testing.assert_allclose(augmented(IMAGES, SEEDS, training=False), IMAGES / np.float32(255), atol=1e-7)
    np.testing.assert_allclose(augmented(IMAGES, SEEDS, text="none"), IMAGES / np.float32(255), atol=1e-7)


def test_an_example_looks_the_same_in_any_batch():
    whole = augmented(IMAGES, SEEDS)
    order = np.array([5, 2, 7])
    np.testing.assert_array_equal(augmented(IMAGES[order], SEEDS[order]), whole[order])


def test_other_seeds_give_other_pictures():
    same_picture = np.repeat(IMAGES[:1], 8, axis=0)
    assert len({picture.tobytes() for picture in augmented(same_picture, SEEDS)}) == 8


def test_it_compiles_with_xla_and_gives_the_same():
    layer = policy.Augment(FULL, dtype="float32")
    compiled = tf.function(lambda x, s: layer(x, s, training=True), jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(IMAGES), tf.constant(SEEDS)), augmented(IMAGES, SEEDS), atol=1e-6)


def test_it_runs_inside_tf_data_too():
    layer = policy.Augment(FULL, dtype="float32")
    batches = tf.data.Dataset.from_tensors((IMAGES, SEEDS)).map(lambda x, s: layer(x, s, training=True))
    np.testing.assert_allclose(next(iter(batches)), augmented(IMAGES, SEEDS), atol=1e-6)


def test_output_is_in_range_and_of_the_asked_dtype():
    layer = policy.Augment("color(1.0, 1.0, 1.0, 0.5)", dtype="mixed_bfloat16")
    out = layer(IMAGES, SEEDS, training=True)
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"
    assert float(ops.min(out)) >= 0
    assert float(ops.max(out)) <= 1
