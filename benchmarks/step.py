"""Speed of a training step: this pipeline, plain Keras and timm (PyTorch) on the same device, taking turns.

    python benchmarks/step.py --device cpu --models efficientnet-b0:128 --batches 16
    python benchmarks/step.py --device gpu --batches 64,128,256 \\
      --models efficientnet-b0:384,efficientnet-b4:380,efficientnetv2-s:384

Each contender runs in its own process, compiles once, and trains --steps steps a turn, so that other load falls on
all. Ours trains with the augmentation of configs/default.py on the device, the others with none. All use Adam and
images from memory. On a GPU all compute in bfloat16 (timm: AMP, channels_last, torch.compile), on a CPU in float32. Of
several --batches each contender's best counts. images/s: median over the turns. Packages that are not installed are
reported and skipped (pip install jax timm).
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
CONTENDERS = ("ours, TensorFlow", "ours, JAX", "plain Keras, TensorFlow", "plain Keras, JAX", "timm, PyTorch")
flags.DEFINE_list("models", ["efficientnet-b0:128"], "MODEL:SIZE of each comparison.")
flags.DEFINE_list("batches", ["16"], "Batch sizes to try.")
flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Device.")
flags.DEFINE_integer("steps", 10, "Steps a turn.", 1)
flags.DEFINE_integer("repeat", 5, "Turns.", 1)
flags.DEFINE_list("only", [], "Contenders to run, by parts of their names, e.g. TensorFlow,timm; default: all.")
flags.DEFINE_string("contender", None, "Used by this script itself: run this contender.")

TIMM = {"efficientnetv2-s": "tf_efficientnetv2_s", "efficientnetv2-m": "tf_efficientnetv2_m"}
Turn = Callable[[int], None]  # trains a number of steps and waits for them


# ------------------------------------------------------------------------------------------- contenders


def ours(backend: str, model: str, size: int, batch: int) -> Turn:
    from melanoma_tf.devices import select

    devices = select.start(FLAGS.device, backend)
    import keras

    from melanoma_tf.core import config
    from melanoma_tf.training import build

    keras.config.set_dtype_policy(devices.precision())
    settings = config.default()
    settings.update(model=model, image_size=size, batch_size=batch, weights="none")
    trainer, _ = build.build_trainer(settings, 0.02, 1000, devices.profile)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    features = {"image": images, "seed": np.arange(batch, dtype=np.uint32)}
    return fitting(trainer, features, (np.arange(batch) % 2).astype(np.float32))


def plain_keras(backend: str, model: str, size: int, batch: int) -> Turn:
    from melanoma_tf.devices import select

    devices = select.start(FLAGS.device, backend)
    import keras

    from melanoma_tf.models import registry

    keras.config.set_dtype_policy(devices.precision())
    constructor = getattr(keras.applications, registry.backbone(model).constructor)
    network = constructor(weights=None, classes=1, classifier_activation=None, input_shape=(size, size, 3))
    network.compile(keras.optimizers.Adam(3e-4), keras.losses.BinaryCrossentropy(from_logits=True))
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    return fitting(network, images, (np.arange(batch) % 2).astype(np.float32)[:, None])


def fitting(model: Any, features: Any, targets: Any) -> Turn:
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors((features, targets)).repeat()
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread outlives each `fit`, which would be measured
    batches = batches.with_options(options)

    def turn(steps: int) -> None:
        model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)

    return turn


def timm(model: str, size: int, batch: int) -> Turn:
    import timm
    import torch

    gpu = FLAGS.device == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    torch.backends.cudnn.benchmark = True
    network = timm.create_model(TIMM.get(model, model.replace("-", "_")), num_classes=1, drop_path_rate=0.2)
    network = network.to(device, memory_format=torch.channels_last).train()
    step_model = torch.compile(network) if gpu else network
    optimizer = torch.optim.Adam(network.parameters(), 3e-4, fused=gpu)
    images = torch.rand(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    targets = (torch.arange(batch, device=device) % 2).float()[:, None]

    def turn(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(step_model(images), targets)
            loss.backward()
            optimizer.step()
        float(loss)

    return turn


def be(name: str, model: str, size: int, batch: int) -> None:
    """Runs one contender: trains a turn for each line of standard input and prints images/s."""
    who, _, where = name.partition(", ")
    if who == "timm":
        turn = timm(model, size, batch)
    else:
        turn = (ours if who == "ours" else plain_keras)(where.lower(), model, size, batch)
    turn(3)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        turn(FLAGS.steps)
        print(FLAGS.steps * batch / (time.perf_counter() - started), flush=True)


# ------------------------------------------------------------------------------------------ measurement


def start(name: str, model: str, batch: str) -> subprocess.Popen[str]:
    own = [f"--contender={name}", f"--models={model}", f"--batches={batch}"]
    command = [sys.executable, __file__, *own, f"--device={FLAGS.device}", f"--steps={FLAGS.steps}"]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the others need memory too
    pipe, log = subprocess.PIPE, open(errors_of(name), "w")  # noqa: SIM115  an unread pipe would fill up
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)


def errors_of(name: str) -> str:
    """File of a contender's standard error."""
    return os.path.join(tempfile.gettempdir(), f"step-{os.getpid()}-{name.replace(', ', '-')}.log")


def report_dead(name: str, model: str, batch: str) -> None:
    with open(errors_of(name)) as log:
        words = log.read().strip().splitlines() or ["no message"]
    print(f"{name}, {model}, batch {batch}: not measured: {words[-1][:200]}", flush=True)


def answer(process: subprocess.Popen[str]) -> str:
    """Next line of a contender; "" if it has died."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready" or line[:1].isdigit():
            return line.strip()
    return ""


def measure(names: list[str], model: str, batch: str) -> dict[str, list[float]]:
    """images/s of every turn of each contender that runs; reports those that fail."""
    running: dict[str, subprocess.Popen[str]] = {}
    for name in names:  # one after the other, so that they do not compile at the same time
        process = start(name, model, batch)
        if answer(process):
            running[name] = process
        else:
            report_dead(name, model, batch)
    rates: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(FLAGS.repeat):
        for name in list(running)[:: 1 if turn % 2 == 0 else -1]:
            assert running[name].stdin is not None
            print("go", file=running[name].stdin, flush=True)
            if found := answer(running[name]):
                rates[name].append(float(found))
            else:
                report_dead(name, model, batch)
                del running[name], rates[name]
    for process in running.values():
        process.communicate()
    return rates


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.contender:
        model, _, size = FLAGS.models[0].partition(":")
        be(FLAGS.contender, model, int(size), int(FLAGS.batches[0]))
        return
    names = [name for name in CONTENDERS if not FLAGS.only or any(part in name for part in FLAGS.only)]
    print(f"{FLAGS.device}, {platform.machine()}, {os.cpu_count()} cores, n={FLAGS.repeat} x {FLAGS.steps} steps\n")
    rows = ["| model | contender | batch | images/s, median (min to max) |", "|---|---|---|---|"]
    for model in FLAGS.models:
        best: dict[str, tuple[float, str, list[float]]] = {}
        for batch in FLAGS.batches:
            for name, rates in measure(names, model, batch).items():
                best[name] = max(best.get(name, (0.0, "", [])), (statistics.median(rates), batch, rates))
        for name, (median, batch, rates) in best.items():
            rows.append(f"| {model} | {name} | {batch} | {median:.1f} ({min(rates):.1f} to {max(rates):.1f}) |")
    print("\n".join(["", *rows]))


if __name__ == "__main__":
    app.run(main)
