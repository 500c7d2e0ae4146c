"""Cost of augmentation: on a TPU by its compiler, on this machine by the clock, compared with other libraries.

    python benchmarks/augment.py                                  # images/s of one core
    python benchmarks/augment.py --device gpu                     # images/s of a GPU, under JAX if KERAS_BACKEND=jax
    python benchmarks/augment.py --tpu v5e-4                      # MB and GFLOP per image; needs libtpu, no TPU

Here: each augmenter turns batches of u8 images into floats, in rotation; images/s is the median over the rounds. On a
CPU each has one thread. On a GPU ours and the layers of Keras and keras-cv run there, including the transfer of the
images, and the others stay on the CPU. All run the same policy: rotation by any angle, shear 2, zoom 10 %, shift 2 %,
left-right flip, brightness, contrast, saturation and hue, cutout. Libraries that are not installed are reported and
skipped (pip install '.[bench]'; keras-cv, which is no longer developed, has to be installed by itself).

--tpu: libtpu compiles each operation and named policy for one TPU chip, as the trainer would run it (u8 to bfloat16),
and the compiler's own megabytes moved and GFLOP per image are printed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
BATCHES = 4  # per round
flags.DEFINE_integer("size", 384, "Side of the images, in pixels.", 32)
flags.DEFINE_integer("batch", 64, "Batch size.", 1)
flags.DEFINE_integer("repeat", 5, "Rounds.", 1)
flags.DEFINE_string("images", None, "Folder of JPEGs; default: random pixels.")
flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Device, without --tpu.")
flags.DEFINE_string("tpu", None, "Compile for one chip of this TPU instead, e.g. v5e-4.")
flags.DEFINE_list("only", [], "Only these rows, with --tpu.")
flags.DEFINE_string("compile", None, "Internal: compile one policy and print its figures.")

AFFINE = "affine(rotate=180, shear=2, zoom=0.1, shift=0.02)"
COLOUR = "color(0.1, 0.2, 0.3, 0.01)"
WHOLE = f"{AFFINE}|flip(vertical=False)|{COLOUR}|cutout(0.375, p=0.7)"
# name -> (policy, method)
ROWS = {
    "floor: u8 to bfloat16": ("none", "shears"),
    "flip and quarter turn": ("flip|quarter_turn", "shears"),
    "affine": (AFFINE, "shears"),
    "color": (COLOUR, "shears"),
    "grey world": ("grey_world", "shears"),
    "gamma": ("gamma", "shears"),
    "cutout": ("cutout", "shears"),
    "20 hairs": ("hair(20)", "shears"),
    "microscope": ("microscope", "shears"),
    "blur": ("blur(1.5)", "shears"),
    "noise": ("noise", "shears"),
    "mixup": ("mixup", "shears"),
    "cutmix": ("cutmix", "shears"),
    "affine and flip and color and cutout": (WHOLE, "shears"),
    "deotte": ("deotte", "shears"),
    "third_place": ("third_place", "shears"),
    "first_place": ("first_place", "shears"),
    "affine by matrix products": (AFFINE, "matmul"),
    "all four by matrix products": (WHOLE, "matmul"),
    "affine by gather": (AFFINE, "gather"),
    "Keras' RandomRotation alone, on JAX": ("", "keras"),
}


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.compile:
        print(json.dumps(compile_one(*json.loads(FLAGS.compile))))
    elif FLAGS.tpu:
        tpu_table()
    else:
        here()


# ----------------------------------------------------------------------------------------------------- for a TPU


def tpu_table() -> None:
    """Prints the table of compiled rows, each compiled in its own process so that one may fail."""
    print(f"{FLAGS.tpu}, {FLAGS.size} px, batch {FLAGS.batch}: per image")
    print(f"{'':36} {'MB moved':>9} {'GFLOP':>7} {'temporary MB':>13}")
    for name, row in ROWS.items():
        if FLAGS.only and name not in FLAGS.only:
            continue
        args = [f"--{flag}={getattr(FLAGS, flag)}" for flag in ("size", "batch", "tpu")]
        command = [sys.executable, __file__, *args, f"--compile={json.dumps(row)}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:36} does not compile: {done.stderr.strip().splitlines()[-1][:100]}", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:36} {found['mb']:9.1f} {found['gflop']:7.2f} {found['temporary_mb']:13.1f}", flush=True)


def compile_one(policy_text: str, method: Any) -> dict[str, float]:
    """Compiles one policy; returns the TPU compiler's figures per image."""
    from melanoma_tf import preflight

    preflight.prepare("float32")
    import jax
    import jax.numpy as jnp

    sharding = jax.sharding.SingleDeviceSharding(preflight.topology_devices(FLAGS.tpu)[0])
    augment = keras_rotation if method == "keras" else ours_for_tpu(policy_text, method)
    shape = (FLAGS.batch, FLAGS.size, FLAGS.size, 3)
    given = [jax.ShapeDtypeStruct(s, d, sharding=sharding) for s, d in ((shape, jnp.uint8), (shape[:1], jnp.uint32))]
    compiled = jax.jit(augment, out_shardings=sharding).lower(*given).compile()
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return {
        "mb": cost["bytes accessed"] / FLAGS.batch / 1e6,
        "gflop": cost["flops"] / FLAGS.batch / 1e9,
        "temporary_mb": temporary / FLAGS.batch / 1e6,
    }


def ours_for_tpu(policy_text: str, method: Any) -> Callable[[Any, Any], Any]:
    from melanoma_tf.augment import policy

    layer = policy.Augment(policy_text, method=method, resample_dtype="bfloat16", dtype="float32")
    return lambda images, seeds: layer(images, seeds, training=True).astype("bfloat16")


def keras_rotation(images: Any, seeds: Any) -> Any:
    """Keras' RandomRotation alone, under JAX; under TensorFlow the layer switches XLA off."""
    import keras

    layer = keras.layers.RandomRotation(0.5)
    with keras.StatelessScope(state_mapping=[(layer.generator.state, seeds[:2])]):
        return layer(images.astype("float32"), training=True).astype("bfloat16")


# ---------------------------------------------------------------------------------------------------- on this machine


def here() -> None:
    """Prints the table of images/s."""
    if FLAGS.device == "cpu":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    from melanoma_tf.core import config
    from melanoma_tf.devices import select

    devices = select.start(FLAGS.device)
    images = batch_of_images()
    augmenters: dict[str, Callable[[Any, int], Any]] = {}
    for name, make in (
        ("ours", lambda: ours(devices.profile.warp_method(config.default().tpu))),
        ("Keras layers", keras_layers),
        ("keras-cv layers", keras_cv_layers),
        ("tf.image, image by image", tf_image),
        ("albumentations", albumentations_images),
    ):
        try:
            augmenters[name] = make()
        except ImportError as error:
            print(f"{name}: skipped, {error}")
    for augment in augmenters.values():
        for turn in range(2):
            wait(augment(images, turn))
    rates: dict[str, list[float]] = {name: [] for name in augmenters}
    for turn in range(FLAGS.repeat):
        for name, augment in augmenters.items():
            started = time.perf_counter()
            for batch in range(BATCHES):
                wait(augment(images, BATCHES * turn + batch))
            rates[name].append(BATCHES * len(images) / (time.perf_counter() - started))
    on_one_thread = FLAGS.device == "cpu" and devices.backend == "tensorflow"
    where = "one thread" if on_one_thread else f"{devices.backend} on {', '.join(devices.devices)}"
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {where}, {FLAGS.size} px, batch {FLAGS.batch}, n = {FLAGS.repeat}")
    for name, found in rates.items():
        print(f"{name:30} {statistics.median(found):8.1f} images/s ({min(found):.1f} to {max(found):.1f})")


def wait(batch: Any) -> None:
    """Waits for a batch by reading one pixel; copying all of it would count as augmentation."""
    np.asarray(batch[:1, :1, :1])


def batch_of_images() -> Any:
    """Images u8[B,S,S,3] from --images, or random."""
    if FLAGS.images is None:
        return np.random.default_rng(0).integers(0, 256, (FLAGS.batch, FLAGS.size, FLAGS.size, 3), dtype=np.uint8)
    from PIL import Image

    paths = sorted(Path(FLAGS.images).glob("*.jpg"))[: FLAGS.batch]
    found = [np.asarray(Image.open(path).convert("RGB").resize((FLAGS.size, FLAGS.size))) for path in paths]
    return np.stack([found[i % len(found)] for i in range(FLAGS.batch)])


def ours(method: Any) -> Callable[[Any, int], Any]:
    import keras

    from melanoma_tf.augment import policy

    layer = policy.Augment(WHOLE, method=method, dtype="float32")
    if keras.backend.backend() == "jax":
        import jax

        augment = jax.jit(lambda x, s: layer(x, s, training=True))
    else:
        import tensorflow as tf

        # As Keras trains: with XLA on a GPU.
        augment = tf.function(lambda x, s: layer(x, s, training=True), jit_compile=FLAGS.device == "gpu")
    return lambda images, turn: augment(images, np.arange(len(images), dtype=np.uint32) + np.uint32(1000 * turn))


def keras_layers() -> Callable[[Any, int], Any]:
    import keras

    k = keras.layers
    layers = [
        k.RandomFlip("horizontal"),
        k.RandomRotation(0.5),
        k.RandomShear(x_factor=0.035),
        k.RandomZoom(0.1, 0.1),
        k.RandomTranslation(0.02, 0.02),
        k.RandomBrightness(0.1, value_range=(0, 1)),
        k.RandomContrast(0.2, value_range=(0, 1)),
        k.RandomSaturation((0.35, 0.65), value_range=(0, 1)),
        k.RandomHue(0.01, value_range=(0, 1)),
        k.RandomErasing(0.7, scale=(0.14, 0.14), value_range=(0, 1)),
    ]

    return in_sequence(layers, 255.0, 1.0)


def in_sequence(layers: list[Any], before: float, after: float) -> Callable[[Any, int], Any]:
    """Applies layers in order to the images divided by `before`; divides the output by `after`."""
    import keras

    if keras.backend.backend() == "jax":
        return by_jax(keras.Sequential(layers), before, after)
    import tensorflow as tf

    def augment(images: Any) -> Any:
        images = tf.cast(images, tf.float32) / before
        for layer in layers:
            images = layer(images, training=True)
        return images / after

    compiled = tf.function(augment)
    return lambda images, turn: compiled(images)


def by_jax(model: Any, before: float, after: float) -> Callable[[Any, int], Any]:
    """Compiles a model whose only state is that of its random generators."""
    import jax

    model.build((None, FLAGS.size, FLAGS.size, 3))
    state = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def augment(state: Any, images: Any) -> Any:
        found, state = model.stateless_call([], state, images.astype("float32") / before, training=True)
        return found / after, state

    def augment_next(images: Any, turn: int) -> Any:
        nonlocal state
        found, state = augment(state, images)
        return found

    return augment_next


def keras_cv_layers() -> Callable[[Any, int], Any]:
    import keras
    import keras_cv

    if keras.backend.backend() != "tensorflow":
        raise ImportError("its layers need the TensorFlow backend")
    k = keras_cv.layers
    layers = [
        k.RandomFlip("horizontal"),
        k.RandomRotation(0.5),
        k.RandomShear(x_factor=0.035),
        k.RandomZoom(0.1, 0.1),
        k.RandomTranslation(0.02, 0.02),
        k.RandomColorJitter((0, 255), 0.1, 0.2, 0.3, 0.01),
        k.RandomCutout(0.375, 0.375),
    ]

    return in_sequence(layers, 1.0, 255.0)


def tf_image() -> Callable[[Any, int], Any]:
    """The notebooks' way, in tf.data's map: tf.image ops, and the kernel of Keras' layers for the warp."""
    import tensorflow as tf

    def one(image: Any) -> Any:
        size = FLAGS.size
        angle = tf.random.uniform([], -np.pi, np.pi)
        shear = tf.random.uniform([], -0.035, 0.035)
        zoom = tf.random.uniform([2], 0.9, 1.1)
        shift = tf.random.uniform([2], -0.02, 0.02) * size
        cos, sin, middle = tf.cos(angle), tf.sin(angle), (size - 1) / 2
        linear = tf.stack([[cos / zoom[0], (-sin + shear) / zoom[0]], [sin / zoom[1], cos / zoom[1]]])
        offset = middle + shift - tf.linalg.matvec(linear, [middle, middle])
        flat = tf.stack([linear[0, 0], linear[0, 1], offset[0], linear[1, 0], linear[1, 1], offset[1], 0.0, 0.0])
        image = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=flat[None],
            output_shape=[size, size],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT",
        )[0]
        image = tf.image.random_flip_left_right(image)
        image = tf.cast(image, tf.float32) / 255.0
        image = tf.image.random_hue(image, 0.01)
        image = tf.image.random_saturation(image, 0.7, 1.3)
        image = tf.image.random_contrast(image, 0.8, 1.2)
        image = tf.image.random_brightness(image, 0.1)
        half = round(0.375 * size / 2)
        x, y = tf.random.uniform([], 0, size, tf.int32), tf.random.uniform([], 0, size, tf.int32)
        inside = lambda at: (tf.range(size) >= at - half) & (tf.range(size) < at + half)  # noqa: E731
        hole = inside(y)[:, None, None] & inside(x)[None, :, None] & (tf.random.uniform([]) < 0.7)
        return tf.where(hole, 0.0, tf.clip_by_value(image, 0.0, 1.0))

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1

    def augment(images: Any, turn: int) -> Any:
        data = tf.data.Dataset.from_tensor_slices(images).map(one, num_parallel_calls=1).batch(len(images))
        return next(iter(data.with_options(options)))

    return augment


def albumentations_images() -> Callable[[Any, int], Any]:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as a
    import cv2

    cv2.setNumThreads(1)
    size = round(0.375 * FLAGS.size)
    hole = {"num_holes_range": (1, 1), "hole_height_range": (size, size), "hole_width_range": (size, size)}
    policy = a.Compose(
        [
            a.Affine(
                rotate=(-180, 180),
                shear=(-2, 2),
                scale=(0.9, 1.1),
                translate_percent=(-0.02, 0.02),
                border_mode=cv2.BORDER_REFLECT,
                p=1.0,
            ),
            a.HorizontalFlip(),
            a.ColorJitter((0.9, 1.1), (0.8, 1.2), (0.7, 1.3), (-0.01, 0.01), p=1.0),
            a.CoarseDropout(**hole, p=0.7),
        ]
    )
    batch = np.empty(
        (FLAGS.batch, FLAGS.size, FLAGS.size, 3), np.float32
    )  # allocating it for each batch would dominate

    def augment(images: Any, turn: int) -> Any:
        for each, place in zip(images, batch, strict=True):
            np.multiply(policy(image=each)["image"], np.float32(1 / 255), out=place)
        return batch

    return augment


if __name__ == "__main__":
    app.run(main)
