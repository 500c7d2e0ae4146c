"""Draw a sheet of augmented images, to inspect a policy before training.

    python -m melanoma_tf.sheet --data tfrecords/384 --out sheet.png
    python -m melanoma_tf.sheet --data tfrecords/384 --policy "flip|affine(rotate=180)|hair(20)" --out sheet.png

One row per image: the original, then augmented versions. Without --policy, one row per operation and named policy, all
of the same image. A lesion that appears twice is mirrored at an edge, which is how `affine` fills what lies beyond it;
`fill='constant'` leaves that black.
"""

from __future__ import annotations

from absl import flags

from melanoma_tf.augment import policies
from melanoma_tf.core import cli
from melanoma_tf.data import dataset
from melanoma_tf.devices import select

FLAGS = flags.FLAGS
EVERY = (
    "flip",
    "quarter_turn",
    "affine(rotate=180)",
    "affine(rotate=180, fill='constant')",
    "affine(shear=20)",
    "affine(zoom=0.3)",
    "affine(shift=0.2)",
    "crop(0.6)",
    "color(brightness=0.2)",
    "color(contrast=0.4)",
    "color(saturation=0.6)",
    "color(hue=0.05)",
    "color(gain=0.2)",
    "grey_world(1.0)",
    "gamma(0.5)",
    "cutout(0.375)",
    "cutout(0.1, holes=8)",
    "hair(20)",
    "ink(p=1.0)",
    "ruler(p=1.0)",
    "microscope(p=1.0)",
    "blur(3.0)",
    "noise(0.1)",
    "mixup(1.0)",
    "cutmix(p=1.0)",
    "light",
    "deotte",
    "third_place",
    "first_place",
)
CLASSES = {1: "melanoma", 0: "other", -1: "unlabelled"}  # by target


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build.", required=True)
    flags.DEFINE_string("policy", None, "Augmentation policy, as in config.augment. Default: every operation.")
    flags.DEFINE_string("out", "sheet.png", "Output PNG file.")
    flags.DEFINE_integer("images", 6, "Number of rows, with --policy.", 1)
    flags.DEFINE_alias("pictures", "images")  # its name in earlier versions
    flags.DEFINE_integer("draws", 7, "Augmented images per row.", 1)
    flags.DEFINE_integer("size", 192, "Side of each image, in pixels.", 32)
    flags.DEFINE_integer("seed", 0, "Random seed.", 0)
    methods = ["gather", "kernel", "matmul"]  # those of TensorFlow, on which this command runs
    flags.DEFINE_enum("method", "gather", methods, "Resampling method of affine maps.")


def main(argv: list[str]) -> None:
    """Draws the sheet and writes --out."""
    out = cli.output_file("out", FLAGS.out)
    data = cli.existing_folder("data", FLAGS.data, expected="the output folder of tfrecord_tools.build")
    policies.parse(FLAGS.policy or "")
    build = dataset.open_data(data)
    select.start("cpu")
    import numpy as np

    from melanoma_tf.augment import policy, preview
    from melanoma_tf.data import integrity, pipeline

    shards = build.train or build.test
    cli.say(integrity.check(shards))
    count = 2 if FLAGS.policy is None else min(FLAGS.images, dataset.count(shards))
    batch = next(iter(pipeline.eval_batches(shards, batch_size=count, image_size=FLAGS.size)))
    images = np.asarray(batch["image"])
    records = pipeline.read_metadata(shards).iloc[:count]
    names = [f"{n}, {CLASSES[int(t)]}" for n, t in zip(records["image_name"], records["target"], strict=True)]
    if FLAGS.policy is None:
        heading, rows = f"Augmentation of {names[0]}", [(text, text, 0) for text in EVERY]
    else:
        heading = f"Augmentation: {FLAGS.policy}"
        rows = [(f"{i + 1}. {name}", FLAGS.policy, i) for i, name in enumerate(names)]
    layers = {text: policy.Augment(text, FLAGS.method, dtype="float32") for _, text, _ in rows}
    shown = [preview.Row(label, layers[text], image) for label, text, image in rows]
    drawn = preview.render(images, heading, shown, FLAGS.draws, FLAGS.seed)
    drawn.save(out)
    cli.say(f"{FLAGS.out}: {drawn.width} x {drawn.height}")


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
