"""Private Keras API that the package relies on; a failure names the Keras that broke it."""

from __future__ import annotations

import contextlib

import keras
import numpy as np

from melanoma_tf.core import keras_compat


@contextlib.contextmanager
def relies_on(private: str):
    try:
        yield
    except Exception as error:
        raise AssertionError(f"Keras {keras.__version__} changed {private}; adapt core/keras_compat.py") from error


def compiled_model(**options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1, **options), "mse", jit_compile=False)
    return model


def test_weights_files_of_v1_have_urls_and_checksums():
    with relies_on("keras.src.applications.efficientnet"):
        found = keras_compat.efficientnet_weights()
        assert found.base_url.startswith("https://")
        assert {f"b{i}" for i in range(8)} <= set(found.hashes)
        assert all(len(md5) == 32 for pair in found.hashes.values() for md5 in pair)


def test_weights_files_of_v2_have_urls_and_checksums():
    with relies_on("keras.src.applications.efficientnet_v2"):
        found = keras_compat.efficientnet_v2_weights()
        assert found.base_url.startswith("https://")
        assert {key.removeprefix("-") for key in found.hashes} == {"b0", "b1", "b2", "b3", "s", "m", "l"}
        assert all(len(md5) == 32 for pair in found.hashes.values() for md5 in pair)


def test_a_symbolic_tensor_knows_the_layer_that_makes_it():
    with relies_on("KerasTensor._keras_history"):
        layer = keras.layers.Dense(2)
        assert keras_compat.producer(layer(keras.Input((3,)))) is layer
    assert keras_compat.producer(np.zeros(3)) is None


def test_a_step_is_built_without_being_run():
    with relies_on("Model._symbolic_build"):
        model = compiled_model()
        before = model.get_weights()
        keras_compat.build_step(model, (np.ones((2, 3), np.float32), np.ones((2, 1), np.float32)))
        assert model.optimizer.built
        assert model.metrics_variables
        for found, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_moving_averages_are_those_of_each_trained_variable():
    with relies_on("Optimizer._trainable_variables or ._model_variables_moving_average"):
        model = compiled_model(use_ema=True, ema_momentum=0.5)
        before = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
        model.train_on_batch(np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))
        averages = keras_compat.moving_averages(model.optimizer)
        assert averages.keys() == before.keys()
        # Keras starts each average at the first new weights (Keras >= 3.11), or at zero.
        assert all(np.shape(averages[path]) == value.shape for path, value in before.items())


def test_batches_are_counted_where_updates_are_fewer():
    with relies_on("Optimizer._iterations"):
        model = compiled_model(gradient_accumulation_steps=2)
        for _ in range(3):
            model.train_on_batch(np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))
        assert (int(keras_compat.batches(model.optimizer)), int(model.optimizer.iterations)) == (3, 1)


def test_excluded_variables_are_not_decayed():
    with relies_on("Optimizer._use_weight_decay or ._apply_weight_decay, which additions of optimizers replace"):
        optimizer = keras.optimizers.AdamW(0.1)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        variables = [keras.Variable([1.0], name=name) for name in ("kernel", "bias")]
        assert [keras_compat.is_decayed(optimizer, each) for each in variables] == [True, False]
        assert callable(optimizer._apply_weight_decay)
        assert callable(optimizer._update_model_variables_moving_average)
