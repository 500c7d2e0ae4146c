"""Builds of the synthetic data set, and reading what they wrote."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path

from tfrecord_tools import build, schema
from tfrecord_tools.records import tfrecord


def settings(data, out, **changes):
    plain = build.BuildSettings(32, str(data / "train.csv"), str(data / "jpeg" / "train"), str(out))
    return dataclasses.replace(plain, **changes)


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
        (images / path.name).symlink_to(path)
    return folder


def quarantined(folder):
    with (folder / "quarantine.csv").open(newline="") as file:
        return {row["image_name"]: row["reason"] for row in csv.DictReader(file)}


def records_of(folder):
    return {r.image_name: r for p in Path(folder).glob("*.tfrec") for r in map(schema.decode, tfrecord.read_records(p))}
