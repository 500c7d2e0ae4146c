"""HBM traffic and estimated speed of a training step on a TPU, ours and plain Keras.

    python benchmarks/tpu.py
    python benchmarks/tpu.py --models efficientnet-b3:300 --batch 32 --topology v6e-8

No step runs: libtpu compiles them for chips that need not exist, as `melanoma_tf.preflight` does, in two to ten minutes
each. Ours is that of configs/default.py, augmentation and focal loss included, with AdamW, moving averages of weights
and all settings of config.tpu on. Plain Keras is `keras.applications` under binary crossentropy with its own
`train_step`, AdamW and moving averages, on float32 images that are not augmented. Both compute in bfloat16. The kernel
that warps images has no estimate and is not in the expected images/s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import app, flags

from melanoma_tf import preflight
from melanoma_tf.devices import select

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["efficientnet-b0:384"], "MODEL:SIZE of each comparison.")
flags.DEFINE_string("topology", "v5e-8", f"{', '.join(preflight.TOPOLOGIES)}, or a libtpu layout such as v5e:4x4.")
flags.DEFINE_integer("batch", 64, "Images per chip.", 1)
EMA = 0.999
Contender = Callable[[str, int, list[Any]], preflight.Finding]


def plain_keras(name: str, size: int, devices: list[Any]) -> preflight.Finding:
    import keras
    import numpy as np

    from melanoma_tf.models import registry

    select.Runtime.forget_models()
    constructor = getattr(keras.applications, registry.backbone(name).constructor)
    network = constructor(weights=None, classes=1, classifier_activation=None, input_shape=(size, size, 3))
    optimizer = keras.optimizers.AdamW(3e-4, use_ema=True, ema_momentum=EMA)
    network.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=True)
    batch = np.zeros((2, size, size, 3), np.float32), np.zeros((2, 1), np.float32)
    return preflight.compile_step(network, batch, FLAGS.topology, devices, FLAGS.batch, f"plain Keras, {name}:{size}")


def ours(name: str, size: int, devices: list[Any]) -> preflight.Finding:
    from melanoma_tf.core import config

    settings = config.default()
    settings.update(model=name, image_size=size, optimizer="adamw", ema=EMA)
    settings.tpu.update(rewrites=True, spatial_splits=0, warp="shears")
    return preflight.examine(settings, FLAGS.topology, devices, FLAGS.batch)


def main(argv: list[str]) -> None:
    del argv
    preflight.prepare("mixed_bfloat16")
    from melanoma_tf.models import registry

    asked = [name.partition(":") for name in FLAGS.models]
    for name, _, size in asked:
        registry.backbone(name)
        if not size.isdecimal():
            raise app.UsageError(f"--models {name}: expected MODEL:SIZE, e.g. efficientnet-b0:384")
    devices = preflight.topology_devices(FLAGS.topology)
    print(f"{FLAGS.topology}, {FLAGS.batch} images a chip\n")
    print("| | MB an image | as XLA counts | GFLOP an image | GB of memory | images/s expected |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, _, size in asked:
        plain = report(f"{name}:{size}, plain Keras", plain_keras, name, int(size), devices)
        whole = report(f"{name}:{size}, ours", ours, name, int(size), devices)
        if plain and whole:
            ratios = [f"{mine / theirs:.2f}" for mine, theirs in zip(whole, plain, strict=True)]
            print(f"| {name}:{size}, ratio | {' | '.join(ratios)} |", flush=True)


def report(label: str, compile_it: Contender, name: str, size: int, devices: list[Any]) -> list[float]:
    """Prints a row of the table and returns its figures; an empty list if the step does not compile."""
    try:
        found = compile_it(name, size, devices)
    except preflight.PreflightError as error:
        print(f"| {label} | {error} |", flush=True)
        return []
    memory = found.memory_used / 1e9
    figures = [found.megabytes, found.counted_megabytes, found.gflop, memory, found.expected_images_per_s]
    moved, counted, gflop, _, images = figures
    print(f"| {label} | {moved:.0f} | {counted:.0f} | {gflop:.1f} | {memory:.2f} | {images:,.0f} |", flush=True)
    return figures


if __name__ == "__main__":
    app.run(main)
