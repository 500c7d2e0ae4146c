"""Dermoscopy JPEGs and their CSV -> checked TFRecord shards, patients kept apart in folds.

  python -m tfrecord_tools.build --size 384
  python -m tfrecord_tools.build --size 256 --csv train.csv --images jpeg/ --out tfrecords/256
  python -m tfrecord_tools.build --size 256,384,512
  python -m tfrecord_tools.build --size 384 --csv HAM10000_metadata.csv --images ham/ --out tfrecords/ham
  python -m tfrecord_tools.build --size 384 --duplicates ISIC_2020_Training_Duplicates.csv
  python -m tfrecord_tools.build --size 256 --from_tfrecords 'others/train*.tfrec' --csv train.csv --out own

With several sizes each image is decoded once, and each size is a build of its own in OUT/SIZE. All are resampled
from the decoding for the largest, so the smaller ones differ in a few bits from those of a --size of their own.

The form of a CSV is recognised by its header: Kaggle's and the ISIC site's tables of 2020, ISIC 2019 (ground truth and
metadata, as --csv a.csv,b.csv), HAM10000, exports of the ISIC Archive; any other with --columns.

Further data for the same training leaves out what the first build holds: --against tfrecords/384.

TFRecords of others are taken with --from_tfrecords: checked, folded anew and converted. With --csv the shards give
only the images; without it their whole-number codes are believed unless they contradict themselves.

Without --csv and --images it looks where Kaggle puts the competition and in ./data. A build that was killed goes on
with --resume and ends in the same bytes. Images that cannot be used are listed in quarantine.csv.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import sys
import time
from collections.abc import Generator, Sequence
from typing import Any

from absl import flags

import tfrecord_tools
from tfrecord_tools.builder import beam, inputs, plan, report, split, workers
from tfrecord_tools.builder import output_dir as folders
from tfrecord_tools.builder import settings as asked
from tfrecord_tools.builder.output_dir import QUARANTINE
from tfrecord_tools.builder.settings import BuildError, BuildSettings
from tfrecord_tools.core import cli, paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.dedup import pairs
from tfrecord_tools.foreign import dialects
from tfrecord_tools.imaging import convert, resample
from tfrecord_tools.metadata import formats, table
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.records.manifest import MANIFEST, Manifest

USERS_ERRORS = (
    BuildError,
    beam.BeamError,
    pairs.PairsError,
    dialects.ForeignError,
    tfrecord.CorruptRecordError,
    table.TableError,
    split.SplitError,
    shards.ShardError,
    workers.WorkerError,
)
_PRELOAD = tuple(module.__name__ for module in (convert, resample, shards, split, table, workers))


def build(settings: BuildSettings) -> Manifest:
    """As `build_sizes`; returns the manifest of the first size."""
    return build_sizes(settings)[0]


def build_sizes(settings: BuildSettings) -> list[Manifest]:
    """Builds, or completes, shards and manifest of each size; nothing is written on bad metadata or settings.

    Raises one of USERS_ERRORS, each with a message for the user. Images that cannot
    be used are in the results' shards as `quarantined`.
    """
    return [manifest for manifest, _ in _build(settings)]


def _build(settings: BuildSettings) -> list[tuple[Manifest, int]]:
    """The manifest of each size, and how many images were made for it now, not in a build that was resumed."""
    asked.check(settings)
    read = inputs.read_by(settings)
    for folder in settings.folders.values():
        folders.check_apart(folder, read)
    planned = plan.make(settings)
    outputs = [
        folders.Output(folder, Manifest(_byte_settings(settings, size), _versions(), planned.inputs))
        for size, folder in settings.folders.items()
    ]
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.enter_context(folders.claimed(output.folder))
        # All are looked at before the first is touched.
        there = [folders.check(output, settings.resume, settings.overwrite) for output in outputs]
        for output, before in zip(outputs, there, strict=True):
            folders.prepare(output, before, settings.resume)
        _write_shards(settings, planned.tasks, outputs)
        done = [(_finish(output), output.made) for output in outputs]
    if not any(result.records for manifest, _ in done for result in manifest.shards):
        where, first = outputs[0].folder / QUARANTINE, done[0][0].quarantined[0]
        images = counted(sum(len(result.quarantined) for result in done[0][0].shards), "image")
        raise BuildError(f"none of {images} can be used, see {where}; the first: {first.file}: {first.reason}")
    return done


def _write_shards(settings: BuildSettings, tasks: list[shards.ShardTask], outputs: list[folders.Output]) -> None:
    """Has the shards made that are not finished, and lists each in its manifest as it is."""
    by_folder = {str(output.folder): output for output in outputs}
    pending: dict[str, shards.ShardTask] = {}
    for task in tasks:
        # A kill between two folders leaves a shard finished in one of them only.
        missing = {
            size: str(folder)
            for size, folder in settings.folders.items()
            if task.prefix not in by_folder[str(folder)].finished
        }
        if missing:
            convert = plan.convert_to(settings, list(missing))
            pending[task.prefix] = dataclasses.replace(task, convert=convert, folders=tuple(missing.values()))
    todo = list(pending.values())
    if not todo:
        return
    progress = workers.Progress(sum(len(task.sources) for task in todo))
    # closing: on Ctrl-C the workers stop at once, wherever it strikes
    with contextlib.closing(_run(settings, todo, progress)) as results:
        for written in results:
            for folder, result in zip(pending[written.prefix].folders, written.results, strict=True):
                by_folder[folder].add(result)


def _run(
    settings: BuildSettings, tasks: Sequence[shards.ShardTask], progress: workers.Progress
) -> Generator[shards.WrittenShard, None, None]:
    """Writes the shards here, or wherever Beam's runner has its workers."""
    if settings.runner is None:
        return workers.run(shards.write_shard, tasks, settings.workers, progress, _PRELOAD)
    where = str(settings.folders[settings.sizes[0]])
    decode = shards.WrittenShard.from_json
    return beam.run(
        shards.write_shard, tasks, settings.runner, settings.beam_options, progress, where, decode, convert.versions
    )


def _finish(output: folders.Output) -> Manifest:
    output.remove_strays()
    for path in paths.temporary_files(output.folder):  # left by attempts that a runner gave up and made again
        path.unlink(missing_ok=True)
    # Without an image it is no build that anyone could use, but one to be resumed.
    manifest = output.manifest(complete=any(result.records for result in output.finished.values()))
    paths.write_whole(output.folder / QUARANTINE, report.quarantine_csv(manifest))
    manifest.write(output.folder)
    return manifest


# ----------------------------------------------------------------------------------------------- manifest


def _byte_settings(settings: BuildSettings, size: int) -> dict[str, Any]:
    """Everything that, with the input, determines the bytes of the shards."""
    keys = ("fit", "max_pixels", "swap_rb", "folds", "shards", "seed", "columns", "codes")
    plain = {key: getattr(settings, key) for key in keys}
    plain |= {"quality": settings.quality or asked.QUALITY, "subsampling": settings.subsampling or asked.SUBSAMPLING}
    plain["kept"] = settings.kept and str(settings.kept)
    listed = shards.file_sha256(settings.duplicates) if settings.duplicates else None
    plain |= {"duplicates": listed, "on_duplicates": settings.mode if listed else None}
    plain["against"] = sorted(shards.file_sha256(folder / MANIFEST) for folder in settings.others) or None
    return {"size": size, "decoded_for_size": max(settings.sizes), **plain}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **convert.versions(), "tfrecord_tools": tfrecord_tools.__version__}


# -------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags."""
    default = {field.name: field.default for field in dataclasses.fields(BuildSettings)}
    low, high = asked.SIZES
    text = f"Side of the square images, {low} to {high} pixels; several, as 256,384,512, go to OUT/256, OUT/384, ..."
    flags.DEFINE_list("size", None, text, required=True)
    flags.DEFINE_string(
        "csv", None, "The metadata, in a known form or with --columns; several, as a.csv,b.csv, are joined."
    )
    flags.DEFINE_enum(
        "form", None, [form.name for form in formats.FORMS], "Form of --csv; default: recognised by its header."
    )
    flags.DEFINE_string(
        "columns",
        None,
        "For a CSV in no known form, or --from_tfrecords without --csv: patient_id=patient,image_name=file,...",
    )
    flags.DEFINE_string("from_tfrecords", None, "TFRecords of others to take the images from, e.g. 'old/*.tfrec'.")
    flags.DEFINE_enum(
        "dialect", None, [each.name for each in dialects.DIALECTS], "Of --from_tfrecords; default: recognised."
    )
    flags.DEFINE_string("codes", None, "Words behind their codes: sex=female|male,diagnosis= (nothing: not known).")
    flags.DEFINE_bool("swap_rb", False, "Of --from_tfrecords: their writer exchanged red and blue; exchange them back.")
    flags.DEFINE_string("duplicates", None, "CSV of pairs image_name_1,image_name_2 that show one image.")
    flags.DEFINE_enum(
        "on_duplicates",
        None,
        list(pairs.MODES),
        "Of --duplicates: group them in one fold (default), drop all but one of each image, or keep them where they "
        "fall and only warn where they disagree.",
    )
    flags.DEFINE_string("against", None, "Finished builds, as A,B: leave out their images, patients and lesions.")
    flags.DEFINE_string("images", None, "The folder that holds NAME.jpg of each image_name.")
    flags.DEFINE_string("out", None, "Where the shards go; default tfrecords/SIZE, or tfrecords for several.")
    flags.DEFINE_enum("split", "auto", ["auto", "train", "test"], "What --csv is; auto: train if it has labels.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Worker processes; the bytes do not depend on it.", 1)
    flags.DEFINE_integer("folds", default["folds"], "Folds; no patient is in two of them.", 1)
    flags.DEFINE_integer("shards", default["shards"], "Shards per split, a multiple of --folds.", 1)
    flags.DEFINE_integer("seed", default["seed"], "Of the assignment to folds and the order within shards.")
    flags.DEFINE_enum("fit", default["fit"], convert.FITS, "Crop to the shorter side, pad with black, or stretch.")
    kept = "--from_tfrecords keeps images that have the size already, unless another {} is asked."
    text = f"Of colour in the records' JPEGs; default {asked.SUBSAMPLING}. {kept.format('one')}"
    flags.DEFINE_enum("subsampling", None, convert.SUBSAMPLINGS, text)
    text = f"JPEG quality of the records; default {asked.QUALITY}. {kept.format('quality')}"
    flags.DEFINE_integer("quality", None, text, 1, 100)
    flags.DEFINE_integer("max_pixels", default["max_pixels"], "Larger images are quarantined unread.", 1)
    flags.DEFINE_string("source", None, "Name of the data set, kept in each record; default: that of the CSV's form.")
    flags.DEFINE_string("runner", None, "Apache Beam runner, e.g. DirectRunner, DataflowRunner; none: --workers here.")
    flags.DEFINE_list("beam_options", [], "Options of the runner, e.g. --direct_num_workers=2,--job_name=isic.")
    flags.DEFINE_bool("allow_quarantine", False, "Exit with 0 even if images could not be used.")
    flags.DEFINE_bool(
        "resume",
        False,
        "Complete the build in --out; its settings and CSV must be the same. Images "
        "replaced since are not noticed: --overwrite takes them.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace the build in --out: it is removed before the new one is made.")


def main(argv: Sequence[str]) -> None:
    """The command; exits with 1 and one message on what a user can mend."""
    if len(argv) > 1:
        raise cli.UsageError(f"unexpected argument {argv[1]!r}; {_hint(argv[1])}")
    start = time.monotonic()
    try:
        settings = _settings_from_flags()
        built = _build(settings)
    except USERS_ERRORS as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = error.filename or flags.FLAGS.out or "tfrecords"
        sys.exit(f"error: {where}: {error.strerror or error}; what is finished is kept, go on with --resume")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the finished shards are kept, go on with --resume")
    seconds = time.monotonic() - start
    for folder, (manifest, made) in zip(settings.folders.values(), built, strict=True):
        print(report.summary(folder, manifest, made, seconds))
    first, _ = built[0]
    if first.quarantined and not settings.allow_quarantine:  # the same for every size
        sys.exit(f"error: {report.complaint(settings, first)}")


def _hint(argument: str) -> str:
    """What to do about an argument, which most often a shell made of a pattern."""
    if argument.endswith(".csv"):
        return "several tables are --csv a.csv,b.csv"
    if argument.endswith((".tfrec", ".tfrecord", ".tfrecords")) or os.path.isfile(argument):
        return "put a pattern in quotes: --from_tfrecords 'old/*.tfrec'"
    return "see --help"


def _settings_from_flags() -> BuildSettings:
    given = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(BuildSettings)}
    try:
        given["size"] = tuple(int(size) for size in given["size"])
    except ValueError:
        sizes = ",".join(given["size"])
        raise cli.UsageError(f"--size {sizes}; expected whole numbers, as 384 or 256,384,512; see --help") from None
    return BuildSettings(**given)


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__, positional=True)


if __name__ == "__main__":
    run()
