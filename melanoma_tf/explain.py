"""Show which parts of images raised and lowered a run's predictions.

    python -m melanoma_tf.explain --workdir RUN --data DIR --most_confident_errors 12
    python -m melanoma_tf.explain --workdir RUN --data DIR --names ISIC_0052212,ISIC_0068279

Each image is explained by the model of the fold that held it out, by Grad-CAM (Selvaraju et al. 2017): where the last
feature map speaks for melanoma, and where against it. Writes OUT/explain.html, a page that needs no network, and both
maps over each image as OUT/*.png.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from melanoma_tf import evaluate, predict
from melanoma_tf.core import cli, files
from melanoma_tf.data import dataset
from melanoma_tf.devices import select
from melanoma_tf.training import run_dir
from tfrecord_tools.core import paths
from tfrecord_tools.core.cli import UsageError
from tfrecord_tools.core.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from melanoma_tf.evaluation.report.overlay import Overlay

FLAGS = flags.FLAGS
FOLDER, PAGE = "explain", "explain.html"
METHODS = ("smooth", "grad_cam")
SIDE = 224  # pixels of an image on the page
_SHOWN = 5  # names in an error
_OF_AN_IMAGE = re.compile(r"\d{3,}_[A-Za-z0-9_-]*_(raised|lowered)\.png")
_LONGEST = 100  # characters of an image's name in that of a file


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "Run folder: the --workdir of melanoma_tf.train.", required=True)
    flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build with the images.", required=True)
    flags.DEFINE_list("names", None, "Image names to explain, separated by commas.")
    flags.DEFINE_integer("most_confident_errors", None, "Images of each class to explain instead; default: 12.", 1)
    flags.DEFINE_enum("method", METHODS[0], METHODS, "smooth: mean over the eight flips and quarter turns.")
    flags.DEFINE_string("out", None, f"Output folder; default: RUN/{FOLDER}.")
    select.define_flags()


def main(argv: list[str]) -> None:
    """Explains the images and writes --out."""
    if FLAGS.names and FLAGS.most_confident_errors:
        raise UsageError("pass either --names or --most_confident_errors; see --help")
    workdir = cli.local_folder("workdir", FLAGS.workdir)
    cli.existing_folder("workdir", FLAGS.workdir, expected="the --workdir of melanoma_tf.train")
    data = cli.existing_folder("data", FLAGS.data, expected="the output folder of tfrecord_tools.build")
    out = cli.local_folder("out", FLAGS.out) if FLAGS.out else workdir / FOLDER
    select.check_flags()
    run = open_run(workdir)
    if not paths.is_remote(data):
        dataset.open_data(data)
    table = evaluate.read_run(workdir)
    groups = choose(table, FLAGS.names, FLAGS.most_confident_errors)
    images = read_images(data, groups)
    if run_dir.data_sha256(data) not in run.evaluation_data:
        cli.say(f"warning: --data {data} is another build than the run was trained on; images are found by their names")
    devices = select.start_as_asked()
    cli.say(f"runtime: {devices.backend} on one {devices.kind}, float32; {devices.why}")
    cli.say(write(out, table, groups, images, overlays(run, table, images, FLAGS.method == "smooth")))


def open_run(workdir: Path) -> run_dir.RunDir:
    """Opens a run whose models can explain images.

    Raises:
      run_dir.RunDirError: the folder holds no run, no finished fold, or one without its weights.
    """
    run = run_dir.open_workdir(workdir)
    predict.check_finished(run)
    return run


def choose(table: pd.DataFrame, names: Sequence[str] | None, errors: int | None) -> dict[str, list[str]]:
    """Returns the names of the images to explain, by title.

    Args:
      table: a checked table of out-of-fold predictions.
      names: asked for by name; None for the most confident errors.
      errors: how many of each class; None for those of a report.

    Raises:
      ValueError: a name has no out-of-fold prediction.
    """
    from melanoma_tf.evaluation.report import gallery

    if not names:
        return gallery.most_confident(table, errors or gallery.SHOWN)
    targets = dict(zip(table["image_name"], table["target"], strict=True))
    names = list(dict.fromkeys(name.strip() for name in names))
    if unknown := [name for name in names if name not in targets]:
        raise ValueError(
            f"--names: no out-of-fold prediction of {_listed(unknown)}; expected images of finished folds, as in "
            f"{run_dir.OOF}"
        )
    groups = {"Melanomas": 1, "Others": 0}
    found = {title: [name for name in names if targets[name] == target] for title, target in groups.items()}
    return {title: members for title, members in found.items() if members}


def read_images(data: str, groups: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """Returns the JPEG bytes of images by name. Raises ValueError if the build has one of them not."""
    from melanoma_tf.evaluation import build_images

    names = [name for members in groups.values() for name in members]
    images = build_images.read(data, names)
    if absent := [name for name in names if name not in images]:
        raise ValueError(f"--data {data}: no image of {_listed(absent)}; pass the build that the run was trained on")
    return images


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def overlays(
    run: run_dir.RunDir, table: pd.DataFrame, images: Mapping[str, bytes], smooth: bool = True
) -> dict[str, tuple[Overlay, Overlay]]:
    """Explains images, each by the model of the fold that held it out, in float32 on one device.

    Devices must have been chosen, see `select.start`.

    Args:
      run: see `open_run`.
      table: a checked table of the run's out-of-fold predictions.
      images: JPEG bytes by name, all in the table.
      smooth: see `saliency.GradCam`.

    Returns:
      By name, what raised the prediction and what lowered it.

    Raises:
      checkpoint.CheckpointError: weights are missing, damaged or of another model.
    """
    import keras
    import numpy as np

    from melanoma_tf.data import decoder, metadata
    from melanoma_tf.data.metadata import Metadata
    from melanoma_tf.evaluation.report import overlay
    from melanoma_tf.inference import saliency
    from melanoma_tf.models import heads
    from melanoma_tf.training import checkpoint
    from melanoma_tf.training.build import build_classifier

    keras.config.set_dtype_policy("float32")  # few images: their gradients need not be fast
    classifier = build_classifier(run.config)
    grad_cam = saliency.GradCam(heads.logit_only(classifier), smooth=smooth)
    fields = metadata.parse(run.config.metadata)
    # Images of folds that are not finished are not in the table, so a patient may have more than are counted here.
    given = Metadata(fields, metadata.count_images([table]) if "images_per_patient" in fields else {})
    decode = decoder.of_size(run.config.image_size)
    fold_of = dict(zip(table["image_name"], table["fold"], strict=True))
    progress, found = Progress(len(images), title="explained: "), {}
    for fold in sorted({fold_of[name] for name in images}):
        checkpoint.load_final(run.fold(fold) / run_dir.WEIGHTS, classifier)
        for name in images:
            if fold_of[name] == fold:
                pixels = decode(np.array([images[name]], object))
                inputs = [pixels.astype(np.float32) / 255.0]
                if given.width:
                    inputs.append(given.of_table(table[table["image_name"] == name]))
                saliency_map = grad_cam(inputs if given.width else inputs[0])[0]
                raised, lowered = (overlay.draw(pixels[0], saliency_map, against=each) for each in (False, True))
                found[name] = (raised, lowered)
                progress.show(len(found))
    progress.clear()
    return found


def write(
    out: Path,
    table: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    images: Mapping[str, bytes],
    drawn: Mapping[str, tuple[Overlay, Overlay]],
) -> str:
    """Writes the page and a PNG of each overlay, and returns where they are.

    Args:
      out: folder.
      table: a checked table of the run's out-of-fold predictions.
      groups: names of images by title.
      images: JPEG bytes by name.
      drawn: see `overlays`.
    """
    from melanoma_tf.evaluation.report import gallery
    from melanoma_tf.evaluation.report.page import USE
    from tfrecord_tools.html import page

    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob("*.png"):
        if _OF_AN_IMAGE.fullmatch(path.name):  # of an earlier call
            path.unlink()
    names = [name for members in groups.values() for name in members]
    for number, name in enumerate(names, start=1):
        # Names come from tables of others; the number tells apart those that become the same.
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_LONGEST]
        for kind, each in zip(("raised", "lowered"), drawn[name], strict=True):
            with files.replacing(out / f"{number:03d}_{safe}_{kind}.png") as temporary:
                temporary.write_bytes(each.png)
    title = f"Explanation of {len(names)} predictions"
    shown = gallery.section(table, groups, images, drawn, SIDE)
    body = [page.tag("h1", title), page.tag("p", USE, class_="lead"), shown]
    files.write_text(out / PAGE, page.document(title, body, gallery.STYLE))
    return f"{len(names)} images: {out}/*.png\npage: {out / PAGE}"


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
