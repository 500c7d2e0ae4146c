"""Checks whether this machine can build and train: versions, backends, devices, folders and disk.

    python -m melanoma_tf.doctor
    python -m melanoma_tf.doctor --workdir runs/b3 --backends jax
    python -m melanoma_tf.doctor --measure    # on a TPU: which settings of config.tpu are right and faster

Each line is a finding: ok, warning or FAILED, the last two with a remedy below. Each installed backend is tried in its
own process, which writes weights of EfficientNet-B0, loads them into another model, compares the outputs of both, and
trains one step on all devices. The exit code is 1 if anything FAILED.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from melanoma_tf.core import cli, config
from melanoma_tf.devices import select
from melanoma_tf.models import registry

FLAGS = flags.FLAGS
PACKAGE = "melanoma-tf"
GB = 1e9
_DEVICES = Path("/dev")
ROOM, ROOM_AT_LEAST = 5.0, 1.0  # GB: shards of 33,126 images at 384 px take 1.5, a run of B3 with two checkpoints 0.4
PROBE_SECONDS = 900  # the first step compiles: 30 to 90 s on two cores


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
      passed: False counts as a failure.
      what: the finding, in one line.
      remedy: how to fix it; "" where nothing is wrong.
    """

    passed: bool
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        grade = ("warning" if self.remedy else "ok") if self.passed else "FAILED"
        return f"{grade:8}{self.what}" + (f"\n        -> {self.remedy}" if self.remedy else "")


def define_flags() -> None:
    """The flags of this command."""
    flags.DEFINE_string("workdir", "runs", "Local folder that runs will write to.")
    flags.DEFINE_string("out", "tfrecords", "Local folder that builds will write to.")
    flags.DEFINE_multi_enum("backends", [], select.BACKENDS[1:], "Backends to try; default: those installed.")
    flags.DEFINE_enum("probe", None, select.BACKENDS[1:], "Used by this command itself: try one backend, print JSON.")
    flags.DEFINE_bool("measure", False, "Compare and time the plain and the rewritten training step instead.")
    flags.DEFINE_enum("model", "efficientnet-b0", list(registry.BACKBONES), "--measure: backbone.")
    flags.DEFINE_integer("size", 224, "--measure: image size in pixels.", 32)
    flags.DEFINE_integer("batch", 32, "--measure: images per device.", 1)


def main(argv: list[str]) -> None:
    """Checks this machine and prints the findings."""
    del argv
    if FLAGS.probe:
        print(json.dumps(probe(FLAGS.probe)))
        return
    if FLAGS.measure:
        lines = []
        for line in measure_step(FLAGS.model, FLAGS.size, FLAGS.batch):
            lines.append(line)
            cli.say(line)
        if any(line.startswith("FAILED") for line in lines):
            sys.exit(1)
        return
    failed = 0
    workdir, out = (cli.local_folder(name, FLAGS[name].value) for name in ("workdir", "out"))
    for finding in examine(workdir, out, FLAGS.backends):
        cli.say(str(finding))
        failed += not finding.passed
    cli.say(f"{failed} FAILED" if failed else "everything that training needs was found")
    if failed:
        sys.exit(1)


def examine(workdir: Path, out: Path, backends: list[str]) -> Iterator[Finding]:
    """All findings, the quick ones first."""
    yield place()
    yield from versions()
    yield converter()
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    for folder, purpose in ((workdir, "runs"), (out, "builds"), (cache, "pretrained weights")):
        yield writable(folder, purpose)
    for folder in dict.fromkeys((workdir, out)):
        yield room(folder)
    installed = [name for name in select.BACKENDS[1:] if importlib.util.find_spec(name)]
    for name in backends or installed:
        yield from backend(name)


def place() -> Finding:
    """The platform and its Python."""
    found = "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "this machine"
    found = "Colab" if "COLAB_RELEASE_TAG" in os.environ else found
    version, what = sys.version.split()[0], f"Python on {found}"
    wanted = importlib.metadata.metadata(PACKAGE)["Requires-Python"] if _is_installed() else ">=3.11,<3.14"
    passed = SpecifierSet(wanted).contains(version)
    return Finding(passed, f"{what} {version}", "" if passed else f"use a Python {wanted}")


def versions() -> Iterator[Finding]:
    """Each requirement of the installed package and the version that was found."""
    if not _is_installed():
        yield Finding(False, f"{PACKAGE} is not installed", "in its repository: pip install -e .")
        return
    extras = {"tensorflow": "tensorflow", "jax": "tpu"}
    for text in importlib.metadata.requires(PACKAGE) or []:
        wanted = Requirement(text)
        name, extra = wanted.name, extras.get(wanted.name, "")
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # TensorFlow has several distributions; a second one beside the first would break both.
            name = next(iter(importlib.metadata.packages_distributions().get(name, [name])))
            version = importlib.metadata.version(name) if name != wanted.name else ""
        asked = f"pip install '{name}{wanted.specifier}'"
        if version:
            fits = wanted.specifier.contains(version, prereleases=True)
            yield Finding(fits, f"{name} {version}", "" if fits else asked)
        elif name == "jax":
            yield Finding(True, f"{name} is not installed (for TPUs and several hosts)")
        else:
            yield Finding(False, f"{name} is not installed", f"pip install '{PACKAGE}[{extra}]'" if extra else asked)
    if importlib.util.find_spec("tensorflow_addons"):
        yield Finding(
            True,
            "tensorflow-addons is installed; it ended in 2024 and breaks beside Keras 3 as soon as it is imported",
            "pip uninstall tensorflow-addons; melanoma_tf.addons and Keras have its loss, warps, cutouts, optimizers",
        )


def converter() -> Finding:
    """Whether the converter's resampler was compiled at installation."""
    try:
        importlib.import_module("tfrecord_tools.imaging._resample")
    except ImportError:
        remedy = "for speed alone: install a C compiler (apt install gcc), then this package again"
        return Finding(True, "the converter works without its C extension: the same bytes, more slowly", remedy)
    return Finding(True, "the converter resamples in C")


def writable(folder: Path, purpose: str) -> Finding:
    """Whether a file can be written where `folder` is or will be."""
    there = _nearest(folder)
    if not there.is_dir():
        return Finding(False, f"{there} is a file", f"name another folder for {purpose}")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(False, f"{there} cannot be written to: {error.strerror}", f"name another folder for {purpose}")
    return Finding(True, f"{folder} can be written to ({purpose})")


def room(folder: Path) -> Finding:
    """Free disk where `folder` is or will be."""
    free = shutil.disk_usage(_nearest(folder)).free / GB
    remedy = f"free some, or use a folder on another disk: shards at 384 px and a run take up to {ROOM:.0f} GB"
    return Finding(free >= ROOM_AT_LEAST, f"{free:.1f} GB free at {folder}", "" if free >= ROOM else remedy)


def backend(name: str) -> Iterator[Finding]:
    """Findings of `probe` in its own process: a backend is chosen once, and a broken driver ends its process."""
    print(f"trying {name}: writes and loads weights, compiles and trains one step ...", file=sys.stderr)
    module = [sys.executable, "-m", "melanoma_tf.doctor", "--probe", name]
    try:
        done = subprocess.run(module, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        yield Finding(False, f"{name}: no answer within {PROBE_SECONDS} s", "look at the driver (nvidia-smi)")
        return
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield Finding(False, f"{name}: {last}", f"python -m melanoma_tf.doctor --probe {name} shows all of it")
        return
    yield from judge(name, json.loads(lines[-1]))


def judge(name: str, found: dict[str, Any]) -> Iterator[Finding]:
    """Findings from the result of `probe`."""
    yield Finding(True, f"{name}: {found['runtime']}")
    gpu = next(_DEVICES.glob("nvidia[0-9]*"), None)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if gpu and found["kind"] == "cpu" and not hidden:
        install = {"tensorflow": "pip install 'melanoma-tf[gpu]'", "jax": "pip install 'jax[cuda12]'"}[name]
        remedy = f"{install}, and see whether nvidia-smi lists it"
        # Training uses JAX where only JAX was installed for GPUs, see devices/select.py.
        wanted = (name == "jax") == select.jax_is_for_gpus()
        yield Finding(not wanted, f"{name} does not see the NVIDIA GPU of this machine ({gpu})", remedy)
    again = "this installation computes wrong results: reinstall it, or use the other --backend"
    same = found["weights_difference"] < 1e-5
    what = f"{name}: weights written and loaded, outputs differ by {found['weights_difference']:.1g}"
    yield Finding(same, what, "" if same else again)
    trained = found["changed"] and found["loss"] < 100
    change = "changed" if found["changed"] else "did not change"
    what = f"{name}: one step of EfficientNet-B0 at 32 px, loss {found['loss']:.3g}, weights {change}"
    yield Finding(trained, f"{what}, {found['seconds']:.0f} s", "" if trained else again)


def probe(name: str) -> dict[str, Any]:
    """Saves and loads weights and trains one step, on all devices that a backend finds."""
    devices = select.start("auto", name)
    import time

    import keras
    import numpy as np
    import tensorflow as tf

    from melanoma_tf.models import pretrained
    from melanoma_tf.training import build

    settings, batch = config.default(), 8 * devices.replicas
    settings.update(model="efficientnet-b0", weights="none", image_size=32, batch_size=batch, warmup_epochs=0.0)
    precision = devices.precision()
    keras.config.set_dtype_policy(precision)
    rng = np.random.default_rng(0)
    images, seeds = rng.integers(0, 256, (batch, 32, 32, 3), np.uint8), np.arange(batch, dtype=np.uint32)
    image = images[:1] / np.float32(255)
    with devices.scope():
        trainer, classifier = build.build_trainer(settings, 0.1, 10, devices.profile)
        other = build.build_classifier(settings)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "doctor.weights.h5"))
        classifier.save_weights(path)
        pretrained.load(other, settings.model, path)
    difference = np.abs(np.asarray(other(image)) - np.asarray(classifier(image))).max()
    kernel = trainer.trainable_variables[0]
    before = keras.ops.convert_to_numpy(kernel)
    targets = (np.arange(batch) % 2).astype(np.float32)
    batches = tf.data.Dataset.from_tensors(({"image": images, "seed": seeds}, targets))
    started = time.perf_counter()
    loss = trainer.fit(batches, verbose=0, shuffle=False).history["loss"][0]
    return {
        "runtime": devices.describe(batch, precision),
        "kind": devices.kind,
        "weights_difference": float(difference),
        "loss": float(loss),
        "changed": bool(np.any(keras.ops.convert_to_numpy(kernel) != before)),
        "seconds": time.perf_counter() - started,
    }


PLAIN = "the default"
# Settings that --measure tries, as on the command line; the last on TPUs that can run the kernel.
CANDIDATES = {
    "--config.tpu.rewrites=True": {"rewrites": True},
    "--config.tpu.rewrites=True --config.tpu.spatial_splits=0": {"rewrites": True, "spatial_splits": 0},
    "--config.tpu.rewrites=True --config.tpu.spatial_splits=0 --config.tpu.warp=shears": {
        "rewrites": True,
        "spatial_splits": 0,
        "warp": "shears",
    },
}


def measure_step(model: str, size: int, batch_per_device: int) -> Iterator[str]:
    """Compares and times the plain training step and those of `CANDIDATES`; yields lines of the report.

    Args:
      model: a key of `registry.BACKBONES`.
      size: of the images, pixels.
      batch_per_device: images.
    """
    devices = select.start("auto")
    import keras
    import numpy as np

    from melanoma_tf.tpu import measure, rewrite
    from melanoma_tf.training import build

    settings, batch = config.default(), batch_per_device * devices.replicas
    settings.update(model=model, weights="none", image_size=size, batch_size=batch, warmup_epochs=0.0)
    settings.update(dropout=0.0, drop_connect=0.0, loss="bce", lr=1e-4)  # steps that can be compared
    # Elsewhere than on a TPU the rewritten graph is built as for one, to compare results.
    on_jax, on_tpu = devices.backend == "jax", devices.profile.is_tpu
    profile = dataclasses.replace(devices.profile, kind="tpu") if on_jax else devices.profile
    precision = "mixed_bfloat16" if on_jax else devices.precision()
    keras.config.set_dtype_policy(precision)
    dtype = keras.config.dtype_policy().compute_dtype
    yield devices.describe(batch, precision)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    features, targets = {"image": images, "seed": np.arange(batch, dtype=np.uint32)}, (np.arange(batch) % 2.0)
    targets = targets.astype(np.float32)

    def step() -> measure.Step:
        keras.utils.set_random_seed(0)
        with devices.scope():
            return measure.Step(*build.build_trainer(settings, 0.5, 10, profile))

    steps = {PLAIN: step()}
    if not on_jax:
        yield f"{model} at {size} px: {measure.rates(steps, features, targets)[PLAIN]:.1f} images/s with {PLAIN}"
        yield "nothing to compare: the rewrites for TPUs need Keras on JAX (KERAS_BACKEND=jax); keep the default"
        return
    weights = steps[PLAIN].classifier.get_weights()
    plain, tried, right = measure.trace(steps[PLAIN], weights, features, targets), set(), []
    for line, changes in CANDIDATES.items():
        with settings.unlocked():
            settings.tpu = config.default().tpu
        settings.tpu.update(changes)
        key = rewrite.choose(settings.tpu, profile, batch, dtype), profile.warp_method(settings.tpu)
        if key in tried or (key[1] == "shears" and not on_tpu):
            continue
        tried.add(key)
        steps[line] = step()
        found = measure.compare(plain, measure.trace(steps[line], weights, features, targets), dtype)
        right += [line] * found.agrees
        yield (
            f"{'ok' if found.agrees else 'FAILED':8}{line}: logits differ by {found.logits:.2g}, losses by "
            f"{found.losses:.2g}, allowed {found.tolerance:.2g} ({measure.STEPS} steps in {dtype})"
        )
    rates = measure.rates(steps, features, targets)
    yield from (f"{rate:10.1f} images/s with {line}" for line, rate in rates.items())
    yield verdict(rates, right, on_tpu)


def verdict(rates: dict[str, float], right: list[str], on_tpu: bool) -> str:
    """The settings to use: the fastest whose results agree, if a TPU was measured and it gains enough."""
    from melanoma_tf.tpu import measure

    best = max(right, key=rates.__getitem__, default=PLAIN)
    if not on_tpu:
        return "this is no TPU, so speed on one is unknown: keep the default"
    if rates[best] < measure.GAIN * rates[PLAIN]:
        return "keep the default"
    return f"use: {best}"


def _is_installed() -> bool:
    return bool(list(importlib.metadata.distributions(name=PACKAGE)))


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest parent that exists; it may be a file."""
    folder = folder.resolve()
    return next(each for each in (folder, *folder.parents) if each.exists())


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
