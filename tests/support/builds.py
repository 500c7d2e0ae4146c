"""Builds of the synthetic data set, and reading what they wrote."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from tfrecord_tools import schema
from tfrecord_tools.builder.settings import BuildSettings
from tfrecord_tools.records import tfrecord

# The reason for a file with b"<html>".
NO_IMAGE = (
    "not an image that can be converted: an HTML page, as failed downloads leave it; expected JPEG, PNG, TIFF, BMP, "
    "GIF, WebP, JPEG 2000 or PNM"
)


def settings(data, out, **changes):
    """Settings of a build of the training images; changes: flags by name."""
    where = {"csv": str(data / "train.csv"), "images": str(data / "jpeg" / "train"), "out": str(out)}
    return BuildSettings.of(**{"size": 32, **where, **changes})


def replaced(given, **changes):
    """Settings with other values of some flags, whichever part holds them."""
    flags = {name: value for part in vars(given).values() for name, value in vars(part).items()}
    return BuildSettings.of(**{"size": flags.pop("sizes"), **flags, **changes})


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def command(data, out, *more):
    images = ["--csv", str(data / "train.csv"), "--images", str(data / "jpeg" / "train"), "--out", str(out)]
    return [sys.executable, "-m", "tfrecord_tools.build", "--size=32", "--workers=1", *images, *more]


def copy_with_links(data, folder):
    """A data folder of its own whose images can be replaced."""
    images = folder / "jpeg" / "train"
    images.mkdir(parents=True)
    (folder / "train.csv").write_bytes((data / "train.csv").read_bytes())
    for path in (data / "jpeg" / "train").iterdir():
        (images / path.name).hardlink_to(path)
    return folder


def quarantined(folder):
    with (folder / "quarantine.csv").open(newline="") as file:
        return {row["image_name"]: row["reason"] for row in csv.DictReader(file)}


def records_of(folder):
    return {r.image_name: r for p in Path(folder).glob("*.tfrec") for r in map(schema.decode, tfrecord.read_records(p))}
