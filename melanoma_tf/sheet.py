"""Draw a sheet of augmented images, to inspect a policy before training.

    python -m melanoma_tf.sheet --data tfrecords/384 --out sheet.png
    python -m melanoma_tf.sheet --data tfrecords/384 --policy "flip|affine(rotate=180)|hair(20)" --out sheet.png

One row per image: the original, then augmented versions. Without --policy, one row per operation and named policy, all
of the same image. A lesion that appears twice is mirrored at an edge, which is how `affine` fills what lies beyond it;
`fill='constant'` leaves that black.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

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
MARGIN, GAP, SPACE = 12, 12, 2  # pixels: around the sheet, beside the original, between augmented images
HEADING, LABEL = 20, 14  # pixels, of text
INK, SOFT = "#1c2127", "#56606c"


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

    from melanoma_tf.data import integrity, pipeline

    shards = build.train or build.test
    cli.say(integrity.check(shards))
    count = 2 if FLAGS.policy is None else min(FLAGS.images, dataset.count(shards))
    batch = next(iter(pipeline.eval_batches(shards, batch_size=count, image_size=FLAGS.size)))
    images = np.asarray(batch["image"])
    records = pipeline.read_metadata(shards).iloc[:count]
    names = [f"{n}, {CLASSES[int(t)]}" for n, t in zip(records["image_name"], records["target"], strict=True)]
    if FLAGS.policy is None:
        heading, rows = f"Augmentation of {names[0]}", [Row(policy, policy, 0) for policy in EVERY]
    else:
        heading = f"Augmentation: {FLAGS.policy}"
        rows = [Row(f"{i + 1}. {name}", FLAGS.policy, i) for i, name in enumerate(names)]
    sheet = render(images, heading, rows, FLAGS.draws, FLAGS.seed, FLAGS.method)
    sheet.save(out)
    cli.say(f"{FLAGS.out}: {sheet.width} x {sheet.height}")


class Row(NamedTuple):
    """A row of the sheet: its label, the policy that it shows and the index of its image."""

    label: str
    policy: str
    image: int


def render(images: Any, heading: str, rows: list[Row], draws: int, seed: int, method: Any) -> Any:
    """Renders the sheet.

    Args:
      images: u8[N,S,S,3].
      heading: text above the sheet.
      rows: what to draw, from top to bottom.
      draws: augmented images per row.
      seed: random seed.
      method: of resampling, see `augment.warp.affine`.

    Returns:
      A PIL image.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from melanoma_tf.augment import policy

    size = images.shape[1]
    columns = [MARGIN + (size + GAP if i else 0) + max(i - 1, 0) * (size + SPACE) for i in range(draws + 1)]
    width = columns[-1] + size + MARGIN
    big, small = (ImageFont.load_default(pixels) for pixels in (HEADING, LABEL))
    lines = _wrapped(heading, lambda text: big.getlength(text) <= width - 2 * MARGIN)
    first = MARGIN + len(lines) * (HEADING + 6) + LABEL + 16
    step = LABEL + 8 + size + GAP
    sheet = Image.new("RGB", (width, first + len(rows) * step), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), "\n".join(lines), fill=INK, font=big, spacing=6)
    for column, text in zip(columns, ("original", "augmented"), strict=False):
        pen.text((column, first - LABEL - 12), text, fill=SOFT, font=small)
    for number, row in enumerate(rows):
        layer = policy.Augment(row.policy, method, dtype="float32")
        # Every other image of the batch is the next image, for mixup and cutmix to mix in.
        batch = np.repeat(images[row.image : row.image + 1], 2 * draws, axis=0)
        batch[1::2] = images[(row.image + 1) % len(images)]
        seeds = np.arange(2 * draws, dtype=np.uint32) + np.uint32(1000 * seed + 100 * row.image)
        augmented = (np.asarray(layer(batch, seeds, training=True))[::2] * 255).round().astype(np.uint8)
        top = first + number * step
        pen.text((MARGIN, top), row.label, fill=INK, font=small)
        for column, image in zip(columns, [images[row.image], *augmented], strict=True):
            sheet.paste(Image.fromarray(image), (column, top + LABEL + 8))
    return sheet


def _wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Splits a text at spaces and after bars and commas into lines that fit, as far as its words do."""
    lines = [""]
    for word in re.findall(r"[^\s|,]*[\s|,]*", text):
        if lines[-1] and not fits((lines[-1] + word).rstrip()):
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
