"""Compiles the training step for TPUs without a TPU: memory, batch size and an upper bound of the speed.

    python -m melanoma_tf.preflight --topology v5e-8 --config configs/default.py
    python -m melanoma_tf.preflight --topology v5e-8 --config configs/default.py --find_batch

libtpu compiles the real training step (augmentation, mixed precision, moving averages, the sum of gradients over chips)
for the given chips. Printed are the memory used and free per chip, gigaflops and megabytes moved per image, the
roofline that follows, and the images/s by the compiler's estimated cycles.

Needs Linux on x86 and `pip install 'melanoma-tf[tpu]'`. Large models take minutes to compile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from melanoma_tf.augment import policies
from melanoma_tf.core import cli, config
from melanoma_tf.devices import profile, select
from melanoma_tf.models import registry
from melanoma_tf.tpu.chips import CHIPS, GB, Chip
from tfrecord_tools.core import startup

if TYPE_CHECKING:
    import keras
    import ml_collections

FLAGS = flags.FLAGS
# Names of Kaggle, Colab and Google Cloud -> names of libtpu.
TOPOLOGIES = {
    "v3-8": "v3:2x2",
    "v4-8": "v4:2x2x1",
    "v5e-1": "v5e:1x1",
    "v5e-4": "v5e:2x2",
    "v5e-8": "v5e:2x4",
    "v5e-16": "v5e:4x4",
    "v5p-8": "v5p:2x2x1",
    "v6e-1": "v6e:1x1",
    "v6e-4": "v6e:2x2",
    "v6e-8": "v6e:2x4",
    "v6e-16": "v6e:4x4",
}


class PreflightError(RuntimeError):
    """The step cannot be compiled for these chips, or does not fit; the message says why."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Cost of a compiled training step.

    Attributes:
      topology: as given.
      chips: JAX devices.
      batch_per_chip: images.
      spatial_splits: parts of each image in the first blocks.
      memory_used: bytes per chip.
      memory_free: bytes per chip.
      gflop: per image.
      megabytes: per image, read from and written to the chips' memory, see `tpu.hlo_cost`.
      counted_megabytes: per image, by XLA's cost analysis.
      images_per_s: the roofline, of all chips together.
      bound: what limits the roofline, "memory" or "compute".
      expected_images_per_s: from the compiler's estimated cycles, which leave some out, see `tpu.hlo_cost`.
      compile_seconds: of the compilation.
    """

    topology: str
    chips: int
    batch_per_chip: int
    spatial_splits: int
    memory_used: float
    memory_free: float
    gflop: float
    megabytes: float
    counted_megabytes: float
    images_per_s: float
    bound: str
    expected_images_per_s: float
    compile_seconds: float

    def text(self) -> str:
        """The finding for people."""
        total = self.memory_used + self.memory_free
        wasteful = self.batch_per_chip * self.spatial_splits % profile.LANES
        return (
            f"{self.topology}: {self.chips} x {self.batch_per_chip} images compile in {self.compile_seconds:.0f} s\n"
            f"memory per chip: {self.memory_used / GB:.2f} of {total / GB:.0f} GB used, "
            f"{self.memory_free / GB:.2f} free\n"
            f"per image: {self.megabytes:.0f} MB to and from memory ({self.counted_megabytes:.0f} as XLA counts), "
            f"{self.gflop:.2f} GFLOP\n"
            f"roofline: {self.images_per_s:.0f} images/s, limited by {self.bound}; "
            f"the compiler expects {self.expected_images_per_s:.0f}"
            + (f"\nregisters have empty lanes: give a chip {profile.LANES} images or a multiple" if wasteful else "")
        )


def define_flags() -> None:
    """The flags of this command."""
    config.find_in_arguments(sys.argv)
    config_flags.DEFINE_config_file(
        "config", str(config.CONFIGS / "default.py"), "Config file, or name of one in configs/."
    )
    flags.DEFINE_string("topology", "v5e-8", f"{', '.join(TOPOLOGIES)}, or a libtpu layout such as v5e:4x4.")
    flags.DEFINE_integer("batch", None, "Images per chip; default: config.batch_size divided by the chips.", 1)
    flags.DEFINE_bool("find_batch", False, "Search the largest batch that fits; compiles three times or more.")
    flags.DEFINE_bool("json", False, "Print JSON.")


def main(argv: list[str]) -> None:
    """Compiles the step and prints its costs."""
    del argv
    settings = FLAGS.config
    config.check(settings)
    policies.parse(settings.augment)
    registry.backbone(settings.model)
    check_topology(FLAGS.topology)
    prepare(settings.precision)
    topology, devices = FLAGS.topology, topology_devices(FLAGS.topology)
    if not FLAGS.batch and settings.batch_size % len(devices):
        raise ValueError(
            f"config.batch_size={settings.batch_size} is global and not divisible by {len(devices)} chips; change "
            "it or use --batch"
        )
    batch = FLAGS.batch or settings.batch_size // len(devices)
    if FLAGS.find_batch:
        finding = find_batch(settings, topology, devices, batch)
    else:
        finding = examine(settings, topology, devices, batch)
    cli.say(json.dumps(dataclasses.asdict(finding)) if FLAGS.json else finding.text())


def prepare(precision: str) -> None:
    """Sets Keras to JAX, JAX to the CPU and libtpu to run without a TPU; call it before they are imported."""
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    # libtpu warns if these are missing, whatever it compiles for.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    with startup.without_notes():
        import jax
        import keras

    jax.config.update("jax_platforms", "cpu")
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "auto" else precision)


def check_topology(name: str) -> None:
    """Checks the name of a topology, before JAX starts for it.

    Raises:
      PreflightError: it is neither a known name nor a layout of known chips.
    """
    if ":" not in name and _usual(name) not in TOPOLOGIES:
        raise PreflightError(_problem(name, "unknown topology"))
    _chip(name)


def topology_devices(name: str) -> list[Any]:
    """The devices of a topology.

    Raises:
      PreflightError: unknown topology, or no libtpu.
    """
    from jax.experimental import topologies

    try:
        layout = TOPOLOGIES.get(_usual(name), _usual(name))
        # libtpu assumes four chips a host.
        options = {"chips_per_host_bounds": [1, 1, 1]} if layout.endswith(":1x1") else {}
        devices = list(topologies.get_topology_desc(layout, "tpu", **options).devices)
    except Exception as error:
        raise PreflightError(_problem(name, str(error).splitlines()[0])) from error
    _chip(name)
    return devices


def _chip(topology: str) -> Chip:
    kind = topology.replace("v5litepod", "v5e").split(":")[0].split("-")[0]
    if kind not in CHIPS:
        raise PreflightError(f"--topology {topology!r}: no figures for {kind!r}; expected one of: {', '.join(CHIPS)}")
    return CHIPS[kind]


def _usual(name: str) -> str:
    return name.replace("v5litepod-", "v5e-")  # Google Cloud's other name


def _problem(name: str, reason: str) -> str:
    return (
        f"--topology {name!r}: {reason}. Expected one of: {', '.join(TOPOLOGIES)}, or a layout such as v5e:4x4. "
        "Preflight needs Linux on x86 and `pip install 'melanoma-tf[tpu]'`."
    )


def examine(config: ml_collections.ConfigDict, topology: str, devices: list[Any], batch_per_chip: int) -> Finding:
    """Compiles the training step of a config.

    Args:
      config: see configs/default.py; its batch size is ignored.
      topology: name of the devices.
      devices: from `topology_devices`.
      batch_per_chip: images.

    Raises:
      PreflightError: it does not compile, or needs more memory than a chip has.
    """
    import numpy as np

    from melanoma_tf.tpu import rewrite
    from melanoma_tf.training import build

    select.Runtime.forget_models()
    config = config.copy_and_resolve_references()
    config.update(weights="none", batch_size=batch_per_chip * len(devices))
    chips = profile.DeviceProfile("jax", "tpu", devices[0].device_kind, len(devices))
    trainer, classifier = build.build_trainer(config, 0.02, 1000, chips)
    size = config.image_size
    features = {"image": np.zeros((2, size, size, 3), np.uint8), "seed": np.zeros(2, np.uint32)}
    batch = features, np.zeros(2, np.float32)
    graph = rewrite.describe(classifier)
    what = f"{config.model} at {size} px for {topology}, {batch_per_chip} images a chip, {graph}"
    finding = compile_step(trainer, batch, topology, devices, batch_per_chip, what)
    return dataclasses.replace(finding, spatial_splits=rewrite.spatial_splits(classifier))


def compile_step(
    trainer: keras.Model,
    batch: tuple[Any, Any],
    topology: str,
    devices: list[Any],
    batch_per_chip: int,
    what: str,
) -> Finding:
    """Compiles the training step of a compiled model, the batch divided among the devices.

    Args:
      trainer: compiled model.
      batch: (inputs, targets) of a few images, arrays as the model takes them.
      topology: name of the devices.
      devices: from `topology_devices`.
      batch_per_chip: images to compile for.
      what: name of the step, for progress messages.

    Raises:
      PreflightError: it does not compile, or needs more memory than a chip has.
    """
    import jax

    started = time.perf_counter()
    try:
        with _progress(f"compiling {what}"):
            program = _lower(trainer, batch, devices, batch_per_chip).compile()
    except jax.errors.JaxRuntimeError as error:
        raise PreflightError(f"{topology}, {batch_per_chip} images a chip: {_reason(str(error))}") from error
    return _finding(program, topology, len(devices), batch_per_chip, round(time.perf_counter() - started, 1))


def _lower(trainer: keras.Model, batch: tuple[Any, Any], devices: list[Any], batch_per_chip: int) -> Any:
    """The training step lowered for the devices: variables replicated, batch divided."""
    import jax
    import keras

    from melanoma_tf.core import keras_compat

    keras_compat.build_step(trainer, batch)
    distribution = keras.distribution.DataParallel(keras.distribution.DeviceMesh((len(devices),), ["batch"], devices))
    mesh = distribution.device_mesh.backend_mesh
    everywhere, divided = (jax.sharding.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("batch",)))

    def spec(value: Any, sharding: Any, shape: Any = None) -> Any:
        return jax.ShapeDtypeStruct(value.shape if shape is None else shape, value.dtype, sharding=sharding)

    kinds = ("trainable_variables", "non_trainable_variables", "metrics_variables")
    trainable, others, metrics = ([spec(v.value, everywhere) for v in getattr(trainer, each)] for each in kinds)
    optimizer = [spec(v.value, everywhere) for v in trainer.optimizer.variables]
    images = batch_per_chip * len(devices)
    given = jax.tree.map(lambda value: spec(value, divided, (images, *value.shape[1:])), batch)
    step = jax.jit(trainer.train_step, donate_argnums=0)
    with distribution.scope():
        return step.lower((trainable, others, optimizer, metrics), given)


def _finding(program: Any, topology: str, chips: int, batch_per_chip: int, seconds: float) -> Finding:
    """The cost of a compiled step. Raises PreflightError if it needs more memory than a chip has."""
    from melanoma_tf.tpu import hlo_cost

    chip, images = _chip(topology), batch_per_chip * chips
    memory, flops = program.memory_analysis(), program.cost_analysis()
    flops = flops[0] if isinstance(flops, list) else flops
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    if used > chip.memory:
        raise PreflightError(
            f"{topology}, {batch_per_chip} images a chip: needs {used / GB:.1f} of {chip.memory / GB:.0f} GB"
        )
    cost = hlo_cost.parse(program.as_text())
    by_memory, by_compute = cost.memory_bytes / chip.bandwidth, flops["flops"] / chip.flops
    return Finding(
        topology=topology,
        chips=chips,
        batch_per_chip=batch_per_chip,
        spatial_splits=1,
        memory_used=float(used),
        memory_free=float(chip.memory - used),
        gflop=flops["flops"] / batch_per_chip / 1e9,
        megabytes=cost.memory_bytes / batch_per_chip / 1e6,
        counted_megabytes=flops["bytes accessed"] / batch_per_chip / 1e6,
        images_per_s=images / max(by_memory, by_compute),
        bound="memory" if by_memory > by_compute else "compute",
        expected_images_per_s=images * chip.clock / cost.cycles,
        compile_seconds=seconds,
    )


def find_batch(config: ml_collections.ConfigDict, topology: str, devices: list[Any], start: int) -> Finding:
    """Finds the largest batch per chip that fits, a multiple of 8, by extrapolating memory linearly.

    Raises:
      PreflightError: not even 8 images a chip fit.
    """
    best = small = examine(config, topology, devices, 8)
    fails, guess = None, max(16, start // 8 * 8)
    while guess > best.batch_per_chip:
        try:
            best = examine(config, topology, devices, guess)
        except PreflightError as error:
            print(f"  {error}", file=sys.stderr, flush=True)
            fails = guess
        per_image = (best.memory_used - small.memory_used) / max(1, best.batch_per_chip - small.batch_per_chip)
        if fails is not None:
            guess = (best.batch_per_chip + fails) // 16 * 8
        elif per_image > 0:
            guess = int(best.batch_per_chip + best.memory_free / per_image) // 8 * 8
        else:
            guess = 2 * best.batch_per_chip
    return best


def _reason(error: str) -> str:
    """The line of XLA's message about memory, or its first."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return next((line for line in lines if "hbm" in line.lower() or "memory" in line.lower()), lines[0])[:300]


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """Reports on standard error what is running, and the time every 20 seconds."""
    done, started = threading.Event(), time.perf_counter()

    def report() -> None:
        print(what, file=sys.stderr, flush=True)
        while not done.wait(20):
            print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
