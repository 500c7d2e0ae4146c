"""Optimizers against the same steps by hand, and accumulated gradients against larger batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from melanoma_tf import addons
from melanoma_tf.core import keras_compat
from melanoma_tf.training import callbacks, optimizers
from tests.support import optimizers as by_hand
from tests.support import tiny

ADDED = {"lookahead": 2, "layer_decay": 0.5, "ema": 0.5}


@pytest.mark.integration
@pytest.mark.parametrize("name", by_hand.CASES)
def test_steps_are_those_by_hand(name):
    """With steps between that are not finite, which change nothing."""
    by_hand.assert_by_hand(by_hand.trajectory(by_hand.CASES[name]), name)


@pytest.mark.parametrize(
    ("name", "expected"), [("adam", keras.optimizers.Adam), ("adamw", keras.optimizers.AdamW), ("radam", None)]
)
def test_without_additions_it_is_the_plain_optimizer(name, expected):
    built = optimizers.build_optimizer(tiny.config(optimizer=name), 10, classifier=by_hand.network())
    assert type(built.inner_optimizer) is (expected or optimizers.RectifiedAdam)
    assert built.inner_optimizer.gradient_accumulation_steps is None


def test_rates_fall_from_the_head_to_the_stem():
    rates = optimizers.layer_rates(by_hand.network(), 0.5)
    assert rates.keys() == {f"{name}/{weight}" for name in by_hand.DEPTHS for weight in ("kernel", "bias")}
    for path, rate in rates.items():
        assert rate == 0.5 ** by_hand.DEPTHS[path.split("/")[0]]


def test_slow_weights_start_at_weights_that_were_loaded_after_the_optimizer_was_built():
    variable = keras.Variable([5.0])
    lookahead = addons.Lookahead(keras.optimizers.SGD(1.0), sync_period=2, slow_step_size=0.25)
    lookahead.build([variable])
    variable.assign([1.0])
    for _ in range(2):
        lookahead.apply([keras.ops.ones(1)], [variable])
    np.testing.assert_allclose(variable.numpy(), [1.0 + 0.25 * (-1.0 - 1.0)])


def test_all_additions_are_rebuilt_from_their_config():
    built = optimizers.build_optimizer(tiny.config(optimizer="radam", **ADDED), 10, classifier=by_hand.network())
    settings = built.inner_optimizer.get_config()
    assert (settings["sync_period"], settings["slow_step_size"], settings["sma_threshold"]) == (2, 0.5, 5.0)
    assert type(built.inner_optimizer).from_config(dict(settings)).get_config() == settings


def trained(batch_size: int, updates: int, **changes):
    """The weights and averages of a small network after some updates of 12 images each, and its optimizer."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12 * updates, 2)).astype("float32")
    model = by_hand.network()
    config = by_hand.config(ema=0.8, batch_size=batch_size, **changes)
    config.epochs = 1
    config.warmup_epochs = 0.5
    config.final_lr_fraction = 0.0
    model.compile(optimizers.build_optimizer(config, len(x) // batch_size, classifier=model), "mse", run_eagerly=True)
    for start in range(0, len(x), batch_size):
        model.train_on_batch(x[start : start + batch_size], y[start : start + batch_size])
    averages = keras_compat.moving_averages(model.optimizer.inner_optimizer)
    return model.get_weights(), [averages[v.path].numpy() for v in model.trainable_variables], model.optimizer


@pytest.mark.integration
def test_accumulated_batches_are_one_larger_batch():
    changes = {"optimizer": "adamw", "weight_decay": 0.1, "lookahead": 2, "layer_decay": 0.8}
    large, accumulated = trained(12, 5, **changes), trained(4, 5, accumulate_steps=3, **changes)
    for part in (0, 1):
        for found, expected in zip(accumulated[part], large[part], strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-6)
    assert [int(run[2].iterations) for run in (large, accumulated)] == [5, 5]
    assert [callbacks.steps_taken(run[2]) for run in (large, accumulated)] == [5, 15]
    start = by_hand.network().get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(start, large[0], strict=True)) > 0.01


def test_the_schedule_counts_updates():
    """Two epochs of 10 batches, 4 an update: five updates, of which round(0.5 * 10 / 4) are warm-up."""
    config = by_hand.config(accumulate_steps=4)
    config.final_lr_fraction = 0.0
    rate = optimizers.learning_rate(config, 10)
    np.testing.assert_allclose(rate(0), 0.0, atol=1e-9)
    cosines = 0.5 * (1 + np.cos(np.pi * np.arange(5) / (5 - 1)))
    np.testing.assert_allclose([rate(update) for update in range(1, 6)], 0.01 * cosines, atol=1e-8)
    built = optimizers.build_optimizer(config, 10).inner_optimizer
    for batch in range(20):
        np.testing.assert_allclose(built.learning_rate, rate(batch // 4), atol=1e-9)
        keras_compat.batches(built).assign(batch + 1)


def test_impossible_settings_are_reported():
    with pytest.raises(ValueError, match=r"config.accumulate_steps=21 is more than the run has batches, 10 an epoch"):
        optimizers.build_optimizer(tiny.config(accumulate_steps=21), 10)
    with pytest.raises(ValueError, match="unknown config.optimizer='sgd'; expected one of: adam, adamw, radam"):
        optimizers.build_optimizer(tiny.config(optimizer="sgd"), 10)
