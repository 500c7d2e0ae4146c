"""Choice of backend and devices, made before Keras is imported."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from absl import flags

from melanoma_tf.devices import multihost
from melanoma_tf.devices.multihost import ALONE, Hosts
from melanoma_tf.devices.profile import DeviceProfile
from tfrecord_tools.core import startup

STRATEGIES = ("auto", "cpu", "gpu", "mirrored", "multihost", "tpu")
BACKENDS = ("auto", "tensorflow", "jax")
CLUSTER = ("coordinator", "num_processes", "process_id")  # flags of --strategy multihost


class DeviceNotFoundError(RuntimeError):
    """The requested device was not found; the message says where it was looked for and what to install."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Devices of a run.

    Attributes:
      backend: "tensorflow" or "jax".
      kind: "cpu", "gpu" or "tpu".
      devices: names of the devices of all hosts; each is a replica.
      why: reason for the choice, for the log.
      scope: context manager in which models are built.
      hosts: all hosts, from this one.
      generation: of TPUs under JAX, e.g. "TPU v5 lite".
    """

    backend: str
    kind: str
    devices: tuple[str, ...]
    why: str
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    hosts: Hosts = ALONE
    generation: str = ""

    @property
    def replicas(self) -> int:
        """Devices that divide a global batch."""
        return len(self.devices)

    @property
    def profile(self) -> DeviceProfile:
        """What models and augmentation need to know of these devices."""
        return DeviceProfile(self.backend, self.kind, self.generation, self.replicas)

    def precision(self, asked: str = "auto") -> str:
        """Keras dtype policy: bfloat16 on TPUs and GPUs that have it, float16 on older GPUs, float32 on CPU."""
        if asked != "auto":
            return asked
        if self.kind == "cpu":
            return "float32"
        return "mixed_bfloat16" if self.kind == "tpu" or _gpus_have_bfloat16(self.backend) else "mixed_float16"

    @staticmethod
    def forget_models() -> None:
        """Frees the memory of models no longer in use, such as those of another fold."""
        import keras

        # `clear_session` resets these too.
        policy, distribution = keras.config.dtype_policy(), keras.distribution.distribution()
        keras.backend.clear_session()
        keras.config.set_dtype_policy(policy)
        if distribution is not None:
            keras.distribution.set_distribution(distribution)

    def describe(self, batch_size: int, precision: str) -> str:
        """One line for the log: backend, devices, global batch, precision and why they were chosen."""
        host = f"host {self.hosts.index} of {self.hosts.count}, " if self.hosts.count > 1 else ""
        return (
            f"runtime: {self.backend} on {self.replicas} x {self.kind} ({', '.join(self.devices)}), {host}"
            f"global batch {batch_size} = {self.replicas} x {batch_size // self.replicas}, {precision}; {self.why}"
        )


def define_flags(several_hosts: bool = False) -> None:
    """Defines the flags that choose devices.

    Args:
      several_hosts: whether the command can run on more than one host.
    """
    strategies = [name for name in STRATEGIES if several_hosts or name != "multihost"]
    flags.DEFINE_enum("strategy", "auto", strategies, "Devices to use; only 'auto' falls back to others.")
    flags.DEFINE_enum("backend", "auto", BACKENDS, "Keras backend; auto: KERAS_BACKEND if set, else by device.")
    flags.DEFINE_string("tpu", None, "TPU name or grpc:// address for TensorFlow; default: local, then TPU_NAME.")
    if several_hosts:
        default = "default: KERAS_DISTRIBUTION_{}, or what JAX finds on the cluster."
        addresses, count, number = (default.format(name) for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
        flags.DEFINE_string("coordinator", None, f"multihost: HOST:PORT of process 0; {addresses}")
        flags.DEFINE_integer("num_processes", None, f"multihost: number of processes; {count}", 1)
        flags.DEFINE_integer("process_id", None, f"multihost: index of this process, from 0; {number}", 0)


def start_as_asked() -> Runtime:
    """Calls `start` with the values of the flags of `define_flags`."""
    given = flags.FLAGS.flag_values_dict()
    return start(given["strategy"], given["backend"], given["tpu"], *map(given.get, CLUSTER))


def check_flags() -> None:
    """Checks that the flags of `define_flags` do not contradict each other, before anything is started.

    Raises:
      ValueError: they do.
    """
    given = flags.FLAGS.flag_values_dict()
    if any(given.get(name) is not None for name in CLUSTER) and given["strategy"] != "multihost":
        raise ValueError("--coordinator, --num_processes and --process_id belong to --strategy multihost")
    _asked_backend(given["strategy"], given["backend"], given["tpu"])


def start(
    strategy: str,
    backend: str = "auto",
    tpu: str | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Runtime:
    """Chooses and prepares devices, and sets KERAS_BACKEND; call it before the first `import keras`.

    Args:
      strategy: one of STRATEGIES.
      backend: one of BACKENDS; "auto" obeys a KERAS_BACKEND that the user has set.
      tpu: TPU name or address, for TensorFlow.
      coordinator: HOST:PORT of process 0, multihost only.
      num_processes: multihost only.
      process_id: multihost only.

    Raises:
      DeviceNotFoundError: no such device on this machine; only "auto" falls back to another kind.
      ValueError: unknown strategy or backend, or flags that contradict each other.
    """
    asked_backend = _asked_backend(strategy, backend, tpu)
    if strategy == "tpu" or tpu:
        return _tpu(asked_backend, tpu)
    if strategy == "auto":
        return _first_found(asked_backend)
    if strategy == "multihost":
        return _multihost(asked_backend, coordinator, num_processes, process_id)
    if strategy == "cpu":
        return _cpu(_set_backend(asked_backend or "tensorflow"), "asked for with --strategy cpu")
    return _gpus(asked_backend, every=strategy == "mirrored", why=f"asked for with --strategy {strategy}")


def _asked_backend(strategy: str, backend: str, tpu: str | None) -> str | None:
    """The backend that flags or environment name; None if neither does."""
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown --strategy {strategy!r}; expected one of: {', '.join(STRATEGIES)}")
    if backend not in BACKENDS:
        raise ValueError(f"unknown --backend {backend!r}; expected one of: {', '.join(BACKENDS)}")
    asked_backend = (os.environ.get("KERAS_BACKEND") or None) if backend == "auto" else backend
    if asked_backend not in (None, *BACKENDS[1:]):
        raise ValueError(f"unsupported KERAS_BACKEND={asked_backend!r}; expected one of: tensorflow, jax")
    if tpu and (strategy not in ("auto", "tpu") or asked_backend == "jax"):
        raise ValueError("--tpu names a TPU to TensorFlow: it goes with --strategy tpu or auto and not with JAX")
    return asked_backend


def _tensorflow() -> Any:
    """TensorFlow, imported and looking for devices without the notes that it writes on both occasions."""
    tf = startup.import_tensorflow()
    with startup.without_notes():
        tf.config.list_physical_devices()
    return tf


def _first_found(asked_backend: str | None) -> Runtime:
    tried = []
    for find in (_tpu, _auto_gpus):
        try:
            return find(asked_backend)
        except DeviceNotFoundError as error:
            tried.append(str(error).split(":")[0])
    backend = _set_backend(asked_backend or "tensorflow")
    return _cpu(backend, f"--strategy auto fell back to the CPU ({'; '.join(tried)})")


def _auto_gpus(asked_backend: str | None) -> Runtime:
    return _gpus(asked_backend, every=True, why="found by --strategy auto")


def _set_backend(name: str) -> str:
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.config.backend() != name:
        raise RuntimeError(f"Keras is already loaded with {loaded.config.backend()}; start a new process for {name}")
    os.environ["KERAS_BACKEND"] = name
    if name == "jax":
        _tensorflow_reads_only()
    return name


def _tensorflow_reads_only() -> None:
    """Hides accelerators from TensorFlow, which only feeds the input under JAX and must not take their memory."""
    tf = _tensorflow()

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)


def _cpu(backend: str, why: str) -> Runtime:
    if backend == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
        return _jax_runtime(jax.devices(), "cpu", why)
    tf = _tensorflow()

    tf.config.set_visible_devices([], "GPU")
    return Runtime("tensorflow", "cpu", ("CPU:0",), why)


def _gpus(asked_backend: str | None, every: bool, why: str) -> Runtime:
    """One GPU or all of them, by TensorFlow, or by JAX where only JAX was installed for GPUs."""
    if asked_backend == "jax":
        return _jax_gpus(every, why)
    try:
        return _tensorflow_gpus(every, why)
    except DeviceNotFoundError as error:
        if asked_backend or not jax_is_for_gpus():
            raise
        try:
            return _jax_gpus(every, f"{why}, TensorFlow sees none")
        except DeviceNotFoundError as other:
            raise DeviceNotFoundError(f"{error}\n{other}") from other


def jax_is_for_gpus() -> bool:
    """Whether JAX was installed with its plugin for NVIDIA GPUs."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def _jax_gpus(every: bool, why: str) -> Runtime:
    _set_backend("jax")
    import jax

    try:
        devices = jax.devices("gpu")
    except RuntimeError as error:
        raise DeviceNotFoundError(
            f"no GPU: JAX {jax.__version__} sees none ({str(error).splitlines()[0]}). "
            "Install a driver and `pip install 'jax[cuda12]'`, or use --strategy cpu."
        ) from error
    return _jax_runtime(devices if every else devices[:1], "gpu", why)


def _tensorflow_gpus(every: bool, why: str) -> Runtime:
    _set_backend("tensorflow")
    tf = _tensorflow()

    physical = tf.config.list_physical_devices("GPU")
    if not physical:
        raise DeviceNotFoundError(
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
    tf = _tensorflow()

    strategy = tf.distribute.MirroredStrategy([f"/{name}" for name in names])
    return Runtime("tensorflow", kind, tuple(names), f"MirroredStrategy, {why}", strategy.scope)


def _jax_runtime(devices: list[Any], kind: str, why: str) -> Runtime:
    names = tuple(f"{device.platform}:{device.id}" for device in devices)
    if len(devices) > 1:
        import keras

        # Each host already reads its own part.
        spread = keras.distribution.DataParallel(devices=list(names), auto_shard_dataset=False)
        keras.distribution.set_distribution(spread)
        why = f"DataParallel, {why}"
    return Runtime("jax", kind, names, why, generation=devices[0].device_kind if kind == "tpu" else "")


def _multihost(
    asked_backend: str | None, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Runtime:
    """All devices of all processes, under JAX."""
    if asked_backend == "tensorflow":
        raise ValueError("--strategy multihost runs on JAX; Keras cannot train under MultiWorkerMirroredStrategy")
    if importlib.util.find_spec("jax") is None:
        raise DeviceNotFoundError("--strategy multihost needs JAX: `pip install jax`, with [cuda12] or [tpu] for those")
    _set_backend("jax")
    devices, hosts = multihost.connect(coordinator, num_processes, process_id)
    found = _jax_runtime(devices, devices[0].platform, "asked for with --strategy multihost")
    return dataclasses.replace(found, hosts=hosts)


def _tpu(asked_backend: str | None, name: str | None = None) -> Runtime:
    """TPUStrategy where TensorFlow has TPUs, else Keras on JAX; a TPU that is named is the only choice."""
    looked = []
    for backend, find in (("tensorflow", lambda: _tensorflow_tpu(name)), ("jax", _jax_tpu)):
        if asked_backend not in (None, backend):
            looked.append(f"{backend}: not looked at, {asked_backend} was asked for")
            continue
        if name and backend == "jax":
            looked.append(f"jax: not looked at, --tpu {name} names one to TensorFlow")
            continue
        found = find()
        if isinstance(found, Runtime):
            return found
        looked.append(f"{backend}: {found}")
    raise DeviceNotFoundError(
        "no TPU: looked for one through\n  "
        + "\n  ".join(looked)
        + "\nOn a TPU machine: `pip install 'melanoma-tf[tpu]'` (JAX and libtpu). On Kaggle choose the accelerator "
        "'TPU', on Colab the runtime type 'TPU'. Without a TPU: --strategy auto, gpu or cpu."
    )


def _tensorflow_tpu(name: str | None) -> Runtime | str:
    """The runtime, or the reason that there is none."""
    tf = _tensorflow()

    from_environment = os.environ.get("TPU_NAME") or os.environ.get("COLAB_TPU_ADDR")
    local = "local" if tf.config.list_physical_devices("TPU") else None
    names = [name] if name else [each for each in (local, from_environment) if each]
    if not names:
        return (
            f"TensorFlow {tf.__version__} lists no local TPU, neither TPU_NAME nor COLAB_TPU_ADDR is set, and no --tpu "
            "(TensorFlow's last release with TPUs is tensorflow-tpu 2.19)"
        )
    failed = []
    for each in names:
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=each)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            strategy = tf.distribute.TPUStrategy(resolver)
        except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:  # OSError: no such name on the network
            failed.append(f"TPUClusterResolver(tpu={each!r}) failed: {str(error).splitlines()[0]}")
            continue
        _set_backend("tensorflow")
        devices = tuple(f"TPU:{i}" for i in range(strategy.num_replicas_in_sync))
        return Runtime("tensorflow", "tpu", devices, f"TPUStrategy at {each!r}", strategy.scope)
    return "; ".join(failed)


def _jax_tpu() -> Runtime | str:
    """The runtime, or the reason that there is none."""
    if importlib.util.find_spec("jax") is None:
        return "JAX is not installed"
    if importlib.util.find_spec("libtpu") is None:
        return "JAX is installed, libtpu is not"
    import jax

    try:
        devices = jax.devices("tpu")
    except RuntimeError as error:
        return f"JAX {jax.__version__} with libtpu sees none ({str(error).splitlines()[0]})"
    if jax.process_count() > 1:
        raise RuntimeError(
            f"this is one of {jax.process_count()} hosts of a TPU: start melanoma_tf.train on each, with --strategy "
            "multihost; everything else wants a TPU of one host"
        )
    _set_backend("jax")
    return _jax_runtime(devices, "tpu", f"JAX {jax.__version__} has TPUs, TensorFlow has none")


def _gpus_have_bfloat16(backend: str) -> bool:
    """Whether all GPUs have compute capability 8.0 (Ampere) or later."""
    if backend == "jax":
        import jax

        return all(float(device.compute_capability) >= 8.0 for device in jax.devices("gpu"))
    tf = _tensorflow()

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
