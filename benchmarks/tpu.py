"""What does a training step move on a TPU, and how long does its compiler expect it to take, beside plain Keras?

    python benchmarks/tpu.py
    python benchmarks/tpu.py --models efficientnet-b3:300 --batch 32 --topology v6e-8

Nothing runs: both steps are compiled by libtpu for chips that need not be there, as `melanoma_tf.preflight` does it,
in two to ten minutes each. Ours is that of configs/default.py, with the whole augmentation, but AdamW and moving
averages of weights; plain Keras is `keras.applications` and its own `train_step` with the same optimizer, of float32
pictures and without augmentation. Both compute in bfloat16.
"""

from __future__ import annotations

from typing import Any

from absl import app, flags

from melanoma_tf import preflight, runtime

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["efficientnet-b0:384"], "MODEL:SIZE of each comparison.")
flags.DEFINE_string("topology", "v5e-8", f"{', '.join(preflight.TOPOLOGIES)}, or as libtpu has it: v5e:4x4.")
flags.DEFINE_integer("batch", 64, "Images per chip.", 1)
EMA = 0.999


def plain_keras(name: str, size: int, devices: list[Any]) -> preflight.Finding:
    import keras
    import numpy as np

    from melanoma_tf.model import BACKBONES

    runtime.Runtime.forget_models()
    constructor = getattr(keras.applications, BACKBONES[name].constructor)
    network = constructor(weights=None, classes=1, classifier_activation=None, input_shape=(size, size, 3))
    optimizer = keras.optimizers.AdamW(3e-4, use_ema=True, ema_momentum=EMA)
    network.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=True)
    batch = np.zeros((2, size, size, 3), np.float32), np.zeros((2, 1), np.float32)
    return preflight.compile_step(network, batch, FLAGS.topology, devices, FLAGS.batch, f"plain Keras, {name}:{size}")


def ours(name: str, size: int, devices: list[Any]) -> preflight.Finding:
    from melanoma_tf import config as configs

    config = configs.default()
    config.update(model=name, image_size=size, optimizer="adamw", ema=EMA)
    return preflight.examine(config, FLAGS.topology, devices, FLAGS.batch)


def main(argv: list[str]) -> None:
    del argv
    preflight.prepare("mixed_bfloat16")
    devices = preflight.topology_devices(FLAGS.topology)
    rows = [
        f"{FLAGS.topology}, {FLAGS.batch} images a chip",
        "",
        "| | MB an image | as XLA counts | GFLOP an image | GB of memory | images/s expected |",
        "|---|---|---|---|---|---|",
    ]
    for model in FLAGS.models:
        name, _, size = model.partition(":")
        plain, whole = plain_keras(name, int(size), devices), ours(name, int(size), devices)
        for label, found in (("plain Keras, no augmentation", plain), ("ours", whole)):
            rows.append(
                f"| {model}, {label} | {found.megabytes:.0f} | {found.counted_megabytes:.0f} | {found.gflop:.1f} "
                f"| {found.memory_used / 1e9:.2f} | {found.expected_images_per_s:,.0f} |"
            )
        rows.append(
            f"| {model}, ratio | {whole.megabytes / plain.megabytes:.2f} "
            f"| {whole.counted_megabytes / plain.counted_megabytes:.2f} | {whole.gflop / plain.gflop:.2f} "
            f"| {whole.memory_used / plain.memory_used:.2f} "
            f"| {whole.expected_images_per_s / plain.expected_images_per_s:.2f} |"
        )
    print("\n".join(rows))


if __name__ == "__main__":
    app.run(main)
