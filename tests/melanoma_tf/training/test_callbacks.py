"""Callbacks under a backend that this process does not run on."""

from __future__ import annotations

import types

import keras
import pytest

from melanoma_tf.training import callbacks


def test_under_jax_the_variables_are_synchronized_by_a_method_that_keras_has(monkeypatch):
    pytest.importorskip("jax")
    from keras.src.backend.jax import trainer

    synchronized = []
    stub = types.SimpleNamespace(jax_state_sync=lambda: synchronized.append(True))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    callbacks.sync_variables(stub)
    assert synchronized == [True]
    assert callable(trainer.JAXTrainer.jax_state_sync), f"Keras {keras.__version__} has renamed jax_state_sync"
