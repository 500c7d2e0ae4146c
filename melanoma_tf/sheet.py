"""Draw a sheet of augmented images, to inspect a policy before training.

    python -m melanoma_tf.sheet --data tfrecords/384 --out sheet.png
    python -m melanoma_tf.sheet --data tfrecords/384 --policy "flip|affine(rotate=180)|hair(20)" --out sheet.png

One row per image: the original, then augmented versions. Without --policy, one row per operation and named policy, all
of the same image.
"""

from __future__ import annotations

from typing import Any

from absl import flags

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
_LABEL = 16  # pixels above each row


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
    build = dataset.open_data(data)
    select.start("cpu")
    import numpy as np

    from melanoma_tf.data import pipeline

    shards = build.train or build.test
    count = 2 if FLAGS.policy is None else FLAGS.images
    batch = next(iter(pipeline.eval_batches(shards, batch_size=count, image_size=FLAGS.size)))
    images = np.asarray(batch["image"])
    rows = [(policy, 0) for policy in EVERY] if FLAGS.policy is None else [(FLAGS.policy, i) for i in range(count)]
    sheet = render(images, rows, FLAGS.draws, FLAGS.seed, FLAGS.method)
    sheet.save(out)
    cli.say(f"{FLAGS.out}: {sheet.width} x {sheet.height}")


def render(images: Any, rows: list[tuple[str, int]], draws: int, seed: int, method: Any) -> Any:
    """Renders the sheet.

    Args:
      images: u8[N,S,S,3].
      rows: for each row a policy and the index of an image.
      draws: augmented images per row.
      seed: random seed.
      method: of resampling, see `augment.warp.affine`.

    Returns:
      A PIL image.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    from melanoma_tf.augment import policy

    size = images.shape[1]
    sheet = Image.new("RGB", ((draws + 1) * size, len(rows) * (size + _LABEL)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (text, index) in enumerate(rows):
        layer = policy.Augment(text, method, dtype="float32")
        # Every other image of the batch is the next image, for mixup and cutmix to mix in.
        batch = np.repeat(images[index : index + 1], 2 * draws, axis=0)
        batch[1::2] = images[(index + 1) % len(images)]
        seeds = np.arange(2 * draws, dtype=np.uint32) + np.uint32(1000 * seed + 100 * index)
        augmented = (np.asarray(layer(batch, seeds, training=True))[::2] * 255).round().astype(np.uint8)
        top = row * (size + _LABEL)
        pen.text((2, top + 2), text, fill="black")
        for column, image in enumerate([images[index], *augmented]):
            sheet.paste(Image.fromarray(image), (column * size, top + _LABEL))
    return sheet


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
