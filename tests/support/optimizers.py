"""Steps of the optimizers that configs build, on either backend, and the same steps by hand in NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from melanoma_tf.core import keras_compat
from melanoma_tf.training import optimizers
from tests.support import tiny

# Depth of the layers of `network`, counted from the head.
DEPTHS = {"stem_conv": 3, "block1a_conv": 2, "between": 1, "block2a_conv": 1, "top_conv": 0, "logit": 0}
CASES: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "ema": 0.5},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "layer_decay": 0.7},
    "radam": {"optimizer": "radam", "weight_decay": 0.1},
    "ranger": {"optimizer": "radam", "weight_decay": 0.1, "lookahead": 3, "layer_decay": 0.7, "ema": 0.5},
    "accumulated": {"optimizer": "adamw", "weight_decay": 0.1, "lookahead": 3, "ema": 0.5, "accumulate_steps": 2},
}
STEPS, BAD = 20, (0, 5, 12)  # steps whose gradients hold a NaN


def network() -> keras.Model:
    """A chain of layers named as those of an EfficientNet, whose weights are the same each time."""
    x = inputs = keras.Input((2,))
    for name in DEPTHS:
        x = keras.layers.Dense(2, name=name)(x)
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    return model


def gradients(model: keras.Model) -> list[list[np.ndarray]]:
    """Gradients of STEPS steps, one list of arrays a step; small ones too, where epsilon counts."""
    rng = np.random.default_rng(2)
    steps = [[rng.normal(size=w.shape).astype("float32") for w in model.get_weights()] for _ in range(STEPS)]
    for step in steps:
        step[0] *= 1e-6
    for bad in BAD:
        steps[bad][3][0] = np.nan
    return steps


def config(**changes: Any) -> Any:
    """A constant learning rate of 0.01, without warm-up."""
    return tiny.config(lr=0.01, final_lr_fraction=1.0, **changes)


def trajectory(changes: dict[str, Any]) -> dict[str, Any]:
    """The weights of `network` after each step of an optimizer, and the moving averages at the end if it has any."""
    model = network()
    c = config(**changes)
    c.warmup_epochs = 0.0
    optimizer = optimizers.build_optimizer(c, STEPS, classifier=model)
    optimizer.build(model.trainable_variables)
    apply = _apply_with_jax if keras.backend.backend() == "jax" else _apply_with_tensorflow
    found: list[Any] = []
    apply(optimizer, model, gradients(model), lambda: found.append([w.tolist() for w in model.get_weights()]))
    result: dict[str, Any] = {"weights": found}
    if c.ema:
        averages = keras_compat.moving_averages(optimizer.inner_optimizer)
        result["averages"] = [keras.ops.convert_to_numpy(averages[v.path]).tolist() for v in model.trainable_variables]
    return result


def _apply_with_tensorflow(optimizer: Any, model: keras.Model, steps: Any, after: Any) -> None:
    import tensorflow as tf

    # Gradients are those of the scaled loss.
    apply = tf.function(lambda *step: optimizer.apply([*map(optimizer.scale_loss, step)], model.trainable_variables))
    for step in steps:
        apply(*map(tf.constant, step))
        after()


def _apply_with_jax(optimizer: Any, model: keras.Model, steps: Any, after: Any) -> None:
    import jax

    apply = jax.jit(optimizer.stateless_apply)
    variables = model.trainable_variables
    for step in steps:
        scaled = [optimizer.scale_loss(gradient) for gradient in step]
        weights, state = apply([v.value for v in optimizer.variables], scaled, [v.value for v in variables])
        for variable, value in zip([*variables, *optimizer.variables], [*weights, *state], strict=True):
            variable.assign(value)
        after()


def by_hand(changes: dict[str, Any]) -> dict[str, Any]:
    """The same in float64: Kingma & Ba 2015, Loshchilov & Hutter 2019, Liu et al. 2020 and Zhang et al. 2019."""
    model, c = network(), config(**changes)
    steps = [step for i, step in enumerate(gradients(model)) if i not in BAD]
    k = c.accumulate_steps
    chunks = [steps[i : i + k] for i in range(0, len(steps) + 1 - k, k)]
    updates = [[np.mean(each, axis=0) for each in zip(*chunk, strict=True)] for chunk in chunks]
    columns = [
        _one_by_hand(c, variable, value.astype(float), [update[i] for update in updates])
        for i, (variable, value) in enumerate(zip(model.weights, model.get_weights(), strict=True))
    ]
    after_updates = [[column[0][i] for column in columns] for i in range(len(updates) + 1)]
    good = np.cumsum([i not in BAD for i in range(STEPS)])
    result = {"weights": [after_updates[i // k] for i in good]}
    return result | ({"averages": [column[1] for column in columns]} if c.ema else {})


def _one_by_hand(c: Any, variable: Any, weight: np.ndarray, updates: list[np.ndarray]) -> tuple[list[Any], Any]:
    """A variable before and after each update, and its average at the end."""
    rate = c.lr * c.layer_decay ** DEPTHS[variable.path.split("/")[0]]
    decay = c.weight_decay if c.optimizer != "adam" and variable.name == "kernel" else 0.0
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    slow, average, all_weights = weight, None, [weight]
    for t, gradient in enumerate(updates, 1):
        gradient = gradient.astype(float)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean = first / (1 - 0.9**t)
        if c.optimizer == "radam":
            longest = 2 / 0.001 - 1
            length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
            if length >= 5:
                ratio = (length - 4) / (longest - 4) * (length - 2) / (longest - 2) * longest / length
                mean = np.sqrt(ratio) * mean / (np.sqrt(second / (1 - 0.999**t)) + 1e-7)
        else:  # Keras adds epsilon before the correction of the second moment
            mean = mean * np.sqrt(1 - 0.999**t) / (np.sqrt(second) + 1e-7)
        weight = weight - rate * mean - rate * decay * weight
        if c.lookahead and t % c.lookahead == 0:
            weight = slow = slow + 0.5 * (weight - slow)
        average = weight if average is None else c.ema * average + (1 - c.ema) * weight
        all_weights.append(weight)
    return all_weights, average


def assert_by_hand(found: dict[str, Any], name: str) -> None:
    """Compares a trajectory with that by hand."""
    expected = by_hand(CASES[name])
    assert found.keys() == expected.keys()
    for key, steps in expected.items():
        for i, (step, other) in enumerate(zip(found[key], steps, strict=True)):
            for value, target in zip(step, other, strict=True) if key == "weights" else [(step, other)]:
                np.testing.assert_allclose(value, target, atol=3e-6, err_msg=f"{name}, {key}, {i}")
