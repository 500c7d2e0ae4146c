"""Devices: what was asked for or an error that says what was looked for; never another device in silence."""

from __future__ import annotations

import pytest

from melanoma_tf import runtime
from tests.conftest import run_command

# This machine may have an accelerator; these tests are about those that have none.
NO_ACCELERATOR = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "TPU_NAME": "", "COLAB_TPU_ADDR": ""}


def test_tpu_without_a_tpu_says_what_it_looked_for_and_what_to_install():
    done = run_command("-m", "melanoma_tf.train", "--strategy", "tpu", KERAS_BACKEND="", **NO_ACCELERATOR)
    assert done.returncode == 1
    assert "error: no TPU: looked for one through" in done.stderr
    assert "tensorflow: TensorFlow 2." in done.stderr
    assert "jax: JAX" in done.stderr
    assert "pip install 'melanoma-tf[tpu]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_gpu_without_a_gpu_is_an_error(backend):
    code = "from melanoma_tf import runtime; runtime.start('gpu')"
    done = run_command("-c", code, **{**NO_ACCELERATOR, "KERAS_BACKEND": backend})
    assert done.returncode == 1
    assert "DeviceNotFound: no GPU: " in done.stderr
    assert "--strategy cpu" in done.stderr


def test_auto_falls_back_to_the_cpu_and_says_so():
    code = "from melanoma_tf import runtime; r = runtime.start('auto'); print(r.describe(8, r.precision()))"
    done = run_command("-c", code, **{**NO_ACCELERATOR, "KERAS_BACKEND": "tensorflow"})
    assert "tensorflow on 1 x cpu (CPU:0), global batch 8 = 1 x 8, float32" in done.stdout
    assert "--strategy auto fell back to the CPU (no TPU; no GPU)" in done.stdout


def test_two_jax_devices_share_a_batch_also_after_models_are_forgotten():
    code = (
        "from melanoma_tf import runtime; r = runtime.start('cpu'); import keras; "
        "keras.config.set_dtype_policy('mixed_bfloat16'); "
        "say = lambda: print(type(keras.distribution.distribution()).__name__, keras.config.dtype_policy().name); "
        "print(r.replicas, r.backend); say(); r.forget_models(); say()"
    )
    flags = "--xla_force_host_platform_device_count=2"
    done = run_command("-c", code, **{**NO_ACCELERATOR, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags})
    assert done.stdout.split() == ["2", "jax", *["DataParallel", "mixed_bfloat16"] * 2], done.stderr[-1000:]


def test_an_unknown_strategy_or_backend_says_what_there_is(monkeypatch):
    with pytest.raises(ValueError, match="--strategy 'tpus' is unknown; there is: auto, cpu, gpu, mirrored, tpu"):
        runtime.start("tpus")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ValueError, match="KERAS_BACKEND='torch' is not supported here; there is: tensorflow, jax"):
        runtime.start("cpu")


def test_a_backend_that_is_loaded_is_not_exchanged(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(RuntimeError, match="Keras is already loaded with tensorflow; start a new process for jax"):
        runtime.start("cpu")


@pytest.mark.parametrize(("kind", "asked", "expected"), [("cpu", "auto", "float32"), ("tpu", "auto", "mixed_bfloat16")])
def test_precision_follows_the_device(kind, asked, expected):
    assert runtime.Runtime("tensorflow", kind, ("x",), "test").precision(asked) == expected
    assert runtime.Runtime("tensorflow", kind, ("x",), "test").precision("mixed_float16") == "mixed_float16"
