"""Which backend and which devices: the only file that knows what is here. It chooses before Keras is imported."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from absl import flags

from melanoma_tf.core import cli
from melanoma_tf.devices.multihost import ALONE, Hosts

STRATEGIES = ("auto", "cpu", "gpu", "mirrored", "multihost", "tpu")
BACKENDS = ("auto", "tensorflow", "jax")
_SILENCE = 30  # seconds without a sign of life after which a host counts as dead
LANES = 128  # of a TPU's registers, along which the batch is laid where there are fewer channels
_SMALL_TPUS = ("TPU v2", "TPU v3", "TPU v4")  # with 16 MB of fast memory, all of which shearing 512 px would take
_ARRIVAL = 300  # seconds that a host waits for the others to start
_LAST_WAIT = 10  # seconds that a host which ends waits for the others: one that failed must not keep them long


class DeviceNotFoundError(RuntimeError):
    """The asked-for device is not there. The message says what was looked for and what to install."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What a run trains on. `replicas` divide a global batch; `scope()` is where models are built."""

    backend: str  # "tensorflow" | "jax"
    kind: str  # "cpu" | "gpu" | "tpu"
    devices: tuple[str, ...]  # of all hosts
    why: str
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    hosts: Hosts = ALONE
    generation: str = ""  # of TPUs under JAX, e.g. "TPU v5 lite"

    @property
    def replicas(self) -> int:
        return len(self.devices)

    @property
    def resampling(self) -> Literal["gather", "kernel", "matmul", "shears"]:
        """How augmentation turns images, see `augment.geometry.affine`; a TPU pays for each pixel that it gathers."""
        if self.kind == "tpu":
            return "shears" if self.backend == "jax" and not self.generation.startswith(_SMALL_TPUS) else "matmul"
        return "kernel" if (self.backend, self.kind) == ("tensorflow", "cpu") else "gather"

    def strips(self, asked: int, images: int) -> int:
        """Into how many strips the first blocks cut each of a device's `images` images, see strips.py.

        asked: this many; 0: on a TPU as many, by doubling, as fill its registers, elsewhere one.
        """
        if asked or (self.backend, self.kind) != ("jax", "tpu"):
            return asked or 1
        return 1 << (LANES // images).bit_length() - 1 if images <= LANES else 1

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
        here = f"host {self.hosts.index} of {self.hosts.count}, " if self.hosts.count > 1 else ""
        return (
            f"runtime: {self.backend} on {self.replicas} x {self.kind} ({', '.join(self.devices)}), {here}"
            f"global batch {batch_size} = {self.replicas} x {batch_size // self.replicas}, {precision}; {self.why}"
        )


def define_flags(several_hosts: bool = False) -> None:
    """The flags that say where a command runs. several_hosts: whether it can run on more than one."""
    strategies = [name for name in STRATEGIES if several_hosts or name != "multihost"]
    flags.DEFINE_enum("strategy", "auto", strategies, "Devices. Only 'auto' falls back to others.")
    flags.DEFINE_enum("backend", "auto", BACKENDS, "Of Keras. auto: KERAS_BACKEND if it is set, else by the devices.")
    flags.DEFINE_string("tpu", None, "Name or grpc:// address of a TPU for TensorFlow; none: local, then TPU_NAME.")
    if several_hosts:
        where = "none: KERAS_DISTRIBUTION_{}, or as the cluster tells JAX."
        addresses, count, number = (where.format(name) for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
        flags.DEFINE_string("coordinator", None, f"multihost: HOST:PORT of process 0; {addresses}")
        flags.DEFINE_integer("num_processes", None, f"multihost: processes in all; {count}", 1)
        flags.DEFINE_integer("process_id", None, f"multihost: number of this process, from 0; {number}", 0)


def start_as_asked() -> Runtime:
    """`start` with what `define_flags` has defined."""
    given = flags.FLAGS.flag_values_dict()
    cluster = [given.get(name) for name in ("coordinator", "num_processes", "process_id")]
    if any(value is not None for value in cluster) and given["strategy"] != "multihost":
        raise ValueError("--coordinator, --num_processes and --process_id belong to --strategy multihost")
    return start(given["strategy"], given["backend"], given["tpu"], *cluster)


def start(
    strategy: str,
    backend: str = "auto",
    tpu: str | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Runtime:
    """Picks devices for `strategy` (one of STRATEGIES), sets KERAS_BACKEND accordingly and prepares the devices.

    Call it before the first `import keras`. backend: one of BACKENDS; a KERAS_BACKEND that the user has set is obeyed
    where it is "auto". The other arguments are those of `define_flags`.

    Raises:
      DeviceNotFoundError: no such device on this machine. Only `auto` falls back to another kind.
      ValueError: unknown strategy or backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up notes would hide what is said here
    if strategy not in STRATEGIES:
        raise ValueError(f"--strategy {strategy!r} is unknown; there is: {', '.join(STRATEGIES)}")
    if backend not in BACKENDS:
        raise ValueError(f"--backend {backend!r} is unknown; there is: {', '.join(BACKENDS)}")
    asked_backend = (os.environ.get("KERAS_BACKEND") or None) if backend == "auto" else backend
    if asked_backend not in (None, *BACKENDS[1:]):
        raise ValueError(f"KERAS_BACKEND={asked_backend!r} is not supported here; there is: tensorflow, jax")
    if tpu and (strategy not in ("auto", "tpu") or asked_backend == "jax"):
        raise ValueError("--tpu names a TPU to TensorFlow: it goes with --strategy tpu or auto and not with JAX")
    if strategy == "tpu" or tpu:
        return _tpu(asked_backend, tpu)
    if strategy == "auto":
        return _first_found(asked_backend)
    if strategy == "multihost":
        return _multihost(asked_backend, coordinator, num_processes, process_id)
    if strategy == "cpu":
        return _cpu(_set_backend(asked_backend or "tensorflow"), "asked for with --strategy cpu")
    return _gpus(asked_backend, every=strategy == "mirrored", why=f"asked for with --strategy {strategy}")


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


def _gpus(asked_backend: str | None, every: bool, why: str) -> Runtime:
    """One GPU, or all of them (`every`): TensorFlow's, or JAX's where that alone has been installed for GPUs."""
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
    """Whether JAX has been installed with what it needs for NVIDIA's GPUs."""
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
    import tensorflow as tf

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

        # auto_shard_dataset: each host reads its own part already.
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
    import jax

    def given(value: Any, variable: str) -> Any:
        return value if value is not None else os.environ.get(f"KERAS_DISTRIBUTION_{variable}")

    address = given(coordinator, "JOB_ADDRESSES")
    numbers = {"NUM_PROCESSES": num_processes, "PROCESS_ID": process_id}
    try:
        count, number = (None if (n := given(value, name)) is None else int(n) for name, value in numbers.items())
    except ValueError as error:
        raise ValueError(f"KERAS_DISTRIBUTION_NUM_PROCESSES and _PROCESS_ID must be whole numbers: {error}") from error
    logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # where the devices are CPUs; others have their own
    flags_given = {"--coordinator": address, "--num_processes": count, "--process_id": number}
    told = ", ".join(f"{flag} {value}" for flag, value in flags_given.items() if value is not None) or "nothing"

    def missing(reason: str) -> str:
        return (
            f"no other hosts: JAX, told {told}, found none ({reason}). Start every process with the same --coordinator "
            "HOST:PORT and --num_processes, and its own --process_id; on TPU pods, Slurm and Open MPI JAX finds them "
            "by itself."
        )

    def give_up() -> None:
        print(f"error: {missing(f'waited {_ARRIVAL} s')}", file=sys.stderr, flush=True)
        os._exit(1)

    # As keras.distribution.initialize, which cannot say how soon a host counts as dead. (It also shares a seed;
    # a run has its own.) Not all of these are in every JAX.
    patience = {
        "initialization_timeout": _ARRIVAL + 60,
        "heartbeat_timeout_seconds": _SILENCE,
        "shutdown_timeout_seconds": _LAST_WAIT,
    }
    takes = inspect.signature(jax.distributed.initialize).parameters
    # JAX would abort the process, with a stack of its own.
    watch = threading.Timer(_ARRIVAL, give_up)
    watch.daemon = True
    watch.start()
    cli.say(f"multihost: waiting for the other processes, told {told}")
    try:
        options = {name: value for name, value in patience.items() if name in takes}
        jax.distributed.initialize(address and address.split(",")[0], count, number, **options)
    except (RuntimeError, ValueError) as error:
        raise DeviceNotFoundError(missing(str(error).splitlines()[0])) from error
    finally:
        watch.cancel()
    # By host, so that what a host reads lies in a row.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    cli.leave = os._exit  # an orderly end would wait for the other hosts, which wait for this one
    per_host = collections.Counter(device.process_index for device in devices)
    if len(set(per_host.values())) > 1:
        counts = ", ".join(f"host {host} has {count}" for host, count in sorted(per_host.items()))
        raise DeviceNotFoundError(f"all hosts need as many devices: {counts}")
    found = _jax_runtime(devices, devices[0].platform, "asked for with --strategy multihost")
    return dataclasses.replace(found, hosts=Hosts(jax.process_index(), jax.process_count()))


def replicate(values: Any) -> Any:
    """Inside a model: [N,...], of which each host holds some rows, whole on every host."""
    import keras

    distribution = keras.distribution.distribution()
    if distribution is None:
        return values
    layout = keras.distribution.TensorLayout([None] * len(values.shape), distribution.device_mesh)
    return keras.distribution.distribute_tensor(values, layout)


def _tpu(asked_backend: str | None, name: str | None = None) -> Runtime:
    """TPUStrategy where this TensorFlow has TPUs, otherwise Keras on JAX where JAX has them. name: no other will do."""
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
    """The runtime, or what stood in the way."""
    import tensorflow as tf

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
    if jax.process_count() > 1:
        raise RuntimeError(
            f"this is one of {jax.process_count()} hosts of a TPU: start melanoma_tf.train on each, with --strategy "
            "multihost; everything else wants a TPU of one host"
        )
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
