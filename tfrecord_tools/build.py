"""Builds checked TFRecord shards with patient-grouped folds from dermoscopy images and their CSV.

  python -m tfrecord_tools.build --size 384
  python -m tfrecord_tools.build --size 256 --csv train.csv --images jpeg/ --out tfrecords/256
  python -m tfrecord_tools.build --size 256,384,512
  python -m tfrecord_tools.build --size 384 --csv HAM10000_metadata.csv --images ham/ --out tfrecords/ham
  python -m tfrecord_tools.build --size 384 --duplicates ISIC_2020_Training_Duplicates.csv
  python -m tfrecord_tools.build --size 256 --from_tfrecords 'old/train*.tfrec' --csv train.csv --out own

Several sizes decode each image once; each size is a build of its own in OUT/SIZE. All are resampled from the decoding
for the largest, so the smaller ones differ in a few bits from builds of their size alone.

--images takes several folders, as A,B, searched at any depth, and HDF5 files as of ISIC 2024. Without --csv, its
folders are named by class: benign, malignant, melanoma, nevus, ...; a folder test beside them needs no classes.

The form of a CSV is recognized by its header: ISIC 2016 to 2020 and 2024 (ground truth and metadata as
--csv a.csv,b.csv), exports of the ISIC Archive, HAM10000, BCN20000, MILK10k, PAD-UFES-20, DDI, PH2; any other with
--columns. The target is melanoma or not, also where that of the table means any malignancy.

A build of further training data leaves out the images of the first build with --against tfrecords/384.

--from_tfrecords checks foreign TFRecords, folds them again and converts them. With --csv, the shards give only the
images; without it, integer codes of sex, site and diagnosis are missing unless --codes states their words.

--folds_from tfrecord takes the folds from a column of the table instead of making them, --folds_from split.csv:fold
from another table: a fold for each value, or numbers modulo --folds. Images with -1 or an empty cell are left out.

Without --csv and --images, the data are looked for where Kaggle mounts the competition and in ./data. --resume
completes a killed build, with the same bytes. Unusable images are listed in quarantine.csv.
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
from tfrecord_tools.builder import beam, checksums, inputs, output_dir, plan, report, split, workers
from tfrecord_tools.builder.output_dir import QUARANTINE
from tfrecord_tools.builder.settings import (
    DEFAULTS,
    FOLDS,
    QUALITY,
    SHARDS,
    SIZES,
    SUBSAMPLING,
    BuildError,
    BuildSettings,
    RunSpec,
    check,
)
from tfrecord_tools.core import cli, paths
from tfrecord_tools.core.progress import Progress
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
_PRELOAD = tuple(module.__name__ for module in (convert, shards, workers))  # what workers need


def build(settings: BuildSettings) -> Manifest:
    """Returns the manifest of the first size of `build_sizes`."""
    return build_sizes(settings)[0]


def build_sizes(settings: BuildSettings) -> list[Manifest]:
    """Builds, or completes, the shards and manifest of each size.

    Nothing is written if the metadata or settings are bad.

    Returns:
      The manifest of each size; unusable images are in its shards' `quarantined`.

    Raises:
      One of USERS_ERRORS, each with a message for the user.
    """
    return [manifest for manifest, _ in _build(settings)]


def _build(settings: BuildSettings) -> list[tuple[Manifest, int]]:
    """Builds each size; returns its manifest, and the number of images made in this run."""
    check(settings)
    if settings.run.runner is None:
        workers.prepare(_PRELOAD)
    read = inputs.paths_read(settings.inputs)
    listed = paths.path(settings.inputs.checksums) if settings.inputs.checksums else None
    read += [("checksums", listed)] if listed else []
    for folder in settings.folders.values():
        output_dir.check_apart(folder, read)
    sums = checksums.read(listed) if listed else None  # before the plan, which may take minutes
    planned = plan.make(settings)
    if sums:
        planned = sums.apply(planned)
    outputs = [
        output_dir.Output(folder, Manifest(_byte_settings(settings, size, planned), _versions(), planned.inputs))
        for size, folder in settings.folders.items()
    ]
    resume, overwrite = settings.output.resume, settings.output.overwrite
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output_dir.claimed(output.folder))
        # All are checked before the first is changed.
        found = [output_dir.check(output, resume, overwrite) for output in outputs]
        for output, before in zip(outputs, found, strict=True):
            output_dir.prepare(output, before, resume)
        _write_shards(settings, planned.tasks, outputs)
        done = [(_finish(output), output.made) for output in outputs]
    if not any(result.records for manifest, _ in done for result in manifest.shards):
        where, first = outputs[0].folder / QUARANTINE, done[0][0].quarantined[0]
        images = counted(sum(len(result.quarantined) for result in done[0][0].shards), "image")
        raise BuildError(f"none of {images} can be used, see {where}; the first: {first.file}: {first.reason}")
    return done


def _write_shards(
    settings: BuildSettings, tasks: Sequence[shards.ShardTask], outputs: Sequence[output_dir.Output]
) -> None:
    """Makes the unfinished shards, and lists each in its manifest once it is finished."""
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
    progress = Progress(sum(len(task.sources) for task in todo))
    # closing: Ctrl-C stops the workers at once, wherever it strikes
    with contextlib.closing(_run(settings.run, todo, progress, str(outputs[0].folder))) as results:
        for written in results:
            for folder, result in zip(pending[written.prefix].folders, written.results, strict=True):
                by_folder[folder].add(result)


def _run(
    spec: RunSpec, tasks: Sequence[shards.ShardTask], progress: Progress, folder: str
) -> Generator[shards.WrittenShard, None, None]:
    """Writes the shards in local processes, or in the workers of a Beam runner."""
    if spec.runner is None:
        return workers.run(shards.write_shard, tasks, spec.workers, progress)
    decode, options = shards.WrittenShard.from_json, spec.beam_options
    return beam.run(shards.write_shard, tasks, spec.runner, options, progress, folder, decode, convert.versions)


def _finish(output: output_dir.Output) -> Manifest:
    output.remove_strays()
    for path in paths.temporary_files(output.folder):  # left by attempts that a runner abandoned and repeated
        path.unlink(missing_ok=True)
    # A build without any image is of no use, so it stays open for --resume.
    manifest = output.manifest(complete=any(result.records for result in output.finished.values()))
    paths.write_whole(output.folder / QUARANTINE, report.quarantine_csv(manifest))
    manifest.write(output.folder)
    return manifest


# ----------------------------------------------------------------------------------------------- manifest


def _byte_settings(settings: BuildSettings, size: int, planned: plan.Plan) -> dict[str, Any]:
    """Everything that, with the input, determines the bytes of the shards."""
    given, spec, divided = settings.inputs, settings.convert, settings.split
    listed = shards.file_sha256(given.duplicates) if given.duplicates else None
    folds_file, column = given.folds_column
    against = sorted(shards.file_sha256(folder / MANIFEST) for folder in given.excluded_builds)
    return {
        "size": size,
        "decoded_for_size": max(spec.sizes),
        "fit": spec.fit,
        "max_pixels": spec.max_pixels,
        "swap_rb": given.swap_rb,
        "folds": planned.folds,
        "shards": planned.shards,
        "seed": divided.seed,
        "columns": given.columns,
        "modality": given.modality,
        "codes": given.codes,
        "quality": spec.quality or QUALITY,
        "subsampling": spec.subsampling or SUBSAMPLING,
        "kept": settings.kept and str(settings.kept),
        "duplicates": listed,
        "on_duplicates": divided.mode if listed or divided.mode != "group" else None,
        "against": against or None,
        "folds_from": f"{folds_file.name}:{column}" if folds_file is not None else column or None,
        "folds_file": shards.file_sha256(folds_file) if folds_file is not None else None,
        "folds_modulo": divided.folds if column else None,
    }


def _versions() -> dict[str, str]:
    ours = {"resampler": resample.KIND, "tfrecord_tools": tfrecord_tools.__version__}
    return {"python": platform.python_version(), **convert.versions(), **ours}


# -------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags."""
    _define_input_flags()
    _define_split_flags()
    _define_image_flags()
    _define_output_flags()


def _define_input_flags() -> None:
    names = [form.name for form in formats.FORMS]
    flags.DEFINE_string("csv", None, "Metadata in a known form or with --columns; several, as a.csv,b.csv, are joined.")
    text = "Folder with NAME.jpg of each image_name, at any depth, or an HDF5 file; several, as A,B."
    flags.DEFINE_string("images", None, text)
    flags.DEFINE_enum("split", "auto", ["auto", "train", "test"], "Kind of --csv; auto: train if it has labels.")
    flags.DEFINE_string("source", None, "Name of the data set, stored in each record; default: that of the CSV's form.")
    flags.DEFINE_enum("form", None, names, "Form of --csv; default: recognized by its header.")
    text = (
        "Columns of an unknown CSV, or, with image=..., keys of --from_tfrecords: patient_id=patient,image_name=id,..."
    )
    flags.DEFINE_string("columns", None, text)
    text = "Images to build, by the image_type of --csv: dermoscopic (default), clinical, TBP tile, ..., or all."
    flags.DEFINE_string("modality", None, text)
    flags.DEFINE_string("from_tfrecords", None, "Foreign TFRecords to take the images from, e.g. 'old/*.tfrec'.")
    names = [each.name for each in dialects.DIALECTS]
    flags.DEFINE_enum("dialect", None, names, "Dialect of --from_tfrecords; default: recognized by its keys.")
    text = "Words of the codes in --from_tfrecords, in order: sex=female|male,target=other|melanoma (none: missing)."
    flags.DEFINE_string("codes", None, text)
    flags.DEFINE_bool("swap_rb", False, "Exchange red and blue of --from_tfrecords, which their writer had exchanged.")
    flags.DEFINE_string("duplicates", None, "CSV of pairs image_name_1,image_name_2 that show one image.")
    text = "SHA-256 of the images: output of sha256sum, or a CSV with image_name,sha256. Others are quarantined."
    flags.DEFINE_string("checksums", None, text)
    text = "Finished builds, as A,B, whose images, patients and lesions are left out."
    flags.DEFINE_string("against", None, text)


def _define_split_flags() -> None:
    text = (
        f"Number of folds, default {FOLDS}; each patient is in one of them. With --folds_from, its numbers modulo this."
    )
    flags.DEFINE_integer("folds", DEFAULTS["folds"], text, 1)
    text = f"Shards per split, a multiple of --folds; default {SHARDS}, or the next multiple with --folds_from."
    flags.DEFINE_integer("shards", DEFAULTS["shards"], text, 1)
    text = (
        "Column of --csv with the fold of each image, or FILE.csv:COLUMN of another table; whole numbers or words. "
        "Images with an empty cell or a negative number are left out."
    )
    flags.DEFINE_string("folds_from", None, text)
    flags.DEFINE_integer("seed", DEFAULTS["seed"], "Seed of the assignment to folds and the order within shards.")
    text = (
        "Treatment of --duplicates and of identical files: group them in one fold (default), drop all but one of each "
        "image, or keep them in any fold and only warn where they disagree."
    )
    flags.DEFINE_enum("on_duplicates", None, list(pairs.MODES), text)


def _define_image_flags() -> None:
    text = f"Side of the square images, {SIZES[0]} to {SIZES[1]} pixels; several, as 256,384,512, go to OUT/256, ..."
    flags.DEFINE_list("size", None, text, required=True)
    flags.DEFINE_enum("fit", DEFAULTS["fit"], convert.FITS, "Crop to the shorter side, pad with black, or stretch.")
    kept = "--from_tfrecords keeps images that already have the size, unless another {} is given."
    text = f"JPEG quality of the records; default {QUALITY}. {kept.format('quality')}"
    flags.DEFINE_integer("quality", None, text, 1, 100)
    text = f"Chroma subsampling of the records' JPEGs; default {SUBSAMPLING}. {kept.format('one')}"
    flags.DEFINE_enum("subsampling", None, convert.SUBSAMPLINGS, text)
    flags.DEFINE_integer("max_pixels", DEFAULTS["max_pixels"], "Larger images are quarantined undecoded.", 1)


def _define_output_flags() -> None:
    flags.DEFINE_string("out", None, "Output folder; default tfrecords/SIZE, or tfrecords for several sizes.")
    text = (
        "Complete the build in --out, with the same settings and CSV. Images replaced since are not noticed; use "
        "--overwrite for those."
    )
    flags.DEFINE_bool("resume", False, text)
    flags.DEFINE_bool("overwrite", False, "Replace the build in --out, which is removed before the new one is made.")
    flags.DEFINE_bool("allow_quarantine", False, "Exit with 0 even if some images are unusable.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Worker processes; the bytes do not depend on it.", 1)
    text = "Apache Beam runner, e.g. DirectRunner, DataflowRunner; default: --workers on this machine."
    flags.DEFINE_string("runner", None, text)
    flags.DEFINE_list("beam_options", [], "Options of the runner, e.g. --direct_num_workers=2,--job_name=isic.")


def main(argv: Sequence[str]) -> None:
    """Runs the command; exits with 1 and one message on errors that a user can fix."""
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
        sys.exit(f"error: {where}: {error.strerror or error}; the finished shards are kept, go on with --resume")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the finished shards are kept, go on with --resume")
    seconds = time.monotonic() - start
    for folder, (manifest, made) in zip(settings.folders.values(), built, strict=True):
        print(report.summary(folder, manifest, made, seconds))
    first, _ = built[0]
    if first.quarantined and not settings.output.allow_quarantine:  # the same for every size
        sys.exit(f"error: {report.complaint(settings, first)}")


def _hint(argument: str) -> str:
    """Advice on a positional argument, most often a pattern that the shell expanded."""
    if argument.endswith(".csv"):
        return "several tables are --csv a.csv,b.csv"
    if argument.endswith((".tfrec", ".tfrecord", ".tfrecords")) or os.path.isfile(argument):
        return "put a pattern in quotes: --from_tfrecords 'old/*.tfrec'"
    return "see --help"


def _settings_from_flags() -> BuildSettings:
    given = flags.FLAGS.size
    try:
        sizes = tuple(int(size) for size in given)
    except ValueError:
        raise cli.UsageError(
            f"--size {','.join(given)}; expected whole numbers, as 384 or 256,384,512; see --help"
        ) from None
    return BuildSettings.of(sizes, **{name: getattr(flags.FLAGS, name) for name in DEFAULTS})


def run() -> None:
    """Runs the console entry point."""
    try:
        cli.run(main, define_flags, __doc__, positional=True)
    finally:
        workers.end()


if __name__ == "__main__":
    run()
