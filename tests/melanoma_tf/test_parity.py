"""Our losses, warps, cutout and optimizers against the last release of tensorflow-addons, on fresh random inputs.

tensorflow-addons needs TensorFlow 2.15 and Python 3.11: `make parity` makes it an environment of its own.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from melanoma_tf import addons
from melanoma_tf.training import optimizers
from tests.support import reference, tiny


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng()  # fresh inputs each time
    near_identity = np.array([1, 0, 0, 0, 1, 0, 0, 0]) + rng.uniform(-1, 1, (6, 8)) * [0.5, 0.5, 6, 0.5, 0.5, 6, 0, 0]
    return {
        "logits": rng.normal(0, 4, 200).astype(np.float32),
        "labels": rng.integers(0, 2, 200).astype(np.float32),
        "images": rng.uniform(0, 255, (6, 20, 27, 3)).astype(np.float32),
        "transforms": near_identity.astype(np.float32),
        "angles": rng.uniform(-4, 4, 6).astype(np.float32),
        "offsets": rng.integers(0, 20, (6, 2)).astype(np.int32),
        "many": np.int32(2000),
        "start": rng.normal(size=(5, 7)).astype(np.float32),
        "gradients": rng.normal(size=(20, 5, 7)).astype(np.float32),
        "lr": np.float32(0.01),
        "weight_decay": np.float32(0.002),
        "decay": np.float32(0.9),
    }


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory):
    return reference.results(".venv-addons", "parity_reference.py", given, tmp_path_factory.mktemp("parity"))


def test_focal_loss(given, theirs):
    loss = addons.SigmoidFocalCrossEntropy(from_logits=True)
    ours = np.asarray(loss(given["labels"][:, None], given["logits"][:, None]))
    # Theirs goes through sigmoid, which rounds probabilities near 1.
    np.testing.assert_allclose(ours, theirs["focal"].ravel(), rtol=1e-4, atol=1e-7)


def test_focal_loss_is_rebuilt_from_its_config():
    loss = addons.SigmoidFocalCrossEntropy(from_logits=True, gamma=1.5)
    again = addons.SigmoidFocalCrossEntropy.from_config(loss.get_config())
    assert again.get_config() == loss.get_config()


# In float32 a place is known to 2e-6 pixels, which is 5e-4 of neighbors that differ by 255.
@pytest.mark.parametrize("fill", ["constant", "nearest", "reflect"])
def test_transform_and_rotate(given, theirs, fill):
    for name, argument in (("transform", "transforms"), ("rotate", "angles")):
        ours = getattr(addons, name)(given["images"], given[argument], fill_mode=fill, fill_value=9.0)
        np.testing.assert_allclose(ours, theirs[f"{name} {fill}"], atol=1e-2)


def test_cutout(given, theirs):
    ours = addons.cutout(given["images"], 8, given["offsets"], constant_values=3.0)
    np.testing.assert_array_equal(ours, theirs["cutout"])


def test_random_cutout(given, theirs):
    count = int(given["many"])
    seeds = np.random.default_rng().integers(0, 2**32, count, dtype=np.uint32)
    found = np.asarray(addons.random_cutout(np.ones((count, 20, 20, 1), np.float32), 8, seeds))
    covered = [np.asarray(images)[..., 0] == 0 for images in (found, theirs["random cutout"])]
    for masks in covered:
        assert set(masks.sum(axis=(1, 2))) == {64}
    often, expected = (masks.mean(axis=0) for masks in covered)
    assert np.abs(often - expected).max() < 6 * np.sqrt(2 * 0.25 / count)
    np.testing.assert_array_equal(often > 0, expected > 0)


@pytest.mark.parametrize("name", ["adamw", "radam", "lookahead", "lookahead of adam"])
def test_optimizers(given, theirs, name):
    rate, decay = float(given["lr"]), float(given["weight_decay"])
    ours = {
        # tensorflow-addons' AdamW subtracts weight_decay of the weight itself, Keras learning rate times weight_decay.
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=decay / rate),
        "radam": lambda: addons.RectifiedAdam(rate, weight_decay=decay),
        "lookahead": lambda: addons.Lookahead(addons.RectifiedAdam(rate, weight_decay=decay)),
        "lookahead of adam": lambda: addons.Lookahead(keras.optimizers.Adam(rate), 4, 0.3),
    }[name]()
    variable = keras.Variable(given["start"])
    ours.build([variable])
    for gradient, expected in zip(given["gradients"], theirs[name], strict=True):
        ours.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        np.testing.assert_allclose(variable.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(("name", "found"), [("adamw", keras.optimizers.AdamW), ("radam", addons.RectifiedAdam)])
def test_the_optimizers_that_configs_build_are_those(name, found):
    built = optimizers.build_optimizer(tiny.config(optimizer=name, weight_decay=0.2), 10)
    assert type(built.inner_optimizer) is found


def test_moving_average(given, theirs):
    variable = keras.Variable(given["start"])
    ours = keras.optimizers.Adam(float(given["lr"]), use_ema=True, ema_momentum=float(given["decay"]))
    ours.build([variable])
    steps = []
    for gradient in given["gradients"]:
        ours.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        steps.append(variable.numpy())
    ours.finalize_variable_values([variable])
    # Keras' average begins with the weights after the first step, theirs with those before it.
    head_start = given["decay"] ** len(steps) * (steps[0] - given["start"])
    np.testing.assert_allclose(variable.numpy() - head_start, theirs["moving average"], atol=2e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: addons.SigmoidFocalCrossEntropy(), "from_logits=False is not supported"),
        (
            lambda: addons.rotate(np.zeros((1, 4, 4, 3)), 1.0, "nearest"),
            "unsupported interpolation 'nearest'; expected: bilinear",
        ),
        (lambda: addons.transform(np.zeros((1, 4, 4, 3)), np.zeros(8), "nearest"), "expected: bilinear"),
        (lambda: addons.cutout(np.zeros((1, 4, 4, 3)), 3), "unsupported mask_size 3; expected one even number"),
    ],
)
def test_unsupported_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
