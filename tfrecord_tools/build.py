"""Dermoscopy JPEGs and their CSV -> checked TFRecord shards, patients kept apart in folds.

  python -m tfrecord_tools.build --size 384
  python -m tfrecord_tools.build --size 256 --csv train.csv --images jpeg/ --out tfrecords/256
  python -m tfrecord_tools.build --size 256,384,512
  python -m tfrecord_tools.build --size 384 --csv HAM10000_metadata.csv --images ham/ --out tfrecords/ham
  python -m tfrecord_tools.build --size 384 --duplicates ISIC_2020_Training_Duplicates.csv
  python -m tfrecord_tools.build --size 256 --from_tfrecords 'others/train*.tfrec' --csv train.csv --out own

With several sizes each picture is decoded once, and each size is a build of its own in OUT/SIZE. All are resampled
from the decoding for the largest, so the smaller ones differ in a few bits from those of a --size of their own.

The form of a CSV is recognised by its header: Kaggle's and the ISIC site's tables of 2020, ISIC 2019 (ground truth and
metadata, as --csv a.csv,b.csv), HAM10000, exports of the ISIC Archive; any other with --columns.

TFRecords of others are taken with --from_tfrecords: checked, folded anew and converted. With --csv the shards give
only the pictures; without it their whole-number codes are believed unless they contradict themselves.

Without --csv and --images it looks where Kaggle puts the competition and in ./data. A build that was killed goes on
with --resume and ends in the same bytes. Images that cannot be used are listed in quarantine.csv.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pandas as pd
from absl import app, flags

import tfrecord_tools
from tfrecord_tools import (
    beam,
    dialects,
    duplicates,
    foreign,
    image,
    paths,
    resample,
    schema,
    shards,
    sources,
    split,
    table,
    workers,
)
from tfrecord_tools import resume as folders
from tfrecord_tools.resume import QUARANTINE, BuildError

COMPETITION = "siim-isic-melanoma-classification"
# Kaggle mounts competitions under the second path since 2026; older sessions have the first.
PLACES = (f"/kaggle/input/{COMPETITION}", f"/kaggle/input/competitions/{COMPETITION}", "data")
SIZES = (32, 1024)  # pixels; below, nothing is left to see; above, few sources have the pixels
_EXTENSIONS = (".jpg", ".jpeg", ".JPG", ".JPEG")
USERS_ERRORS = (
    BuildError,
    beam.BeamError,
    duplicates.DuplicatesError,
    dialects.ForeignError,
    schema.CorruptRecord,
    table.TableError,
    split.SplitError,
    shards.ShardError,
    workers.WorkerError,
)
_PRELOAD = tuple(module.__name__ for module in (image, resample, shards, split, table, workers))


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What the flags say; see `define_flags`. csv and images: both or neither. out: None for tfrecords/SIZE."""

    size: int | tuple[int, ...]
    csv: str | None = None
    images: str | None = None
    out: str | None = None
    split: str = "auto"
    workers: int = 1
    folds: int = 5
    shards: int = 15
    seed: int = 0
    fit: str = "crop"
    quality: int = 95
    subsampling: str = "4:2:0"
    max_pixels: int = image.MAX_PIXELS
    source: str | None = None
    form: str | None = None
    columns: str | None = None
    from_tfrecords: str | None = None
    dialect: str | None = None
    codes: str | None = None
    swap_rb: bool = False
    duplicates: str | None = None
    runner: str | None = None
    beam_options: Sequence[str] = ()
    on_duplicates: str = "group"
    allow_quarantine: bool = False
    resume: bool = False
    overwrite: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the square images, in pixels."""
        return (self.size,) if isinstance(self.size, int) else tuple(self.size)

    @property
    def folders(self) -> dict[int, paths.AnyPath]:
        """Where the shards of each size go."""
        if len(self.sizes) == 1:
            return {size: paths.path(self.out or f"tfrecords/{size}") for size in self.sizes}
        return {size: paths.path(self.out or "tfrecords") / str(size) for size in self.sizes}


@dataclasses.dataclass(frozen=True)
class _Input:
    """A table and its images. split: "train" (labelled) or "test". files: the CSVs, or what else the rows are from.

    frame: as `table.read_table` returns it. images: their folder, or the place of each row's image in foreign shards.
    data_set: its name, for the records.
    """

    split: str
    files: tuple[paths.AnyPath, ...]
    frame: pd.DataFrame
    images: paths.AnyPath | tuple[foreign.Place, ...]
    data_set: str

    @property
    def name(self) -> str:
        """The files' names."""
        return ",".join(path.name for path in self.files)


def build(settings: BuildSettings) -> shards.Manifest:
    """As `build_sizes`; returns the manifest of the first size."""
    return build_sizes(settings)[0]


def build_sizes(settings: BuildSettings) -> list[shards.Manifest]:
    """Builds, or completes, shards and manifest of each size; nothing is written on bad metadata or settings.

    Raises one of USERS_ERRORS, each with a message for the user. Images that cannot
    be used are in the results' shards as `quarantined`.
    """
    _check_settings(settings)
    inputs = _find_inputs(settings)
    tasks: list[shards.ShardTask] = []
    described = {}
    same = _published_duplicates(settings)
    for each in inputs:
        described[each.split] = {"name": each.name, "sha256": _sha256_of(each.files), "rows": len(each.frame)}
        tasks += _plan(settings, each, same)
    outputs = [
        folders.Output(folder, shards.Manifest(_byte_settings(settings, size), _versions(), described))
        for size, folder in settings.folders.items()
    ]
    # All are looked at before the first is touched.
    there = [folders.check(output, settings.resume, settings.overwrite) for output in outputs]
    for output, before in zip(outputs, there, strict=True):
        folders.prepare(output, before, settings.resume)
        # Before the first shard, so that a killed build is known as ours and what it finished is not lost.
        output.manifest(complete=False).write(output.folder)
    _write_shards(settings, tasks, outputs)
    return [_finish(output) for output in outputs]


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
            convert = _convert_to(settings, list(missing))
            pending[task.prefix] = dataclasses.replace(task, convert=convert, folders=tuple(missing.values()))
    todo = list(pending.values())
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
        shards.write_shard, tasks, settings.runner, settings.beam_options, progress, where, decode, image.versions
    )


def _finish(output: folders.Output) -> shards.Manifest:
    output.remove_strays()
    for path in shards.temporary_files(output.folder):  # left by attempts that a runner gave up and made again
        path.unlink(missing_ok=True)
    manifest = output.manifest(complete=True)
    shards.write_whole(output.folder / QUARANTINE, _quarantine_csv(manifest))
    manifest.write(output.folder)
    return manifest


# ---------------------------------------------------------------------------------------------- input


def _check_settings(settings: BuildSettings) -> None:
    for size in settings.sizes:
        if not SIZES[0] <= size <= SIZES[1]:
            raise BuildError(f"--size {size}; expected {SIZES[0]} to {SIZES[1]} pixels")
    if not settings.sizes or len(set(settings.sizes)) < len(settings.sizes):
        raise BuildError(f"--size {','.join(map(str, settings.sizes))}; expected one or several different sizes")
    for name, value, allowed in (
        ("fit", settings.fit, image.FITS),
        ("subsampling", settings.subsampling, image.SUBSAMPLINGS),
    ):
        if value not in allowed:
            raise BuildError(f"--{name} {value}; expected one of {', '.join(allowed)}")
    if not 1 <= settings.quality <= 100:
        raise BuildError(f"--quality {settings.quality}; expected 1 to 100")
    if settings.workers < 1:
        raise BuildError(f"--workers {settings.workers}; expected at least 1")
    if settings.from_tfrecords is not None:
        if settings.images is not None:
            raise BuildError("--from_tfrecords and --images together; expected one of them")
    elif settings.dialect or settings.codes:
        raise BuildError("--dialect and --codes are for --from_tfrecords, which is not given")
    elif (settings.csv is None) != (settings.images is None):
        given, other = ("csv", "images") if settings.images is None else ("images", "csv")
        raise BuildError(f"--{given} without --{other}; expected both, or neither to look for the competition's data")
    if settings.runner is not None:
        beam.check(settings.runner, settings.beam_options)
    elif settings.beam_options:
        raise BuildError("--beam_options without --runner; expected e.g. --runner DirectRunner")
    if settings.resume and settings.overwrite:
        raise BuildError("--resume and --overwrite together; expected one of them")


def _find_inputs(settings: BuildSettings) -> list[_Input]:
    if settings.from_tfrecords is not None:
        return [_foreign_input(settings, settings.from_tfrecords)]
    if settings.csv is not None and settings.images is not None:
        tables = tuple(map(paths.path, settings.csv.split(",")))
        return [_table_input(settings, settings.split, tables, paths.path(settings.images))]
    for place in map(paths.path, PLACES):
        found = {kind: (place / f"{kind}.csv", place / "jpeg" / kind) for kind in ("train", "test")}
        found = {kind: (csv, images) for kind, (csv, images) in found.items() if csv.is_file() and images.is_dir()}
        if "train" in found:
            print(f"found {', '.join(str(csv) for csv, _ in found.values())}")
            return [_table_input(settings, kind, (csv,), images) for kind, (csv, images) in found.items()]
    looked = "\n".join(f"  {place}/train.csv with jpeg/train/ beside it (and test.csv, jpeg/test/)" for place in PLACES)
    raise BuildError(
        f"no data found. Looked for:\n{looked}\n"
        f"To get the data: accept the rules at https://www.kaggle.com/c/{COMPETITION}, then\n"
        f"  kaggle competitions download -c {COMPETITION} -p data && unzip data/{COMPETITION}.zip -d data\n"
        "To make a small synthetic data set instead:\n"
        "  python -m tfrecord_tools.synthetic --out data\n"
        "Or say where yours is with --csv and --images."
    )


def _table_input(
    settings: BuildSettings, kind: str, tables: tuple[paths.AnyPath, ...], images: paths.AnyPath
) -> _Input:
    columns = sources.parse_columns(settings.columns) if settings.columns else None
    if kind == "auto":
        kind = "train" if table.is_labelled(tables, settings.form, columns) else "test"
    frame = table.read_table(tables, kind == "train", settings.form, columns)
    data_set = settings.source or table.form_of(tables, settings.form, columns).source
    return _Input(kind, tables, frame, images, data_set)


def _foreign_input(settings: BuildSettings, pattern: str) -> _Input:
    """Rows from the CSV if there is one, else from the records; images from the records."""
    keys = None
    if settings.columns and not settings.csv:
        keys = sources.parse_columns(settings.columns, dialects.KEYS)
    codes = dialects.parse_codes(settings.codes) if settings.codes else {}
    files = foreign.find(pattern)
    found = foreign.read_shards(files, settings.dialect, keys, codes)
    for shard, channels in found.channels.items():
        if channels.swapped != settings.swap_rb:
            advice = "leave out" if settings.swap_rb else "give"
            print(f"warning: {shard}: {channels}. Look at a few of its pictures, and {advice} --swap_rb if that is so")
    if settings.csv is not None:
        rows = _table_input(settings, settings.split, tuple(map(paths.path, settings.csv.split(","))), paths.path("."))
        listed = dataclasses.replace(rows, frame=foreign.with_table(found.frame, rows.frame), images=found.places)
        return dataclasses.replace(listed, files=(*rows.files, *map(paths.path, files)))
    if found.doubts:
        raise BuildError(
            f"{pattern}: the codes in these records cannot be trusted:\n  " + "\n  ".join(found.doubts) + "\n"
            "Give the table of the images with --csv, or the words behind the codes as "
            "--codes 'sex=female|male,diagnosis=...', or nothing behind the = to leave them out"
        )
    kind = settings.split
    if kind == "auto":
        kind = "train" if found.labelled else "test"
    if kind == "train" and not found.labelled:
        raise BuildError(f"{pattern}: --split train, but the records have no target")
    frame = found.frame if kind == "train" else found.frame.assign(target=schema.MISSING, diagnosis=schema.MISSING)
    source = settings.source or found.dialect
    return _Input(kind, tuple(map(paths.path, files)), frame, found.places, source)


def _published_duplicates(settings: BuildSettings) -> list[tuple[str, str]]:
    return duplicates.read_published(settings.duplicates) if settings.duplicates else []


def _resolved(
    settings: BuildSettings, frame: pd.DataFrame, same: list[tuple[str, str]]
) -> tuple[list[bool], list[str]]:
    """Whether each row stays, or is a duplicate that is dropped; and the leak group of each.

    Groups are made before anything is dropped: one picture under two patients says that they are one.
    """
    names = frame["image_name"].tolist()
    compared = {column: frame[column].tolist() for column in ("target", "patient")}
    resolution = duplicates.resolve(names, compared, same, settings.on_duplicates)  # type: ignore[arg-type]
    for found in resolution.contradictions:
        values = ", ".join(f"{name}: {value}" for name, value in zip(found.names, found.values, strict=True))
        print(f"warning: one picture under several names disagrees in {found.column}: {values}")
    if resolution.dropped:
        print(f"{len(resolution.dropped)} of {len(names)} images are duplicates of others and left out")
    groups = split.leak_groups(names, frame["patient"].tolist(), frame["lesion"].tolist(), resolution.same)
    return (~frame["image_name"].isin(list(resolution.dropped))).tolist(), groups


def _plan(settings: BuildSettings, given: _Input, same: list[tuple[str, str]]) -> list[shards.ShardTask]:
    """One task per shard that gets any image. same: pairs of image names that show one picture."""
    stays, leak_groups = _resolved(settings, given.frame, same)
    found = list(itertools.compress(_sources(given, leak_groups), stays))
    groups = [source.group for source in found]
    # Test images have no folds, but a patient's still lie together.
    folds = settings.folds if given.split == "train" else 1
    assigned = split.assign_shards(groups, [source.target for source in found], folds, settings.shards, settings.seed)
    members: dict[int, list[shards.Source]] = {}
    for index in split.shuffled([source.image_name for source in found], settings.seed):
        members.setdefault(assigned[index], []).append(found[index])
    return [
        shards.ShardTask(
            prefix=f"{given.split}{shard:02d}",
            split=given.split,
            fold=split.fold_of(shard, folds) if given.split == "train" else -1,
            folders=tuple(map(str, settings.folders.values())),
            data_set=given.data_set,
            convert=_convert_to(settings, settings.sizes),
            sources=tuple(chosen),
        )
        for shard, chosen in sorted(members.items())
    ]


def _convert_to(settings: BuildSettings, sizes: Sequence[int]) -> Callable[[bytes], image.ConvertedSizes]:
    return functools.partial(
        image.convert_sizes,
        sizes=tuple(sizes),
        quality=settings.quality,
        max_pixels=settings.max_pixels,
        fit=settings.fit,
        subsampling=settings.subsampling,
        decode_for=max(settings.sizes),
        swap_rb=settings.swap_rb,
    )


def _sources(given: _Input, groups: list[str]) -> list[shards.Source]:
    """Where the image of each row is. groups: the leak group of each row."""
    rows = [{str(key): value for key, value in row.items()} for row in given.frame.to_dict("records")]
    if isinstance(given.images, tuple):
        return [
            shards.Source(
                file=f"{os.path.basename(place.path)} at byte {place.offset}",
                path=place.path,
                part=shards.Part(place.offset, place.length, place.sha256),
                group=group,
                **row,
            )
            for row, group, place in zip(rows, groups, given.images, strict=True)
        ]
    try:
        names = {path.name for path in given.images.iterdir()}
    except OSError as error:
        raise BuildError(f"{given.images}: {error.strerror}; expected the folder of the images") from error
    found = []
    for row, group in zip(rows, groups, strict=True):
        candidates = [row["image_name"] + extension for extension in _EXTENSIONS]
        file = next((name for name in candidates if name in names), None)
        path = None if file is None else str(given.images / file)
        found.append(shards.Source(file=file or candidates[0], path=path, group=group, **row))
    if all(source.path is None for source in found):
        raise BuildError(
            f"{given.images}: holds none of the {len(found)} images of {given.name}; expected files like "
            f"{found[0].image_name}{{{','.join(_EXTENSIONS)}}}"
        )
    return found


def _sha256_of(files: Sequence[paths.AnyPath]) -> str:
    """Of the file, or of the hashes of several."""
    hashes = [shards.file_sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(",".join(hashes).encode()).hexdigest()


def _byte_settings(settings: BuildSettings, size: int) -> dict[str, Any]:
    """Everything that, with the input, determines the bytes of the shards."""
    picture = ("fit", "subsampling", "quality", "max_pixels", "swap_rb")
    keys = (*picture, "folds", "shards", "seed", "source", "form", "columns", "dialect", "codes")
    plain = {key: getattr(settings, key) for key in keys}
    listed = shards.file_sha256(settings.duplicates) if settings.duplicates else None
    plain |= {"duplicates": listed, "on_duplicates": settings.on_duplicates if listed else None}
    return {"size": size, "decoded_for_size": max(settings.sizes), **plain}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **image.versions(), "tfrecord_tools": tfrecord_tools.__version__}


# --------------------------------------------------------------------------------------------- output


def _quarantine_csv(manifest: shards.Manifest) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_name", "file", "reason"])
    for result in manifest.shards:
        writer.writerows(dataclasses.astuple(image) for image in result.quarantined)
    return text.getvalue()


def _summary(folder: paths.AnyPath, manifest: shards.Manifest, seconds: float) -> str:
    lines = []
    for name, fold in sorted({(result.split, result.fold) for result in manifest.shards}, reverse=True):
        chosen = [result for result in manifest.shards if (result.split, result.fold) == (name, fold)]
        records, patients = sum(result.records for result in chosen), sum(result.patients for result in chosen)
        positives = sum(result.positives or 0 for result in chosen)
        of_which = f", {positives} malignant" if name == "train" else ""
        title = f"train fold {fold}" if name == "train" else "test"
        lines.append((fold, f"  {title}: {records} images{of_which}, {patients} patients, {len(chosen)} shards"))
    images = sum(result.records for result in manifest.shards)
    size = manifest.settings["size"]
    return "\n".join(
        [
            f"{folder}: {images} images at {size} x {size}, {_quarantined(manifest)} quarantined, "
            f"{seconds:.1f} s, {images / max(seconds, 1e-9):.1f} images/s",
            *(line for _, line in sorted(lines, key=lambda line: (line[0] < 0, line[0]))),
            f"next: python -m tfrecord_tools.verify {folder}",
            f"      python -m melanoma_tf.train --data {folder}",
        ]
    )


def _quarantined(manifest: shards.Manifest) -> int:
    return sum(len(result.quarantined) for result in manifest.shards)


# -------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags; called only when this is the command, so that commands can be imported side by side."""
    default = {field.name: field.default for field in dataclasses.fields(BuildSettings)}
    low, high = SIZES
    text = f"Side of the square images, {low} to {high} pixels; several, as 256,384,512, go to OUT/256, OUT/384, ..."
    flags.DEFINE_list("size", None, text, required=True)
    flags.DEFINE_string(
        "csv", None, "The metadata, in a known form or with --columns; several, as a.csv,b.csv, are joined."
    )
    flags.DEFINE_enum(
        "form", None, [form.name for form in sources.FORMS], "Form of --csv; default: recognised by its header."
    )
    flags.DEFINE_string(
        "columns", None, "For a CSV (or TFRecords) in no known form: patient_id=patient,image_name=file,..."
    )
    flags.DEFINE_string("from_tfrecords", None, "TFRecords of others to take the pictures from, e.g. 'old/*.tfrec'.")
    flags.DEFINE_enum(
        "dialect", None, [each.name for each in dialects.DIALECTS], "Of --from_tfrecords; default: recognised."
    )
    flags.DEFINE_string("codes", None, "Words behind their codes: sex=female|male,diagnosis= (nothing: not known).")
    flags.DEFINE_bool("swap_rb", False, "Exchange red and blue, for pictures whose writer exchanged them.")
    flags.DEFINE_string("duplicates", None, "CSV of pairs image_name_1,image_name_2 that show one picture.")
    flags.DEFINE_enum(
        "on_duplicates",
        default["on_duplicates"],
        list(duplicates.MODES),
        "Keep a pair in one fold, drop one of it, or ignore it.",
    )
    flags.DEFINE_string("images", None, "The folder that holds NAME.jpg of each image_name.")
    flags.DEFINE_string("out", None, "Where the shards go; default tfrecords/SIZE, or tfrecords for several.")
    flags.DEFINE_enum("split", "auto", ["auto", "train", "test"], "What --csv is; auto: train if it has labels.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Worker processes; the bytes do not depend on it.", 1)
    flags.DEFINE_integer("folds", default["folds"], "Folds; no patient is in two of them.", 1)
    flags.DEFINE_integer("shards", default["shards"], "Shards per split, a multiple of --folds.", 1)
    flags.DEFINE_integer("seed", default["seed"], "Of the assignment to folds and the order within shards.")
    flags.DEFINE_enum("fit", default["fit"], image.FITS, "Crop to the shorter side, pad with black, or stretch.")
    flags.DEFINE_enum("subsampling", default["subsampling"], image.SUBSAMPLINGS, "Of colour in the records' JPEGs.")
    flags.DEFINE_integer("quality", default["quality"], "JPEG quality of the records.", 1, 100)
    flags.DEFINE_integer("max_pixels", default["max_pixels"], "Larger images are quarantined unread.", 1)
    flags.DEFINE_string("source", None, "Name of the data set, kept in each record; default: that of the CSV's form.")
    flags.DEFINE_string("runner", None, "Apache Beam runner, e.g. DirectRunner, DataflowRunner; none: --workers here.")
    flags.DEFINE_list("beam_options", [], "Options of the runner, e.g. --direct_num_workers=2,--job_name=isic.")
    flags.DEFINE_bool("allow_quarantine", False, "Exit with 0 even if images could not be used.")
    flags.DEFINE_bool("resume", False, "Complete the build in --out; its settings and CSV must be the same.")
    flags.DEFINE_bool("overwrite", False, "Replace the build in --out.")
    for field in default:  # so that --help shows them under the console command's name too
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[field])


def main(argv: Sequence[str]) -> None:
    """The command; exits with 1 and one message on what a user can mend."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}; see --help")
    start = time.monotonic()
    try:
        settings = _settings_from_flags()
        manifests = build_sizes(settings)
    except USERS_ERRORS as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the finished shards are kept, go on with --resume")
    seconds = time.monotonic() - start
    for folder, manifest in zip(settings.folders.values(), manifests, strict=True):
        print(_summary(folder, manifest, seconds))
    quarantined = _quarantined(manifests[0])  # the same for every size
    if quarantined and not settings.allow_quarantine:
        listed = next(iter(settings.folders.values())) / QUARANTINE
        sys.exit(
            f"error: {quarantined} image(s) could not be used, see {listed}. The shards hold all "
            "the others. Mend them and --resume, or pass --allow_quarantine"
        )


def _settings_from_flags() -> BuildSettings:
    given = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(BuildSettings)}
    try:
        given["size"] = tuple(int(size) for size in given["size"])
    except ValueError:
        raise BuildError(f"--size {','.join(given['size'])}; expected whole numbers, as 384 or 256,384,512") from None
    return BuildSettings(**given)


def run() -> None:
    """Console entry point."""
    define_flags()
    app.run(main)


if __name__ == "__main__":
    run()
