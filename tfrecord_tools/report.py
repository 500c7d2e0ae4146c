"""What a build says at its end, and its quarantine.csv."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex

from tfrecord_tools import paths, shards
from tfrecord_tools.resume import QUARANTINE
from tfrecord_tools.settings import BuildSettings


def quarantine_csv(manifest: shards.Manifest) -> str:
    """The images that could not be used, one line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_name", "file", "reason"])
    for result in manifest.shards:
        writer.writerows(dataclasses.astuple(image) for image in result.quarantined)
    return text.getvalue()


def summary(folder: paths.AnyPath, manifest: shards.Manifest, seconds: float) -> str:
    """What is in a folder that was built, fold by fold, and what to do next."""
    images = sum(result.records for result in manifest.shards)
    size = manifest.settings["size"]
    return "\n".join(
        [
            f"{folder}: {images} images at {size} x {size}, {quarantined(manifest)} quarantined, "
            f"{seconds:.1f} s, {images / max(seconds, 1e-9):.1f} images/s",
            *map(_fold, manifest.folds),
            f"next: python -m tfrecord_tools.verify {shlex.quote(str(folder))}",
            f"      python -m melanoma_tf.train --data {shlex.quote(str(folder))}",
        ]
    )


def _fold(fold: shards.FoldTotals) -> str:
    of_which = "" if fold.positives is None else f", {fold.positives} malignant"
    title = fold.split if fold.fold < 0 else f"{fold.split} fold {fold.fold}"
    return f"  {title}: {fold.records} images{of_which}, {fold.patients} patients, {fold.shards} shards"


def quarantined(manifest: shards.Manifest) -> int:
    """How many images could not be used."""
    return sum(len(result.quarantined) for result in manifest.shards)


def complaint(settings: BuildSettings, count: int) -> str:
    """What to do about so many images in quarantine."""
    listed = next(iter(settings.folders.values())) / QUARANTINE
    dropped = settings.duplicates and settings.mode == "drop"
    but = ", but for the duplicates that were dropped, also of these" if dropped else ""
    return (
        f"{count} image(s) could not be used, see {listed}. The shards hold all the others{but}. "
        "Mend them and --resume, or pass --allow_quarantine"
    )
