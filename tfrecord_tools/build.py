"""Dermoscopy JPEGs and their CSV -> checked TFRecord shards, patients kept apart in folds.

  python -m tfrecord_tools.build --size 384
  python -m tfrecord_tools.build --size 256 --csv train.csv --images jpeg/ --out tfrecords/256

Without --csv and --images it looks where Kaggle puts the competition and in ./data. A build that was killed goes on
with --resume and ends in the same bytes. Images that cannot be used are listed in OUT/quarantine.csv.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from absl import app, flags
from PIL import features

import tfrecord_tools
from tfrecord_tools import image, shards, split, table, workers

COMPETITION = "siim-isic-melanoma-classification"
# Kaggle mounts competitions under the second path since 2026; older sessions have the first.
PLACES = (f"/kaggle/input/{COMPETITION}", f"/kaggle/input/competitions/{COMPETITION}", "data")
QUARANTINE = "quarantine.csv"
SIZES = (32, 1024)  # pixels; below, nothing is left to see; above, few sources have the pixels
_EXTENSIONS = (".jpg", ".jpeg", ".JPG", ".JPEG")
_PRELOAD = tuple(module.__name__ for module in (image, shards, split, table, workers))


class BuildError(RuntimeError):
    """The build cannot be done as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What the flags say; see `define_flags`. csv and images: both or neither. out: None for tfrecords/SIZE."""

    size: int
    csv: str | None = None
    images: str | None = None
    out: str | None = None
    split: str = "auto"
    workers: int = 1
    folds: int = 5
    shards: int = 15
    seed: int = 0
    quality: int = 95
    max_pixels: int = image.MAX_PIXELS
    source: str = "isic2020"
    allow_quarantine: bool = False
    resume: bool = False
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Where the shards go."""
        return Path(self.out or f"tfrecords/{self.size}")


@dataclasses.dataclass(frozen=True)
class _Input:
    """A CSV and the folder of its images. split: "train" (labelled) or "test"."""

    split: str
    csv: Path
    images: Path


def build(settings: BuildSettings) -> shards.Manifest:
    """Builds, or completes, the shards and the manifest in `settings.folder`; nothing is written on bad metadata.

    Raises BuildError, table.TableError, split.SplitError, shards.ShardError or workers.WorkerError, each with a
    message for the user. Images that cannot be used are in the result's shards as `quarantined`.
    """
    _check_settings(settings)
    inputs = _find_inputs(settings)
    tasks: list[shards.ShardTask] = []
    described = {}
    for each in inputs:
        frame = table.read_table(each.csv, labelled=each.split == "train")
        described[each.split] = {"name": each.csv.name, "sha256": shards.file_sha256(each.csv), "rows": len(frame)}
        tasks += _plan(settings, each, frame)
    planned = shards.Manifest(_byte_settings(settings), _versions(), described)
    folder = settings.folder
    finished = _prepare_folder(settings, planned)
    pending = [task for task in tasks if task.prefix not in finished]
    progress = workers.Progress(sum(len(task.sources) for task in pending))
    # Before the first shard, so that a killed build is known as ours and what it finished is not lost.
    _with_shards(planned, finished, complete=False).write(folder)
    # closing: on Ctrl-C the workers stop at once, wherever it strikes
    with contextlib.closing(workers.run(shards.write_shard, pending, settings.workers, progress, _PRELOAD)) as results:
        for result in results:
            finished[result.prefix] = result
            _with_shards(planned, finished, complete=False).write(folder)
    _remove_strays(folder, {result.name for result in finished.values()})
    manifest = _with_shards(planned, finished, complete=True)
    shards.write_whole(folder / QUARANTINE, _quarantine_csv(manifest))
    manifest.write(folder)
    return manifest


# ---------------------------------------------------------------------------------------------- input


def _check_settings(settings: BuildSettings) -> None:
    if not SIZES[0] <= settings.size <= SIZES[1]:
        raise BuildError(f"--size {settings.size}; expected {SIZES[0]} to {SIZES[1]} pixels")
    if not 1 <= settings.quality <= 100:
        raise BuildError(f"--quality {settings.quality}; expected 1 to 100")
    if settings.workers < 1:
        raise BuildError(f"--workers {settings.workers}; expected at least 1")
    if (settings.csv is None) != (settings.images is None):
        given, other = ("csv", "images") if settings.images is None else ("images", "csv")
        raise BuildError(f"--{given} without --{other}; expected both, or neither to look for the competition's data")
    if settings.resume and settings.overwrite:
        raise BuildError("--resume and --overwrite together; expected one of them")


def _find_inputs(settings: BuildSettings) -> list[_Input]:
    if settings.csv is not None and settings.images is not None:
        path, images = Path(settings.csv), Path(settings.images)
        kind = settings.split
        if kind == "auto":
            kind = "train" if table.is_labelled(path) else "test"
        return [_Input(kind, path, images)]
    for place in map(Path, PLACES):
        found = [_Input(kind, place / f"{kind}.csv", place / "jpeg" / kind) for kind in ("train", "test")]
        found = [each for each in found if each.csv.is_file() and each.images.is_dir()]
        if any(each.split == "train" for each in found):
            print(f"found {', '.join(str(each.csv) for each in found)}")
            return found
    looked = "\n".join(f"  {place}/train.csv with jpeg/train/ beside it (and test.csv, jpeg/test/)" for place in PLACES)
    raise BuildError(
        f"no data found. Looked for:\n{looked}\n"
        f"To get the data: accept the rules at https://www.kaggle.com/c/{COMPETITION}, then\n"
        f"  kaggle competitions download -c {COMPETITION} -p data && unzip data/{COMPETITION}.zip -d data\n"
        "To make a small synthetic data set instead:\n"
        "  python -m tfrecord_tools.synthetic --out data\n"
        "Or say where yours is with --csv and --images."
    )


def _plan(settings: BuildSettings, given: _Input, frame: pd.DataFrame) -> list[shards.ShardTask]:
    """One task per shard that gets any image."""
    sources = _sources(given, frame)
    # Test images have no folds, but a patient's still lie together.
    folds = settings.folds if given.split == "train" else 1
    groups, targets = [source.group for source in sources], [source.target for source in sources]
    assigned = split.assign_shards(groups, targets, folds, settings.shards, settings.seed)
    members: dict[int, list[shards.Source]] = {}
    for index in split.shuffled([source.image_name for source in sources], settings.seed):
        members.setdefault(assigned[index], []).append(sources[index])
    convert = functools.partial(
        image.convert, size=settings.size, quality=settings.quality, max_pixels=settings.max_pixels
    )
    return [
        shards.ShardTask(
            prefix=f"{given.split}{shard:02d}",
            split=given.split,
            fold=split.fold_of(shard, folds) if given.split == "train" else -1,
            folder=str(settings.folder),
            data_set=settings.source,
            convert=convert,
            sources=tuple(chosen),
        )
        for shard, chosen in sorted(members.items())
    ]


def _sources(given: _Input, frame: pd.DataFrame) -> list[shards.Source]:
    try:
        names = {entry.name for entry in os.scandir(given.images)}
    except OSError as error:
        raise BuildError(f"{given.images}: {error.strerror}; expected the folder of the images") from error
    groups = split.leak_groups(*(frame[key].tolist() for key in ("image_name", "patient", "lesion")))
    sources = []
    for row, group in zip(frame.to_dict("records"), groups, strict=True):
        candidates = [row["image_name"] + extension for extension in _EXTENSIONS]
        file = next((name for name in candidates if name in names), None)
        path = None if file is None else str(given.images / file)
        fields = {str(key): value for key, value in row.items()}
        sources.append(shards.Source(file=file or candidates[0], path=path, group=group, **fields))
    if all(source.path is None for source in sources):
        raise BuildError(
            f"{given.images}: holds none of the {len(sources)} images of {given.csv.name}; expected files like "
            f"{sources[0].image_name}{{{','.join(_EXTENSIONS)}}}"
        )
    return sources


def _byte_settings(settings: BuildSettings) -> dict[str, Any]:
    """Everything that, with the input, determines the bytes of the shards."""
    keys = ("size", "quality", "folds", "shards", "seed", "max_pixels", "source")
    return {"fit": "crop", "subsampling": "4:2:0", **{key: getattr(settings, key) for key in keys}}


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "pillow": features.version("pil") or "unknown",
        "libjpeg_turbo": features.version("libjpeg_turbo") or "unknown",
        "tfrecord_tools": tfrecord_tools.__version__,
    }


# --------------------------------------------------------------------------------------------- output


def _with_shards(planned: shards.Manifest, finished: dict[str, shards.ShardResult], complete: bool) -> shards.Manifest:
    ordered = sorted(finished.values(), key=lambda result: (result.split != "train", result.prefix))
    return dataclasses.replace(planned, shards=tuple(ordered), complete=complete)


def _prepare_folder(settings: BuildSettings, planned: shards.Manifest) -> dict[str, shards.ShardResult]:
    """Makes the folder ready; returns the finished shards of an earlier build, by prefix."""
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in shards.temporary_files(folder):
        path.unlink()
    if not any(folder.iterdir()):
        return {}
    if not (folder / shards.MANIFEST).exists():
        raise BuildError(f"{folder} is not empty and holds no build of ours; choose another --out")
    before = shards.Manifest.read(folder)
    if settings.resume:
        _check_same(folder, before, planned)
        finished = {result.prefix: result for result in before.shards if _is_sound(folder, result)}
        _remove_strays(folder, {result.name for result in before.shards})
        return finished
    if not settings.overwrite:
        state = "finished" if before.complete else "unfinished"
        raise BuildError(
            f"{folder} holds a {state} build of {len(before.shards)} shards at size {before.settings.get('size')}; "
            "pass --resume to complete it, --overwrite to replace it, or another --out"
        )
    for name in [QUARANTINE, *(result.name for result in before.shards)]:
        (folder / name).unlink(missing_ok=True)
    if not before.complete:
        _remove_strays(folder, set())
    (folder / shards.MANIFEST).unlink()  # last, so that a killed --overwrite can be repeated
    return {}


def _check_same(folder: Path, before: shards.Manifest, now: shards.Manifest) -> None:
    """Raises BuildError naming what differs, for then the shards would not fit together."""

    def flat(manifest: shards.Manifest) -> dict[str, Any]:
        inputs = {f"{kind} CSV {key}": value for kind, each in manifest.inputs.items() for key, value in each.items()}
        versions = {key: value for key, value in manifest.versions.items() if key != "python"}
        return {**manifest.settings, **inputs, **versions}

    old, new = flat(before), flat(now)
    differing = [
        f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise BuildError(
            f"{folder}: --resume of another build; what differs:\n  " + "\n  ".join(differing) + "\n"
            "Give the settings it was begun with, --overwrite to replace it, or another --out"
        )


def _is_sound(folder: Path, result: shards.ShardResult) -> bool:
    """Whether a shard need not be built again: it is whole, and no image is missing from it.

    One with quarantined images is tried again, so that --resume takes in what the user has mended since.
    """
    path = folder / result.name
    same = path.is_file() and path.stat().st_size == result.bytes and shards.file_sha256(path) == result.sha256
    if not same:
        print(f"{path}: not as the manifest says; building it again")
    return same and not result.quarantined


def _remove_strays(folder: Path, keep: set[str]) -> None:
    """Removes shards that are in no manifest: left by a kill between commit and manifest, or with an old count."""
    for path in folder.iterdir():
        if shards.SHARD_NAME.fullmatch(path.name) and path.name not in keep:
            path.unlink()


def _quarantine_csv(manifest: shards.Manifest) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_name", "file", "reason"])
    for result in manifest.shards:
        writer.writerows(dataclasses.astuple(image) for image in result.quarantined)
    return text.getvalue()


def _summary(settings: BuildSettings, manifest: shards.Manifest, seconds: float) -> str:
    lines = []
    for name, fold in sorted({(result.split, result.fold) for result in manifest.shards}, reverse=True):
        chosen = [result for result in manifest.shards if (result.split, result.fold) == (name, fold)]
        records, patients = sum(result.records for result in chosen), sum(result.patients for result in chosen)
        positives = sum(result.positives or 0 for result in chosen)
        of_which = f", {positives} malignant" if name == "train" else ""
        title = f"train fold {fold}" if name == "train" else "test"
        lines.append((fold, f"  {title}: {records} images{of_which}, {patients} patients, {len(chosen)} shards"))
    images = sum(result.records for result in manifest.shards)
    quarantined = sum(len(result.quarantined) for result in manifest.shards)
    folder = settings.folder
    return "\n".join(
        [
            f"{folder}: {images} images at {settings.size} x {settings.size}, {quarantined} quarantined, "
            f"{seconds:.1f} s, {images / max(seconds, 1e-9):.1f} images/s",
            *(line for _, line in sorted(lines, key=lambda line: (line[0] < 0, line[0]))),
            f"next: python -m tfrecord_tools.verify {folder}",
            f"      python -m melanoma_tf.train --data {folder}",
        ]
    )


# -------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags; called only when this is the command, so that commands can be imported side by side."""
    default = {field.name: field.default for field in dataclasses.fields(BuildSettings)}
    low, high = SIZES
    flags.DEFINE_integer("size", None, "Side of the square images, in pixels.", low, high, required=True)
    flags.DEFINE_string("csv", None, "The metadata, in the form of Kaggle's train.csv or test.csv.")
    flags.DEFINE_string("images", None, "The folder that holds NAME.jpg of each image_name.")
    flags.DEFINE_string("out", None, "Where the shards go; default tfrecords/SIZE.")
    flags.DEFINE_enum("split", "auto", ["auto", "train", "test"], "What --csv is; auto: train if it has labels.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Worker processes; the bytes do not depend on it.", 1)
    flags.DEFINE_integer("folds", default["folds"], "Folds; no patient is in two of them.", 1)
    flags.DEFINE_integer("shards", default["shards"], "Shards per split, a multiple of --folds.", 1)
    flags.DEFINE_integer("seed", default["seed"], "Of the assignment to folds and the order within shards.")
    flags.DEFINE_integer("quality", default["quality"], "JPEG quality of the records.", 1, 100)
    flags.DEFINE_integer("max_pixels", default["max_pixels"], "Larger images are quarantined unread.", 1)
    flags.DEFINE_string("source", default["source"], "Name of the data set, kept in each record.")
    flags.DEFINE_bool("allow_quarantine", False, "Exit with 0 even if images could not be used.")
    flags.DEFINE_bool("resume", False, "Complete the build in --out; its settings and CSV must be the same.")
    flags.DEFINE_bool("overwrite", False, "Replace the build in --out.")
    for field in default:  # so that --help shows them under the console command's name too
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[field])


def main(argv: Sequence[str]) -> None:
    """The command; exits with 1 and one message on what a user can mend."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}; see --help")
    settings = BuildSettings(
        **{field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(BuildSettings)}
    )
    start = time.monotonic()
    try:
        manifest = build(settings)
    except (BuildError, table.TableError, split.SplitError, shards.ShardError, workers.WorkerError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the finished shards are kept, go on with --resume")
    print(_summary(settings, manifest, time.monotonic() - start))
    quarantined = sum(len(result.quarantined) for result in manifest.shards)
    if quarantined and not settings.allow_quarantine:
        sys.exit(
            f"error: {quarantined} image(s) could not be used, see {settings.folder / QUARANTINE}. The shards hold all "
            "the others. Mend them and --resume, or pass --allow_quarantine"
        )


def run() -> None:
    """Console entry point."""
    define_flags()
    app.run(main)


if __name__ == "__main__":
    run()
