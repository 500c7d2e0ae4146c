"""Does it fit on a TPU, and how fast can it be at most? Answered without a TPU, before any quota is spent.

    python -m melanoma_tf.preflight --topology v5e-8 --config configs/default.py
    python -m melanoma_tf.preflight --topology v5e-8 --config configs/default.py --find_batch

Compiles the real training step (augmentation, mixed precision, moving averages, the sum of gradients over chips) with
libtpu for the chips named and prints what the compiler says: memory used and free per chip, gigaflops and megabytes
moved per image, the roofline that follows, about the most images/s there can be, and those that follow from the cycles
which the compiler expects.

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

from melanoma_tf.core import cli
from melanoma_tf.core import config as configs
from melanoma_tf.devices import select

if TYPE_CHECKING:
    import keras
    import ml_collections

FLAGS = flags.FLAGS
GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device of a TPU has.

    memory: bytes. flops: FLOP/s in bfloat16. bandwidth: of its memory, bytes/s. products: of its matrix units a cycle.
    """

    memory: float
    flops: float
    bandwidth: float
    products: int

    @property
    def clock(self) -> float:
        """Cycles/s: a product and its addition are two of the FLOPs."""
        return self.flops / (2 * self.products)


# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the page of each version. To libtpu a device of v3
# and v4 is half a chip.
CHIPS = {
    "v3": Chip(16 * GB, 61.5e12, 450e9, 2 * 128**2),
    "v4": Chip(16 * GB, 137.5e12, 614e9, 4 * 128**2),
    "v5e": Chip(16 * GB, 197e12, 819e9, 4 * 128**2),
    "v5p": Chip(95 * GB, 459e12, 2765e9, 8 * 128**2),
    "v6e": Chip(32 * GB, 918e12, 1640e9, 4 * 256**2),
}
# As Kaggle, Colab and Google Cloud call them -> as libtpu does.
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
    """The step cannot be compiled for these chips; the message says why."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the compiler says of a training step. Memory in bytes per chip, the others per image.

    strips: into how many the first blocks cut each image.
    megabytes: read from and written to the chips' memory, see `compiled.py`. counted_megabytes: as XLA's cost analysis
    counts them. images_per_s: the roofline, of all chips together. bound: "memory" or "compute", whichever limits it.
    expected_images_per_s: from the cycles that the compiler expects, which leave some out, see `compiled.HloCost`.
    """

    topology: str
    chips: int
    batch_per_chip: int
    strips: int
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
        """For people."""
        total = self.memory_used + self.memory_free
        wasteful = self.batch_per_chip * self.strips % select.LANES
        return (
            f"{self.topology}: {self.chips} x {self.batch_per_chip} images compile in {self.compile_seconds:.0f} s\n"
            f"memory per chip: {self.memory_used / GB:.2f} of {total / GB:.0f} GB used, "
            f"{self.memory_free / GB:.2f} free\n"
            f"per image: {self.megabytes:.0f} MB to and from memory ({self.counted_megabytes:.0f} as XLA counts), "
            f"{self.gflop:.2f} GFLOP\n"
            f"roofline: {self.images_per_s:.0f} images/s, limited by {self.bound}; "
            f"the compiler expects {self.expected_images_per_s:.0f}"
            + (f"\nregisters have empty lanes: give a chip {select.LANES} images or a multiple" if wasteful else "")
        )


def define_flags() -> None:
    """The flags of this command."""
    configs.find_in_arguments(sys.argv)
    config_flags.DEFINE_config_file("config", str(configs.CONFIGS / "default.py"), "What to train; see configs/.")
    flags.DEFINE_string("topology", "v5e-8", f"{', '.join(TOPOLOGIES)}, or as libtpu has it: v5e:4x4.")
    flags.DEFINE_integer("batch", None, "Images per chip; default: config.batch_size over the chips.", 1)
    flags.DEFINE_bool("find_batch", False, "Look for the largest batch that fits; three compilations or a few more.")
    flags.DEFINE_bool("json", False, "Print JSON.")


def main(argv: list[str]) -> None:
    del argv
    config = FLAGS.config
    configs.check(config)
    prepare(config.precision)
    topology, devices = FLAGS.topology, topology_devices(FLAGS.topology)
    if not FLAGS.batch and config.batch_size % len(devices):
        raise ValueError(
            f"config.batch_size={config.batch_size} is global; {len(devices)} chips do not divide it. Or give --batch"
        )
    batch = FLAGS.batch or config.batch_size // len(devices)
    if FLAGS.find_batch:
        finding = find_batch(config, topology, devices, batch)
    else:
        finding = examine(config, topology, devices, batch)
    cli.say(json.dumps(dataclasses.asdict(finding)) if FLAGS.json else finding.text())


def prepare(precision: str) -> None:
    """Before Keras and JAX are imported: Keras on JAX, JAX on the CPU, libtpu without asking for a TPU."""
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    # It complains about what a machine without TPUs cannot know, whatever is compiled for.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax
    import keras

    jax.config.update("jax_platforms", "cpu")
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "auto" else precision)


def topology_devices(name: str) -> list[Any]:
    """The devices of a topology. Raises Preflight naming those there are."""
    from jax.experimental import topologies

    try:
        usual = name.replace("v5litepod-", "v5e-")  # Google Cloud's other name
        layout = TOPOLOGIES.get(usual, usual)
        # libtpu takes hosts to have four chips unless told.
        options = {"chips_per_host_bounds": [1, 1, 1]} if layout.endswith(":1x1") else {}
        devices = list(topologies.get_topology_desc(layout, "tpu", **options).devices)
    except Exception as error:
        raise PreflightError(
            f"--topology {name!r}: {_why(name, error)}. Known: {', '.join(TOPOLOGIES)}, or a layout as v5e:4x4. "
            "It needs Linux on x86 and `pip install 'melanoma-tf[tpu]'`."
        ) from error
    _chip(name)
    return devices


def _chip(topology: str) -> Chip:
    kind = topology.replace("v5litepod", "v5e").split(":")[0].split("-")[0]
    if kind not in CHIPS:
        raise PreflightError(f"--topology {topology!r}: no figures for {kind!r}; known: {', '.join(CHIPS)}")
    return CHIPS[kind]


def _why(name: str, error: Exception) -> str:
    """libtpu answers a name that is no layout with the pattern of its layouts."""
    return str(error).splitlines()[0] if ":" in name or name in TOPOLOGIES else "there is no such topology"


def examine(config: ml_collections.ConfigDict, topology: str, devices: list[Any], batch_per_chip: int) -> Finding:
    """Compiles the training step of `config` for these devices.

    Raises:
      PreflightError: it does not compile, or needs more memory than a chip has.
    """
    import numpy as np

    from melanoma_tf.models import backbones
    from melanoma_tf.training import build

    select.Runtime.forget_models()
    config = config.copy_and_resolve_references()
    config.weights = "none"
    chips = select.Runtime("jax", "tpu", (), "", generation=devices[0].device_kind)
    strips = chips.strips(config.strips, batch_per_chip)
    trainer, classifier = build.build_trainer(config, 0.02, 1000, resampling=chips.resampling, strips=strips)
    size = config.image_size
    features = {"image": np.zeros((2, size, size, 3), np.uint8), "seed": np.zeros(2, np.uint32)}
    batch = features, np.zeros(2, np.float32)
    seen = backbones.describe_strips(classifier)
    what = f"{config.model} at {size} px for {topology}, {batch_per_chip} images a chip; {seen}"
    return compile_step(trainer, batch, topology, devices, batch_per_chip, what, backbones.strips_seen(classifier))


def compile_step(
    trainer: keras.Model,
    batch: tuple[Any, Any],
    topology: str,
    devices: list[Any],
    batch_per_chip: int,
    what: str,
    strips: int = 1,
) -> Finding:
    """Compiles the training step of a compiled model, the batch divided among the devices.

    batch: (inputs, targets) of a few images, arrays as the model takes them; `batch_per_chip` says how many there are
    to be. what: is compiled, for people to read meanwhile. strips: as in `Finding`.

    Raises:
      PreflightError: it does not compile, or needs more memory than a chip has.
    """
    import jax
    import keras

    from melanoma_tf.tpu import hlo_cost

    chip, images = _chip(topology), batch_per_chip * len(devices)
    trainer._symbolic_build(data_batch=batch)
    distribution = keras.distribution.DataParallel(keras.distribution.DeviceMesh((len(devices),), ["batch"], devices))
    mesh = distribution.device_mesh.backend_mesh
    everywhere, divided = (jax.sharding.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("batch",)))

    def spec(value: Any, sharding: Any, shape: Any = None) -> Any:
        return jax.ShapeDtypeStruct(value.shape if shape is None else shape, value.dtype, sharding=sharding)

    kinds = ("trainable_variables", "non_trainable_variables", "metrics_variables")
    trainable, others, metrics = ([spec(v.value, everywhere) for v in getattr(trainer, each)] for each in kinds)
    optimizer = [spec(v.value, everywhere) for v in trainer.optimizer.variables]
    given = jax.tree.map(lambda value: spec(value, divided, (images, *value.shape[1:])), batch)

    started = time.perf_counter()
    try:
        with _progress(f"compiling {what}"):
            step = jax.jit(trainer.train_step, donate_argnums=0)
            with distribution.scope():
                lowered = step.lower((trainable, others, optimizer, metrics), given)
            program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise PreflightError(f"{topology}, {batch_per_chip} images a chip: {_reason(str(error))}") from error
    seconds = time.perf_counter() - started
    memory, cost = program.memory_analysis(), program.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
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
    effort = hlo_cost.effort(program.as_text())
    by_memory, by_compute = effort.memory_bytes / chip.bandwidth, cost["flops"] / chip.flops
    return Finding(
        topology=topology,
        chips=len(devices),
        batch_per_chip=batch_per_chip,
        strips=strips,
        memory_used=float(used),
        memory_free=float(chip.memory - used),
        gflop=cost["flops"] / batch_per_chip / 1e9,
        megabytes=effort.memory_bytes / batch_per_chip / 1e6,
        counted_megabytes=cost["bytes accessed"] / batch_per_chip / 1e6,
        images_per_s=images / max(by_memory, by_compute),
        bound="memory" if by_memory > by_compute else "compute",
        expected_images_per_s=images * chip.clock / effort.cycles,
        compile_seconds=round(seconds, 1),
    )


def find_batch(config: ml_collections.ConfigDict, topology: str, devices: list[Any], start: int) -> Finding:
    """The largest batch per chip that fits, a multiple of 8: memory grows with it along a line, which is followed.

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
    """What of XLA's message people want to read."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return next((line for line in lines if "hbm" in line.lower() or "memory" in line.lower()), lines[0])[:300]


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """Says on standard error what is going on, and every 20 seconds that it still is."""
    done, started = threading.Event(), time.perf_counter()

    def tell() -> None:
        print(what, file=sys.stderr, flush=True)
        while not done.wait(20):
            print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
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
