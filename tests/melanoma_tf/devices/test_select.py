"""Devices: what was asked for or an error that says what was looked for; never another device in silence."""

from __future__ import annotations

import urllib.error

import pytest
import tensorflow as tf

from melanoma_tf.devices import profile, select
from tests.support.process import run_command

# This machine may have an accelerator; these tests are about those that have none.
NO_ACCELERATOR = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "TPU_NAME": "", "COLAB_TPU_ADDR": ""}


@pytest.mark.integration
def test_tpu_without_a_tpu_says_what_it_looked_for_and_what_to_install(shards, tmp_path):
    args = ["--config", "smoke", "--data", str(shards), "--workdir", str(tmp_path / "run"), "--strategy", "tpu"]
    done = run_command("-m", "melanoma_tf.train", *args, KERAS_BACKEND="", **NO_ACCELERATOR)
    assert done.returncode == 1
    assert "error: no TPU: looked for one through" in done.stderr
    assert "tensorflow: TensorFlow 2." in done.stderr
    assert "jax: JAX" in done.stderr
    assert "pip install 'melanoma-tf[tpu]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "cuInit" not in done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_gpu_without_a_gpu_is_an_error(backend):
    code = "from melanoma_tf.devices import select; select.start('gpu')"
    done = run_command("-c", code, **{**NO_ACCELERATOR, "KERAS_BACKEND": backend})
    assert done.returncode == 1
    assert "DeviceNotFoundError: no GPU: " in done.stderr
    assert "--strategy cpu" in done.stderr


@pytest.mark.integration
def test_auto_falls_back_to_the_cpu_and_says_so():
    code = "from melanoma_tf.devices import select; r = select.start('auto'); print(r.describe(8, r.precision()))"
    done = run_command("-c", code, **{**NO_ACCELERATOR, "KERAS_BACKEND": "tensorflow"})
    assert "tensorflow on 1 x cpu (CPU:0), global batch 8 = 1 x 8, float32" in done.stdout
    assert "--strategy auto fell back to the CPU (no TPU; no GPU)" in done.stdout


@pytest.mark.integration
def test_two_jax_devices_share_a_batch_also_after_models_are_forgotten():
    code = (
        "from melanoma_tf.devices import select; r = select.start('cpu'); import keras; "
        "keras.config.set_dtype_policy('mixed_bfloat16'); "
        "say = lambda: print(type(keras.distribution.distribution()).__name__, keras.config.dtype_policy().name); "
        "print(r.replicas, r.backend); say(); r.forget_models(); say()"
    )
    flags = "--xla_force_host_platform_device_count=2"
    done = run_command("-c", code, **{**NO_ACCELERATOR, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags})
    assert done.stdout.split() == ["2", "jax", *["DataParallel", "mixed_bfloat16"] * 2], done.stderr[-1000:]


@pytest.mark.integration
def test_hosts_that_do_not_come_are_one_message():
    code = (
        "from melanoma_tf.devices import multihost, select; multihost.ARRIVAL_SECONDS = 3; "
        "select.start('multihost', 'auto', None, 'localhost:1', 2, 1)"
    )
    done = run_command("-c", code, **NO_ACCELERATOR, KERAS_BACKEND="")
    assert done.returncode == 1
    given = "given --coordinator localhost:1, --num_processes 2, --process_id 1"
    assert f"multihost: waiting for the other processes, {given}" in done.stdout
    assert f"error: no other hosts: JAX, {given}, found none (waited 3 s)" in done.stderr


def test_one_host_of_a_tpu_with_several_is_refused(monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(jax, "devices", lambda kind: ["TPU"] * 16)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(
        RuntimeError, match="one of 2 hosts of a TPU: start melanoma_tf.train on each, with --strategy m"
    ):
        select.start("tpu", "jax")


def test_gpus_that_jax_alone_sees_are_used(monkeypatch):
    """With everything replaced that would need them; the backend of this process is not."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: name == "jax_cuda12_plugin")
    monkeypatch.setattr(select, "_jax_gpus", lambda every, why: select.Runtime("jax", "gpu", ("gpu:0",), why))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    assert select.start("gpu").why == "asked for with --strategy gpu, TensorFlow sees none"
    monkeypatch.delenv("KERAS_BACKEND")  # which TensorFlow has been tried with
    assert select.start("auto").backend == "jax"
    with pytest.raises(select.DeviceNotFoundError, match="no GPU: TensorFlow"):
        select.start("gpu", "tensorflow")

    def none(every, why):
        raise select.DeviceNotFoundError("no GPU: JAX sees none")

    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(select, "_jax_gpus", none)
    with pytest.raises(select.DeviceNotFoundError, match=r"no GPU: TensorFlow(.|\n)*no GPU: JAX"):
        select.start("gpu")


def test_an_unknown_strategy_or_backend_says_what_there_is(monkeypatch):
    with pytest.raises(
        ValueError, match="unknown --strategy 'tpus'; expected one of: auto, cpu, gpu, mirrored, multihost, tpu"
    ):
        select.start("tpus")
    with pytest.raises(ValueError, match="unknown --backend 'torch'; expected one of: auto, tensorflow, jax"):
        select.start("cpu", "torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ValueError, match="unsupported KERAS_BACKEND='torch'; expected one of: tensorflow, jax"):
        select.start("cpu")


def test_a_backend_that_is_loaded_is_not_exchanged(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(RuntimeError, match="Keras is already loaded with tensorflow; start a new process for jax"):
        select.start("cpu")


@pytest.mark.parametrize(("kind", "asked", "expected"), [("cpu", "auto", "float32"), ("tpu", "auto", "mixed_bfloat16")])
def test_precision_follows_the_device(kind, asked, expected):
    assert select.Runtime("tensorflow", kind, ("x",), "test").precision(asked) == expected
    assert select.Runtime("tensorflow", kind, ("x",), "test").precision("mixed_float16") == "mixed_float16"


@pytest.fixture
def tpus(monkeypatch):
    """TensorFlow's way to a TPU with everything behind the resolver replaced: two of this machine's CPUs stand for it.

    Returns (names that there is a TPU under, names that were asked for).
    """
    there: set[str] = set()
    asked: list[str] = []

    def resolve(tpu):
        asked.append(tpu)
        if tpu not in there:
            raise urllib.error.URLError(f"no cluster {tpu!r}")
        return tpu

    for variable in ("TPU_NAME", "COLAB_TPU_ADDR", "KERAS_BACKEND"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolve)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: None)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda resolver: None)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: tf.distribute.OneDeviceStrategy("/CPU:0"))
    return there, asked


def local_tpu(monkeypatch):
    real = tf.config.list_physical_devices
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: ["TPU:0"] if kind == "TPU" else real(kind)
    )


def test_a_local_tpu_comes_first_then_that_of_the_environment(monkeypatch, tpus):
    there, asked = tpus
    there |= {"local", "node-1"}
    local_tpu(monkeypatch)
    monkeypatch.setenv("TPU_NAME", "node-1")
    found = select.start("tpu")
    assert (found.backend, found.kind, found.devices, asked) == ("tensorflow", "tpu", ("TPU:0",), ["local"])
    assert found.why == "TPUStrategy at 'local'"
    assert found.precision() == "mixed_bfloat16"
    assert found.profile == profile.DeviceProfile("tensorflow", "tpu")
    with found.scope():
        assert tf.distribute.has_strategy()
    there.remove("local")
    asked.clear()
    assert select.start("tpu").why == "TPUStrategy at 'node-1'"
    assert asked == ["local", "node-1"]


def test_a_tpu_that_is_named_is_the_only_one_that_will_do(monkeypatch, tpus):
    there, asked = tpus
    there |= {"local", "node-1"}
    local_tpu(monkeypatch)
    monkeypatch.setenv("TPU_NAME", "node-1")
    monkeypatch.setattr(select, "_jax_tpu", lambda: select.Runtime("jax", "tpu", ("tpu:0",), "another"))
    for strategy in ("tpu", "auto"):
        with pytest.raises(select.DeviceNotFoundError, match=r"tpu='node-2'\) failed: <urlopen error no cluster"):
            select.start(strategy, tpu="node-2")
    assert asked == ["node-2"] * 2
    for strategy, backend in (("cpu", "auto"), ("tpu", "jax")):
        with pytest.raises(ValueError, match="it goes with --strategy tpu or auto and not with JAX"):
            select.start(strategy, backend, tpu="node-2")


def test_auto_takes_a_tpu_before_anything_else(monkeypatch, tpus):
    there, _ = tpus
    there.add("grpc://10.0.0.2:8470")
    monkeypatch.setenv("TPU_NAME", "grpc://10.0.0.2:8470")
    assert select.start("auto").kind == "tpu"


@pytest.mark.integration
def test_the_flag_for_the_backend_wins_over_the_environment():
    code = (
        "import sys; from absl import flags; from melanoma_tf.devices import select; select.define_flags(); "
        "flags.FLAGS(['x', '--strategy=cpu', '--backend=jax']); print(select.start_as_asked().backend)"
    )
    done = run_command("-c", code, **{**NO_ACCELERATOR, "KERAS_BACKEND": "tensorflow"})
    assert done.stdout.strip() == "jax", done.stderr[-1000:]


@pytest.mark.integration
@pytest.mark.parametrize("strategy", ["tpu", "auto"])
def test_a_tpu_that_only_jax_has_is_found_after_tensorflow_was_asked(strategy):
    """TensorFlow imports Keras, which would keep TensorFlow's backend; a CPU of JAX stands for its TPU."""
    code = (
        "import importlib.util, sys, jax; there = jax.devices; jax.devices = lambda kind=None: there('cpu'); "
        "find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *rest: find('jax' if name == 'libtpu' else name, *rest); "
        "from tfrecord_tools.core import paths; paths.path('ram://x').exists(); "  # remote data are looked at before
        f"from melanoma_tf.devices import select; found = select.start('{strategy}'); "
        "assert 'keras' not in sys.modules; import keras, tensorflow as tf; "
        "print(found.backend, found.kind, keras.config.backend()); "
        "tf.keras.Sequential"
    )
    done = run_command("-c", code, KERAS_BACKEND="", JAX_PLATFORMS="cpu")
    assert done.stdout.split() == ["jax", "tpu", "jax"], done.stderr[-2000:]
