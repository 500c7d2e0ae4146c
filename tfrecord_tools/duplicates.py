"""Finds the same image under two names: re-encoded, resized, slightly cropped, mirrored or turned.

  python -m tfrecord_tools.duplicates --images jpeg/ --out pairs.csv
  python -m tfrecord_tools.duplicates --images jpeg/ --csv train.csv --out pairs.csv

Turns are quarter turns, with or without mirroring; other angles are not searched. --csv takes every table that `build`
takes, and compares only its images. How the search works is explained in tfrecord_tools/dedup/search.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools.core import cli, names, paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.dedup import pairs, search
from tfrecord_tools.dedup.fingerprint import DuplicatesError
from tfrecord_tools.imaging import files
from tfrecord_tools.imaging.index import ImageIndex, ImagesError
from tfrecord_tools.metadata import formats, table


def _named_files(index: ImageIndex, listed: Sequence[str] | None) -> list[tuple[str, Path]]:
    """Named images: all of the folders, or those with the given names, whether their file exists or not."""
    wanted = sorted(set(index.names if listed is None else listed))
    located = index.locate(wanted)
    if not any(located):
        like = f"expected files like {files.expected('NAME' if listed is None else min(wanted, default='NAME'))}"
        if listed is None:
            raise DuplicatesError(f"{index}: holds no images; {like}")
        raise DuplicatesError(f"{index}: holds none of the {counted(len(wanted), 'image')} of the table; {like}")
    if packed := next((place.path for place in located if place and place.part), None):
        raise DuplicatesError(f"{packed}: an HDF5 file; expected folders, so build it and use verify --pairs")
    missing = Path(str(index.roots[0]))
    return [
        (name, Path(place.path) if place else missing / f"{name}{files.EXTENSIONS[0]}")
        for name, place in zip(wanted, located, strict=True)
    ]


def _listed(given: str, form: str | None, columns: str | None) -> list[str]:
    mapped = formats.parse_columns(columns) if columns else None
    return table.read_names(names.several(given), form, mapped)


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("images", None, "Folder of the images, at any depth; several, as A,B.", required=True)
    flags.DEFINE_string("csv", None, "Table of the images to compare, as for build. Default: all of --images.")
    flags.DEFINE_enum("form", None, [form.name for form in formats.FORMS], "Form of --csv. Default: recognized.")
    flags.DEFINE_string("columns", None, "Columns of a --csv in no known form: image_name=file.")
    flags.DEFINE_string("out", None, "CSV of pairs to write. Default: standard output.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Number of threads.", 1)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    args = flags.FLAGS
    out = paths.path(args.out) if args.out else None
    try:
        if out is not None:
            pairs.check_output(out)
        listed = _listed(args.csv, args.form, args.columns) if args.csv else None
        try:
            named = _named_files(ImageIndex([paths.path(each) for each in names.several(args.images)]), listed)
        except ImagesError as error:
            raise DuplicatesError(str(error)) from error
        found = search.find(named, args.workers)
        if out is not None:
            pairs.write(out, found.pairs)
        else:
            sys.stdout.write(pairs.to_csv(found.pairs))
    except pairs.PairsError as error:
        raise pairs.PairsError(f"--out {error}") from error
    for name, reason in found.unreadable:
        print(f"{name}: not compared: {reason}", file=sys.stderr)
    totals = f"{counted(len(named), 'image')}, {counted(len(found.pairs), 'pair')}"
    print(f"{totals}, {len(found.unreadable)} not compared", file=sys.stderr)


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
