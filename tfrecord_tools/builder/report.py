"""Summary of a build, and its quarantine.csv."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex

from tfrecord_tools.builder.output_dir import QUARANTINE
from tfrecord_tools.builder.settings import BuildSettings
from tfrecord_tools.core import paths
from tfrecord_tools.core.text import cell, counted, verb
from tfrecord_tools.records.manifest import FoldTotals, Manifest


def quarantine_csv(manifest: Manifest) -> str:
    """Returns quarantine.csv: the unusable images, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_name", "file", "reason"])
    writer.writerows(map(cell, dataclasses.astuple(each)) for each in manifest.quarantined)
    return text.getvalue()


def summary(folder: paths.AnyPath, manifest: Manifest, made: int, seconds: float) -> str:
    """Returns the content of a build, fold by fold, and the next commands.

    Args:
      folder: Output folder.
      manifest: Its manifest.
      made: Number of images made in this run.
      seconds: Duration of this run.
    """
    images, where = sum(fold.records for fold in manifest.folds), shlex.quote(str(folder))
    speed = f"{seconds:.1f} s, {made / max(seconds, 1e-9):.1f} images/s"
    if made < images:
        speed = f"{made} of them made now: {speed}" if made else "all of them made before"
    # Only images with a target can be trained on.
    train = any(fold.split == "train" for fold in manifest.folds)
    use = f"train --data {where}" if train else f"predict --workdir RUN --data {where}"
    size = "{0} x {0}".format(manifest.settings["size"])
    lost = f" ({counted(manifest.lost, 'record')} lost)" if manifest.lost else ""
    return "\n".join(
        [
            f"{folder}: {counted(images, 'image')} at {size}, {len(manifest.quarantined)} quarantined{lost}, {speed}",
            *map(_fold, manifest.folds),
            f"next: python -m tfrecord_tools.verify {where}",
            f"      python -m melanoma_tf.{use}",
        ]
    )


def _fold(fold: FoldTotals) -> str:
    of_which = "" if fold.positives is None else f", {fold.positives} melanoma"
    title = fold.split if fold.fold < 0 else f"{fold.split} fold {fold.fold}"
    held = (counted(fold.patients, "patient"), counted(fold.shards, "shard"))
    return f"  {title}: {counted(fold.records, 'image')}{of_which}, {', '.join(held)}"


def complaint(settings: BuildSettings, manifest: Manifest) -> str:
    """Returns the error of a build with unusable images, and what to do."""
    listed = next(iter(settings.folders.values())) / QUARANTINE
    dropped = settings.inputs.duplicates and settings.split.mode == "drop"
    but = " except dropped duplicates, also those of unusable images" if dropped else ""
    # Repaired TFRecords are another input, which --resume refuses.
    foreign = settings.inputs.from_tfrecords is not None
    number, again = len(manifest.quarantined), "--overwrite" if foreign else "--resume"
    what = counted(number, "image or record", "images or records") if foreign else counted(number, "image")
    lost = f", and {counted(manifest.lost, 'record')} {verb(manifest.lost, 'is', 'are')} lost from damaged files"
    return (
        f"{what} could not be used{lost if manifest.lost else ''}, see {listed}. The shards hold all the others{but}. "
        f"Repair them and build again with {again}, or pass --allow_quarantine"
    )
