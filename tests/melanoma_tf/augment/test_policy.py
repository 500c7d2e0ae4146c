"""Augmentation against NumPy, tf.image and closed forms; the random numbers against a reference."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import stats

from melanoma_tf.augment import color, geometry, operations, policies, policy, random
from melanoma_tf.augment.warp import affine
from tests.support.process import run_command

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
        np.testing.assert_array_equal(random.bits(seeds, draw), expected)


def test_numbers_are_uniform_and_independent_of_neighbors():
    draws = np.stack([random.uniform(np.arange(20_000, dtype=np.uint32), d) for d in range(4)])
    assert draws.min() >= 0
    assert draws.max() < 1
    for row in draws:
        assert stats.kstest(row, "uniform").pvalue > 1e-3
    # Correlations between draws, and between neighboring seeds, have a standard error of 1/sqrt(n) = 0.007.
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
    op, seeds = operations.QuarterTurn(), np.arange(4000, dtype=np.uint32)
    drawn = np.asarray(op.draw(random.Stream(seeds)))
    values, counts = np.unique(drawn, return_counts=True)
    assert stats.chisquare(counts).pvalue > 1e-3
    turned = {}
    for value in values:
        out = np.asarray(op.apply(IMAGES[:1], np.array([value], np.int32)))[0]
        turned[value] = [k for k in range(4) if np.array_equal(out, np.rot90(IMAGES[0], k))]
    assert sorted(turned.values()) == [[0], [1], [2], [3]]


def test_quarter_turns_of_a_rectangle_are_refused():
    for text in ("quarter_turn", "flip|quarter_turn"):
        with pytest.raises(ValueError, match="quarter_turn needs square images, got 4 x 6"):
            augmented(np.zeros((1, 4, 6, 3), np.uint8), SEEDS[:1], text=text)


# --------------------------------------------------------------------------------------------------------- color


def apply_color(brightness=0.0, contrast=1.0, saturation=1.0, hue=0.0):
    unit = tf.constant(IMAGES / 255.0, tf.float32)
    values = [tf.fill([8], float(v)) for v in (brightness, contrast, saturation, hue)]
    return unit, color.transform(unit, color.matrix(*values))


def test_no_change_is_the_identity():
    unit, changed = apply_color()
    np.testing.assert_allclose(changed, unit, atol=1e-6)


def test_brightness_is_that_of_tensorflow():
    unit, changed = apply_color(brightness=0.15)
    np.testing.assert_allclose(changed, tf.image.adjust_brightness(unit, 0.15), atol=1e-6)


def test_contrast_stretches_about_mid_grey():
    unit, changed = apply_color(contrast=1.3)
    np.testing.assert_allclose(changed, (unit - 0.5) * 1.3 + 0.5, atol=1e-6)


def test_saturation_mixes_with_luma():
    unit, changed = apply_color(saturation=0.25)
    grey = unit @ tf.constant([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(changed, 0.25 * unit + 0.75 * grey, atol=1e-5)


def test_hue_turns_the_chroma_plane_of_tensorflows_yiq():
    unit, changed = apply_color(hue=0.05)
    before, after = (tf.image.rgb_to_yiq(x).numpy() for x in (unit, changed))
    chroma = lambda yiq: yiq[..., 1] + 1j * yiq[..., 2]  # noqa: E731
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=1e-3)
    np.testing.assert_allclose(chroma(after), chroma(before) * np.exp(2j * np.pi * 0.05), atol=1e-3)


# --------------------------------------------------------------------------------------------------------- policy


def test_a_policy_string_gives_its_operations():
    assert policy.parse(FULL) == (
        operations.Flip(),
        operations.QuarterTurn(),
        operations.Color(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02),
    )
    assert policy.parse("flip(vertical=False)") == (operations.Flip(vertical=False),)
    assert policy.parse("none") == policy.parse("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "flip|spin",
            "unknown op 'spin'; expected one of: affine, blur, color, .*; or, alone, a named policy: none, light",
        ),
        ("color(0.1, gloss=2)", r"bad arguments in 'color\(0.1, gloss=2\)'; expected color\(brightness=0.0, "),
        ("color(brightness=2)", r"color: brightness=2; expected a number in \[0, 1.0\]"),
        ("affine(fill='wrap')", "affine: unknown fill 'wrap'; expected one of: reflect, nearest, constant"),
        ("flip(0.5)", "flip: horizontal=0.5; expected True or False"),
        ("affine(normal='no')", "affine: normal='no'; expected True or False"),
        (
            "affine(rotate=1, rotate=2)",
            r"cannot parse 'affine\(rotate=1, rotate=2\)'; expected the form op or op\(1, key=2\)",
        ),
        ("affine(zoom=0.9)", r"affine: zoom=0.9; expected a number in \[0, 0.75\]"),
        ("microscope(0.6, 0.4)", "microscope: low=0.6 exceeds high=0.4"),
        ("hair(5.5)", r"hair: most=5.5; expected an integer in \[0, 36\]"),
        ("color(**{'hue': 0.1})", "expected the form op"),
        ("light|hair", "unknown op 'light'; .* alone, a named policy: none, light"),
        ("mixup(0)", "mixup: alpha=0; expected a number above 0"),
        ("cutout(size='big')", r"cutout: size='big'; expected a number in \[0, 1.0\]"),
        ("__import__('os')", "unknown op '__import__'"),
        ("color(open('x'))", "expected the form op"),
        ("flip|", "cannot parse ''; expected the form op"),
    ],
)
def test_a_bad_policy_raises_with_what_is_expected(text, message):
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


def test_other_seeds_give_other_images():
    same_image = np.repeat(IMAGES[:1], 8, axis=0)
    assert len({image.tobytes() for image in augmented(same_image, SEEDS)}) == 8


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


# ------------------------------------------------------------------------------------------- color, the rest of it


UNIT = IMAGES.astype(np.float32) / 255


def test_composed_color_matrices_equal_one_after_the_other():
    values = [tf.constant(RNG.uniform(-0.3, 0.3, 8), tf.float32) for _ in range(4)]
    first = color.matrix(values[0], 1 + values[1], 1 + values[2], values[3])
    second = color.gains(tf.constant(RNG.uniform(0.5, 1.5, (8, 3)), tf.float32))
    step_by_step = color.transform(color.transform(UNIT, first), second)
    np.testing.assert_allclose(color.transform(UNIT, color.compose(first, second)), step_by_step, atol=1e-5)


def test_gains_multiply_channels():
    factors = RNG.uniform(0.5, 1.5, (8, 3)).astype(np.float32)
    found = color.transform(UNIT, color.gains(tf.constant(factors)))
    np.testing.assert_allclose(found, UNIT * factors[:, None, None], atol=1e-6)


def test_grey_world_makes_the_means_of_the_channels_equal():
    tinted = UNIT * np.array([0.9, 0.6, 0.4], np.float32)
    found = color.transform(tinted, color.gains(color.grey_world(tinted, tf.ones(8))))
    means = np.asarray(found).mean(axis=(1, 2))
    np.testing.assert_allclose(means, np.repeat(tinted.mean(axis=(1, 2, 3))[:, None], 3, axis=1), rtol=1e-4)
    black = np.zeros_like(UNIT)
    np.testing.assert_array_equal(color.transform(black, color.gains(color.grey_world(black, tf.ones(8)))), black)


def test_grey_world_sees_the_output_of_the_color_before_it():
    text = "color(gain=0.4)|grey_world(1.0)"
    both = policy.Augment(text, dtype="float32")
    ((_, (gains,)), (_, (strength,))) = both._runs(SEEDS)
    tinted = color.transform(UNIT, gains)
    expected = color.transform(tinted, color.gains(color.grey_world(tinted, strength)))
    np.testing.assert_allclose(both(IMAGES, SEEDS, training=True), np.clip(expected, 0, 1), atol=1e-5)


def test_maps_with_different_fills_are_not_composed():
    layer = policy.Augment("affine(rotate=30)|flip|affine(shift=0.2, fill='constant')", dtype="float32")
    assert [len(run) for run, _ in layer._runs(SEEDS)] == [2, 1]


def test_gamma_is_that_of_tensorflow():
    expected = tf.image.adjust_gamma(tf.constant(UNIT), 1.3)
    np.testing.assert_allclose(color.gamma(UNIT, tf.fill([8], 1.3)), expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------ every operation


EVERY = {
    "flip": "flip",
    "quarter_turn": "quarter_turn",
    "affine": "affine(rotate=180, shear=5, zoom=0.2, shift=0.1)",
    "crop": "crop(0.6)",
    "color": "color(0.2, 0.2, 0.2, 0.05, gain=0.1)",
    "grey_world": "grey_world(0.5)",
    "gamma": "gamma(0.3)",
    "cutout": "cutout(0.4, holes=2)",
    "hair": "hair(5)",
    "ink": "ink(p=1.0)",
    "ruler": "ruler(0.2, p=1.0)",
    "microscope": "microscope(p=1.0)",
    "blur": "blur(1.5)",
    "noise": "noise(0.1)",
    "mixup": "mixup(0.4)",
    "cutmix": "cutmix(p=1.0)",
}
OF_TENSORFLOW = [method for method in affine.METHODS if method != "shears"]
READY = sorted(set(policies.POLICIES) - {"none"})


def test_every_operation_is_among_those_tested():
    assert sorted(EVERY) == sorted(operations.OPS)
    assert sorted(operations.OPS) == sorted(policies.OPS)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("method", "text"),
    [
        *itertools.product(OF_TENSORFLOW, EVERY.values()),
        *(("gather", text) for text in READY),
        # Made of the operations above.
        *(pytest.param(method, text, marks=pytest.mark.slow) for method in OF_TENSORFLOW[1:] for text in READY),
    ],
)
def test_each_changes_images_stays_in_range_and_compiles_with_xla(text, method):
    if method != "gather" and "affine" not in policies.POLICIES.get(text, text):
        pytest.skip("no resampling in it")
    layer = policy.Augment(text, method=method, dtype="float32")
    found = np.asarray(layer(IMAGES, SEEDS, training=True))
    assert found.shape == IMAGES.shape
    assert 0 <= found.min() <= found.max() <= 1
    assert np.abs(found - UNIT).max() > 0.02
    if method == "kernel":
        return  # XLA has it only from TensorFlow 2.21 on
    compiled = tf.function(lambda x, s: layer(x, s, training=True), jit_compile=True)
    again = np.asarray(compiled(tf.constant(IMAGES), tf.constant(SEEDS)))
    # A pixel on the edge of a hole or stroke may fall on its other side.
    assert np.quantile(np.abs(again - found), 0.995) < 1e-4


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"flip", "quarter_turn"}))
def test_with_probability_zero_nothing_changes(name):
    text = EVERY[name].removesuffix(")").replace("p=1.0", "").rstrip(", ") + ", p=0.0)"
    found = augmented(IMAGES, SEEDS, text=text.replace("(, ", "("))
    np.testing.assert_allclose(found, UNIT, atol=2e-6)


def test_probabilities_are_what_they_say():
    seeds = np.arange(4000, dtype=np.uint32)
    for op, covered in (
        (operations.Cutout(p=0.3), lambda drawn: np.asarray(drawn[0][2]) > 0),
        (operations.Microscope(p=0.3), lambda drawn: np.asarray(drawn) < 1),
        (operations.Hair(3, p=0.3), lambda drawn: np.asarray(drawn[0][5]) > 0),
    ):
        share = covered(op.draw(random.Stream(seeds))).mean()
        assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)


@pytest.mark.integration
def test_flips_turns_and_an_affine_map_are_one_resampling():
    """The composition against one after the other; the tolerance is the loss of a second resampling."""
    smooth = np.asarray(tf.image.resize(tf.random.stateless_uniform([8, 6, 6, 3], [0, 1]), [64, 64], "bicubic"))
    images = (np.clip(smooth, 0, 1) * 255).astype(np.uint8)
    text = "flip|affine(rotate=30, shift=0.1, p=0.7)|quarter_turn"
    for method in OF_TENSORFLOW:
        layer = policy.Augment(text, method=method, dtype="float32")
        step_by_step = images
        for (op,), (drawn,) in (
            ([op], [d]) for run, draws in layer._runs(SEEDS) for op, d in zip(run, draws, strict=True)
        ):
            if isinstance(op, operations.AffineOp):
                step_by_step = affine.affine(step_by_step, op.matrix(drawn, 64, 64), method=method)
            else:
                step_by_step = op.apply(step_by_step, drawn)
        found = np.asarray(layer(images, SEEDS, training=True))
        difference = np.abs(found - np.clip(np.asarray(step_by_step) / 255, 0, 1))
        assert difference[:, 10:54, 10:54].max() < 0.02  # not the corners, which "matmul" mirrors once more


def test_beta_draws_are_those_of_scipy():
    numbers = random.uniform(np.arange(5000, dtype=np.uint32), 0)
    for alpha in (0.2, 1.0, 4.0):
        found = np.asarray(random.beta(numbers, alpha))
        assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("text", ["mixup(0.4)", "cutmix(p=1.0)", "mixup(0.4)|flip|cutmix"])
def test_labels_are_mixed_as_the_images_are(text):
    """Images that are their own label: 0 black, 1 white. Then the mean of each image is its label."""
    targets = np.array([0, 1, 1, 0, 1, 0, 0, 1], np.float32)
    images = (np.ones((8, 40, 40, 3)) * targets[:, None, None, None] * 255).astype(np.uint8)
    layer = policy.Augment(text, dtype="float32")
    assert layer.mixes
    mixed = np.asarray(layer.labels(targets, SEEDS, 40, 40))
    means = np.asarray(layer(images, SEEDS, training=True)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, mixed, atol=1e-5)
    assert not np.allclose(mixed, targets)
    metadata = np.stack([targets, 1 - targets, 30 * targets], axis=1)
    expected = np.stack([mixed, 1 - mixed, 30 * mixed], axis=1)
    np.testing.assert_allclose(layer.labels(metadata, SEEDS, 40, 40), expected, atol=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize(
    "text",
    [
        "affine(rotate=180, zoom=0.5)",
        "affine(shift=0.5)",
        "affine(rotate=180, shear=20, zoom=0.3, shift=0.1)",
        "affine(rotate=180, zoom=0.1)|flip|affine(shift=0.2)",
    ],
)
def test_matmul_agrees_with_the_kernel(text):
    """Also far beyond the edges, for which the columns are extended."""
    smooth = np.asarray(tf.image.resize(tf.random.stateless_uniform([8, 6, 6, 3], [0, 1]), [64, 64], "bicubic"))
    images = (np.clip(smooth, 0, 1) * 255).astype(np.uint8)
    layers = [policy.Augment(text, way, dtype="float32") for way in ("kernel", "matmul")]
    by_kernel, by_products = (np.asarray(layer(images, SEEDS, training=True)) for layer in layers)
    assert np.abs(by_kernel - by_products).max() < 0.03


@pytest.mark.integration
@pytest.mark.parametrize(
    "methods", [("gather",), pytest.param(("gather", "matmul", "shears"), marks=pytest.mark.slow)], ids=len
)
def test_the_other_backend_compiles_them_to_the_same_images(tmp_path, methods):
    code = (
        "import sys, jax, numpy as np; from melanoma_tf.augment import policy; d = np.load(sys.argv[1]); "
        "make = lambda t, m: policy.Augment(t, method=m, dtype='float32'); "
        "run = lambda layer: jax.jit(lambda x, s: layer(x, s, training=True))(d['images'], d['seeds']); "
        "every = [(t, m) for t in sys.argv[4:] for m in sys.argv[3].split()]; "
        "np.savez(sys.argv[2], **{f'{t}-{m}': run(make(t, m)) for t, m in every})"
    )
    np.savez(tmp_path / "in.npz", images=IMAGES, seeds=SEEDS)
    args = [
        str(tmp_path / "in.npz"),
        str(tmp_path / "out.npz"),
        " ".join(methods),
        *READY,
        "mixup|cutmix|grey_world|gamma|microscope",
    ]
    done = run_command("-c", code, *args, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    for key, theirs in np.load(tmp_path / "out.npz").items():
        text, method = key.rsplit("-", 1)
        if method == "shears":  # JAX only; test_geometry.py checks their values
            assert theirs.min() >= 0
            assert theirs.max() <= 1
            assert theirs.std() > 0.05
            continue
        ours = np.asarray(policy.Augment(text, method=method, dtype="float32")(IMAGES, SEEDS, training=True))
        assert np.quantile(np.abs(ours - theirs), 0.995) < 1e-4, key


def test_a_crop_is_a_square_within_the_image_enlarged_to_all_of_it():
    side, count = 64, 200
    ramp = np.arange(side, dtype=np.uint8) * 4
    image = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.zeros((side, side))], axis=-1)
    images = np.repeat(image[None].astype(np.uint8), count, axis=0)
    layer = policy.Augment("crop(0.5)", dtype="float32")
    found = np.asarray(layer(images, np.arange(count, dtype=np.uint32), training=True)) * 255 / 4
    inner = slice(4, -4)  # away from the edges, whose pixels are interpolated with nothing
    x, y = found[:, inner, inner, 0], found[:, inner, inner, 1]
    slopes = np.stack([np.diff(x, axis=2).mean(axis=(1, 2)), np.diff(y, axis=1).mean(axis=(1, 2))])
    np.testing.assert_allclose(slopes[0], slopes[1], atol=0.02)  # a square
    assert slopes.min() > 0.49
    assert 0.98 < slopes.max() < 1.01
    assert slopes.mean() == pytest.approx(0.75, abs=0.03)
    # The whole square: positions from half a pixel before the first to half a pixel after the last lie in the image.
    center = np.stack([x.mean(axis=(1, 2)), y.mean(axis=(1, 2))])
    half = slopes * side / 2
    assert (center - half).min() > -0.6
    assert (center + half).max() < side - 0.4
    assert np.abs(np.corrcoef(center)[0, 1]) < 0.2
