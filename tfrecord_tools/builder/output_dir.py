"""The output folder of a build: another build in it is refused, completed or replaced, anything else left alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tfrecord_tools.builder import beam
from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.core import paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.text import counted
from tfrecord_tools.records import shards
from tfrecord_tools.records.manifest import MANIFEST, Manifest

try:
    import fcntl
except ModuleNotFoundError:  # not on every system, and then nothing keeps two builds apart
    fcntl = None  # type: ignore[assignment]

QUARANTINE = "quarantine.csv"


@dataclasses.dataclass
class Output:
    """One folder of a build.

    planned: its manifest without shards. finished: the shards that are done, by prefix. made: images in those of them
    that this run made. before: the manifest of the build that was there.
    """

    folder: AnyPath
    planned: Manifest
    finished: dict[str, shards.ShardResult] = dataclasses.field(default_factory=dict)
    made: int = 0
    before: Manifest | None = None

    def add(self, result: shards.ShardResult) -> None:
        """Lists a committed shard in the manifest."""
        self.finished[result.prefix] = result
        self.made += result.records
        self.manifest(complete=False).write(self.folder)

    def manifest(self, complete: bool) -> Manifest:
        """The manifest of what is finished."""
        ordered = sorted(self.finished.values(), key=lambda result: (result.split != "train", result.prefix))
        return dataclasses.replace(self.planned, shards=tuple(ordered), complete=complete)

    def remove_strays(self) -> None:
        """Removes our shards that are not in the manifest: with an old count, or made twice by a runner.

        What lay beside a complete build may be anyone's, and stays.
        """
        keep = {result.name for result in self.finished.values()}
        if self.before is None or not self.before.complete:
            _remove_strays(self.folder, keep, _prefixes(self.planned))
            return
        for name in {result.name for result in self.before.shards} - keep:
            (self.folder / name).unlink(missing_ok=True)


def check_apart(folder: AnyPath, read: Iterable[tuple[str, AnyPath]]) -> None:
    """BuildError if the build reads what it would replace in its folder. read: (flag, file or folder) of all input.

    That is the folder itself, or a file in it under a name that a build removes; links are followed.
    """
    for flag, path in read:
        inside = _same(path.parent, folder) or (isinstance(path, Path) and _same(path.resolve().parent, folder))
        if _same(path, folder) or (inside and _is_of_a_build(path)):
            raise BuildError(
                f"--{flag} {path}: the build reads what it would replace in {folder}; choose another --out"
            )


def _same(one: AnyPath, other: AnyPath) -> bool:
    """Whether both are one file or folder that is there."""
    if not (isinstance(one, Path) and isinstance(other, Path)):
        return one == other
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return False


def _is_of_a_build(path: AnyPath) -> bool:
    names = {path.name, path.resolve().name if isinstance(path, Path) else path.name}
    return any(name in (MANIFEST, QUARANTINE) or shards.SHARD_NAME.fullmatch(name) for name in names)


@contextlib.contextmanager
def claimed(folder: AnyPath) -> Iterator[None]:
    """Makes the folder, and keeps other builds out of it until the block or this process ends, however it does.

    The lock is on the folder itself, so that it leaves no file. URLs and file systems without locks have none.
    BuildError if the folder cannot be made or looked at, or another build is at work in it. If the block fails before
    anything is in it, a folder that was made vanishes again.
    """
    with _looking_at(folder):
        there = folder.exists()
        if there and not folder.is_dir():
            raise BuildError(f"{folder} is a file; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from error
    with _locked(folder):
        try:
            yield
        except BaseException:
            if not there and isinstance(folder, Path):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise


@contextlib.contextmanager
def _looking_at(folder: AnyPath) -> Iterator[None]:
    """Before a build has begun there is nothing to go on with, so an OSError becomes a BuildError."""
    try:
        yield
    except OSError as error:
        raise BuildError(f"{folder}: cannot be looked at: {error.strerror or error}; choose another --out") from error


@contextlib.contextmanager
def _locked(folder: AnyPath) -> Iterator[None]:
    if fcntl is None or not isinstance(folder, Path):
        yield
        return
    with _looking_at(folder):
        descriptor = os.open(folder, os.O_RDONLY)  # closed in what this process starts
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BuildError(f"{folder}: another build is at work here; wait for it, or choose another --out") from None
    except OSError:  # a network file system, say
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def check(output: Output, resume: bool, overwrite: bool) -> Manifest | None:
    """The manifest of the build that is there already, None if there is none; changes nothing.

    Raises BuildError if the folder holds something else, or a build that is neither to be resumed nor overwritten,
    or one that cannot be resumed because its settings differ or its manifest cannot be read.
    """
    folder = output.folder
    with _looking_at(folder):
        if not folder.exists() or set(folder.iterdir()) <= {*paths.temporary_files(folder), *beam.job_folders(folder)}:
            return None
        if not (folder / MANIFEST).exists():
            raise BuildError(f"{folder} is not empty and holds no build of ours; choose another --out")
    try:
        before = Manifest.read(folder)
    except shards.ShardError as error:
        return _unreadable(output, error, overwrite)
    if resume:
        _check_same(folder, before, output.planned)
    elif not overwrite:
        state = "finished" if before.complete else "unfinished"
        raise BuildError(
            f"{folder} holds a {state} build of {counted(len(before.shards), 'shard')} at size "
            f"{before.settings.get('size')}; "
            "pass --resume to complete it, --overwrite to replace it, or another --out"
        )
    return before


def _unreadable(output: Output, error: shards.ShardError, overwrite: bool) -> Manifest:
    """A manifest that stands for a damaged one, with whatever a build leaves; BuildError if it may not be replaced."""
    folder = output.folder
    names = sorted(path.name for path in folder.iterdir())
    matches = [match for match in map(shards.SHARD_NAME.fullmatch, names) if match]
    left = {path.name for path in (*paths.temporary_files(folder), *beam.job_folders(folder))}
    known = {MANIFEST, QUARANTINE, *left, *(match[0] for match in matches)}
    if not overwrite:
        raise BuildError(f"{error}; --overwrite replaces the build, or choose another --out") from error
    if strange := [name for name in names if name not in known]:
        raise BuildError(f"{error}; not overwritten, for {strange[0]} is of no build; choose another --out") from error
    found = [
        shards.ShardResult(match[0], match[1].rstrip("0123456789"), -1, 0, None, 0, 0, "", ()) for match in matches
    ]
    return dataclasses.replace(output.planned, shards=tuple(found), complete=False)


def prepare(output: Output, before: Manifest | None, resume: bool) -> None:
    """Makes the folder ready: takes over what is finished if it is resumed, or else removes the old build.

    Leaves a manifest, so that a build that is killed before its first shard is known as ours. BuildError if the folder
    cannot be written.
    """
    try:
        _make_ready(output, before, resume)
        output.manifest(complete=False).write(output.folder)
    except OSError as error:
        raise BuildError(f"{output.folder}: cannot be written: {error.strerror or error}") from error


def _make_ready(output: Output, before: Manifest | None, resume: bool) -> None:
    folder = output.folder
    beam.remove_leftovers(str(folder))
    for path in paths.temporary_files(folder):
        path.unlink()
    if before is None:
        return
    output.before = before
    listed = {result.name for result in before.shards}
    if not before.complete:
        _remove_strays(folder, listed, _prefixes(before))
    if resume:
        output.finished = {result.prefix: result for result in before.shards if _is_sound(folder, result)}
        return
    for name in [QUARANTINE, *listed]:
        (folder / name).unlink(missing_ok=True)
    (folder / MANIFEST).unlink()  # last, so that a killed --overwrite can be repeated


def _check_same(folder: AnyPath, before: Manifest, now: Manifest) -> None:
    """Raises BuildError naming what differs, for then the shards would not fit together."""

    def flat(manifest: Manifest) -> dict[str, Any]:
        # What is quarantined of the input follows from the input, and is long.
        inputs = {
            f"{kind} input {key}": value
            for kind, each in manifest.inputs.items()
            for key, value in each.items()
            if key not in ("quarantined", "lost_records")
        }
        versions = {key: value for key, value in manifest.versions.items() if key != "python"}
        return {**manifest.settings, **inputs, **versions}

    old, new = flat(before), flat(now)
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    # Where the table or a setting differs, the plan does too; alone, it has no other cause than the images.
    alone = all(key.endswith(" input plan") for key in different)
    why = "; images were added or removed" if alone else ""
    differing = [
        f"{key.removesuffix(' input plan')}: which image goes into which shard{why}"
        if key.endswith(" input plan")
        else f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in different
    ]
    if differing:
        raise BuildError(
            f"{folder}: --resume of another build; what differs:\n  " + "\n  ".join(differing) + "\n"
            "Give the settings it was begun with, --overwrite to replace it, or another --out"
        )


def _is_sound(folder: AnyPath, result: shards.ShardResult) -> bool:
    """Whether a shard need not be built again: it is whole, and no image is missing from it.

    One with quarantined images is tried again, so that --resume takes in what the user has mended since.
    """
    path = folder / result.name
    same = path.is_file() and path.stat().st_size == result.bytes and shards.file_sha256(path) == result.sha256
    if not same:
        print(f"{path}: not as the manifest says; building it again")
    return same and not result.quarantined


def _prefixes(manifest: Manifest) -> set[str]:
    """Of all shards that a build can make."""
    return {shards.prefix(split, number) for split in manifest.inputs for number in range(manifest.settings["shards"])}


def _remove_strays(folder: AnyPath, keep: set[str], prefixes: set[str]) -> None:
    """Removes a build's shards that are in no manifest: left by a kill between commit and manifest."""
    for path in folder.iterdir():
        name = shards.SHARD_NAME.fullmatch(path.name)
        if name and name[1] in prefixes and path.name not in keep:
            path.unlink()
