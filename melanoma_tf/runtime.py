"""Which backend and which devices: the only file that knows. It chooses before Keras is imported."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

STRATEGIES = ("auto", "cpu", "gpu", "mirrored", "tpu")


class DeviceNotFound(RuntimeError):  # noqa: N818  it reads as what happened
    """The asked-for device is not there. The message says what was looked for and what to install."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What a run trains on. `replicas` divide a global batch; `scope()` is where models are built."""

    backend: str  # "tensorflow" | "jax"
    kind: str  # "cpu" | "gpu" | "tpu"
    devices: tuple[str, ...]
    why: str
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def replicas(self) -> int:
        return len(self.devices)

    @property
    def resampling(self) -> Literal["gather", "kernel", "matmul"]:
        """How augmentation turns pictures, see `augment.geometry.affine`; a TPU pays for each pixel that it gathers."""
        if self.kind == "tpu":
            return "matmul"
        return "kernel" if (self.backend, self.kind) == ("tensorflow", "cpu") else "gather"

    def precision(self, asked: str = "auto") -> str:
        """Keras dtype policy: bfloat16 on TPUs and GPUs that have it, float16 on older GPUs, float32 on CPU."""
        if asked != "auto":
            return asked
        if self.kind == "cpu":
            return "float32"
        return "mixed_bfloat16" if self.kind == "tpu" or _gpus_have_bfloat16(self.backend) else "mixed_float16"

    @staticmethod
    def forget_models() -> None:
        """Frees the memory of models that are no longer used, such as those of another fold."""
        import keras

        # Keras forgets these along with the models.
        policy, distribution = keras.config.dtype_policy(), keras.distribution.distribution()
        keras.backend.clear_session()
        keras.config.set_dtype_policy(policy)
        if distribution is not None:
            keras.distribution.set_distribution(distribution)

    def describe(self, batch_size: int, precision: str) -> str:
        """One line for the log: backend, devices, global batch, precision and why they were chosen."""
        return (
            f"runtime: {self.backend} on {self.replicas} x {self.kind} ({', '.join(self.devices)}), "
            f"global batch {batch_size} = {self.replicas} x {batch_size // self.replicas}, {precision}; {self.why}"
        )


def start(strategy: str) -> Runtime:
    """Picks devices for `strategy` (one of STRATEGIES), sets KERAS_BACKEND accordingly and prepares the devices.

    Call it before the first `import keras`. A KERAS_BACKEND that the user has set is obeyed.

    Raises:
      DeviceNotFound: no such device on this machine. Only `auto` falls back to another kind.
      ValueError: unknown strategy or backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up notes would hide what is said here
    if strategy not in STRATEGIES:
        raise ValueError(f"--strategy {strategy!r} is unknown; there is: {', '.join(STRATEGIES)}")
    asked_backend = os.environ.get("KERAS_BACKEND") or None
    if asked_backend not in (None, "tensorflow", "jax"):
        raise ValueError(f"KERAS_BACKEND={asked_backend!r} is not supported here; there is: tensorflow, jax")
    if strategy == "auto":
        return _first_found(asked_backend)
    if strategy == "tpu":
        return _tpu(asked_backend)
    backend = _set_backend(asked_backend or "tensorflow")
    if strategy == "cpu":
        return _cpu(backend, "asked for with --strategy cpu")
    return _gpus(backend, every=strategy == "mirrored", why=f"asked for with --strategy {strategy}")


def _first_found(asked_backend: str | None) -> Runtime:
    tried = []
    for find in (_tpu, _auto_gpus):
        try:
            return find(asked_backend)
        except DeviceNotFound as error:
            tried.append(str(error).split(":")[0])
    backend = _set_backend(asked_backend or "tensorflow")
    return _cpu(backend, f"--strategy auto fell back to the CPU ({'; '.join(tried)})")


def _auto_gpus(asked_backend: str | None) -> Runtime:
    return _gpus(_set_backend(asked_backend or "tensorflow"), every=True, why="found by --strategy auto")


def _set_backend(name: str) -> str:
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.config.backend() != name:
        raise RuntimeError(f"Keras is already loaded with {loaded.config.backend()}; start a new process for {name}")
    os.environ["KERAS_BACKEND"] = name
    if name == "jax":
        _tensorflow_reads_only()
    return name


def _tensorflow_reads_only() -> None:
    """Under JAX TensorFlow feeds the input only; it must not take the accelerator's memory."""
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)


def _cpu(backend: str, why: str) -> Runtime:
    if backend == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
        return _jax_runtime(jax.devices(), "cpu", why)
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return Runtime("tensorflow", "cpu", ("CPU:0",), why)


def _gpus(backend: str, every: bool, why: str) -> Runtime:
    """One GPU, or all of them (`every`). Two virtual CPU devices serve `mirrored` in tests; see `mirrored_on_cpus`."""
    if backend == "jax":
        import jax

        try:
            devices = jax.devices("gpu")
        except RuntimeError as error:
            raise DeviceNotFound(
                f"no GPU: JAX {jax.__version__} sees none ({str(error).splitlines()[0]}). "
                "Install a driver and `pip install 'jax[cuda12]'`, or use --strategy cpu."
            ) from error
        return _jax_runtime(devices if every else devices[:1], "gpu", why)
    import tensorflow as tf

    physical = tf.config.list_physical_devices("GPU")
    if not physical:
        raise DeviceNotFound(
            f"no GPU: TensorFlow {tf.__version__} (built with CUDA: {tf.test.is_built_with_cuda()}) lists none. "
            "Look at `nvidia-smi`; install `pip install 'melanoma-tf[gpu]'`, or use --strategy cpu."
        )
    used = physical if every else physical[:1]
    tf.config.set_visible_devices(used, "GPU")
    for gpu in used:
        tf.config.experimental.set_memory_growth(gpu, True)
    names = [f"GPU:{i}" for i in range(len(used))]
    return mirrored(names, "gpu", why) if len(names) > 1 else Runtime("tensorflow", "gpu", tuple(names), why)


def mirrored(names: list[str], kind: str, why: str) -> Runtime:
    """MirroredStrategy over TensorFlow's logical devices `names`, e.g. ["GPU:0", "GPU:1"]."""
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy([f"/{name}" for name in names])
    return Runtime("tensorflow", kind, tuple(names), f"MirroredStrategy, {why}", strategy.scope)


def share_nan(gradients: list[Any], finite: Any) -> list[Any]:
    """Under MirroredStrategy, makes every replica's gradients NaN if those of one are not finite; else changes nothing.

    Keras' LossScaleOptimizer looks before gradients are summed over replicas and believes the first replica only, so a
    NaN on another one would reach the weights. gradients: float tensors or None; finite: bool scalar, this replica's.
    """
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradients
    spoilt = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(finite, 0.0, float("nan")))
    return [None if g is None else g + tf.cast(spoilt, g.dtype) for g in gradients]


def _jax_runtime(devices: list[Any], kind: str, why: str) -> Runtime:
    names = tuple(f"{device.platform}:{device.id}" for device in devices)
    if len(devices) > 1:
        import keras

        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=list(names)))
        why = f"DataParallel, {why}"
    return Runtime("jax", kind, names, why)


def _tpu(asked_backend: str | None) -> Runtime:
    """TPUStrategy where this TensorFlow has TPUs, otherwise Keras on JAX where JAX has them."""
    looked = []
    for backend, find in (("tensorflow", _tensorflow_tpu), ("jax", _jax_tpu)):
        if asked_backend not in (None, backend):
            looked.append(f"{backend}: not looked at, KERAS_BACKEND={asked_backend}")
            continue
        found = find()
        if isinstance(found, Runtime):
            return found
        looked.append(f"{backend}: {found}")
    raise DeviceNotFound(
        "no TPU: looked for one through\n  "
        + "\n  ".join(looked)
        + "\nOn a TPU machine: `pip install 'melanoma-tf[tpu]'` (JAX and libtpu). On Kaggle choose the accelerator "
        "'TPU', on Colab the runtime type 'TPU'. Without a TPU: --strategy auto, gpu or cpu."
    )


def _tensorflow_tpu() -> Runtime | str:
    """The runtime, or what stood in the way."""
    import tensorflow as tf

    name = os.environ.get("TPU_NAME") or os.environ.get("COLAB_TPU_ADDR")
    if not name and not tf.config.list_physical_devices("TPU"):
        return (
            f"TensorFlow {tf.__version__} lists no local TPU and neither TPU_NAME nor COLAB_TPU_ADDR is set "
            "(TensorFlow's last release with TPUs is tensorflow-tpu 2.19)"
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        return f"TPUClusterResolver(tpu={name or 'local'!r}) failed: {str(error).splitlines()[0]}"
    _set_backend("tensorflow")
    devices = tuple(f"TPU:{i}" for i in range(strategy.num_replicas_in_sync))
    return Runtime("tensorflow", "tpu", devices, f"TPUStrategy at {name or 'local'!r}", strategy.scope)


def _jax_tpu() -> Runtime | str:
    """The runtime, or what stood in the way."""
    if importlib.util.find_spec("jax") is None:
        return "JAX is not installed"
    if importlib.util.find_spec("libtpu") is None:
        return "JAX is installed, libtpu is not"
    import jax

    try:
        devices = jax.devices("tpu")
    except RuntimeError as error:
        return f"JAX {jax.__version__} with libtpu sees none ({str(error).splitlines()[0]})"
    _set_backend("jax")
    return _jax_runtime(devices, "tpu", f"JAX {jax.__version__} has TPUs, TensorFlow has none")


def _gpus_have_bfloat16(backend: str) -> bool:
    """Compute capability 8.0 (Ampere) and later."""
    if backend == "jax":
        import jax

        return all(float(device.compute_capability) >= 8.0 for device in jax.devices("gpu"))
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
