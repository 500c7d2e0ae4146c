"""Output folder of a build: an earlier build in it is refused, completed or replaced; other files are untouched."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tfrecord_tools.builder import beam
from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.core import lock, paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.text import counted
from tfrecord_tools.records import shards
from tfrecord_tools.records.manifest import MANIFEST, Manifest

QUARANTINE = "quarantine.csv"


@dataclasses.dataclass
class Output:
    """One output folder.

    planned: its manifest, without shards. finished: its finished shards, by prefix. made: number of images made in
    this run. before: manifest of the earlier build in it.
    """

    folder: AnyPath
    planned: Manifest
    finished: dict[str, shards.ShardResult] = dataclasses.field(default_factory=dict)
    made: int = 0
    before: Manifest | None = None

    def add(self, result: shards.ShardResult) -> None:
        """Adds a committed shard to the manifest."""
        self.finished[result.prefix] = result
        self.made += result.records
        self.manifest(complete=False).write(self.folder)

    def manifest(self, complete: bool) -> Manifest:
        """Returns the manifest of the finished shards."""
        ordered = sorted(self.finished.values(), key=lambda result: (result.split != "train", result.prefix))
        return dataclasses.replace(self.planned, shards=tuple(ordered), complete=complete)

    def remove_strays(self) -> None:
        """Removes shards that are not in the manifest: with an old count, or made twice by a runner.

        Files beside a complete build may belong to someone else, and stay.
        """
        keep = {result.name for result in self.finished.values()}
        if self.before is None or not self.before.complete:
            _remove_strays(self.folder, keep, self.planned)
            return
        for name in {result.name for result in self.before.shards} - keep:
            (self.folder / name).unlink(missing_ok=True)


def check_apart(folder: AnyPath, read: Iterable[tuple[str, AnyPath]]) -> None:
    """Raises BuildError if a build reads a file that it would replace.

    That is the output folder itself, or a file in it under a name that a build removes; links are followed.

    Args:
      folder: Output folder.
      read: (flag, file or folder) of all input.
    """
    for flag, path in read:
        inside = _same(path.parent, folder) or (isinstance(path, Path) and _same(path.resolve().parent, folder))
        if _same(path, folder) or (inside and _is_build_file(path)):
            raise BuildError(
                f"--{flag} {path}: the build reads what it would replace in {folder}; choose another --out"
            )


def _same(one: AnyPath, other: AnyPath) -> bool:
    """Whether both are one existing file or folder."""
    if not (isinstance(one, Path) and isinstance(other, Path)):
        return one == other
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist
        return False


def _is_build_file(path: AnyPath) -> bool:
    names = {path.name, path.resolve().name if isinstance(path, Path) else path.name}
    return any(name in (MANIFEST, QUARANTINE) or shards.SHARD_NAME.fullmatch(name) for name in names)


@contextlib.contextmanager
def claimed(folder: AnyPath) -> Iterator[None]:
    """Makes the folder, and locks it against other builds until the block or this process ends, see `lock.locked`.

    If the block fails while a new folder is empty, the folder is removed again.

    Raises:
      BuildError: the folder cannot be made or read, or another build is running in it.
    """
    with _reading(folder):
        existed = folder.exists()
        if existed and not folder.is_dir():
            raise BuildError(f"{folder} is a file; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from error
    try:
        with contextlib.ExitStack() as stack:
            with _reading(folder):
                stack.enter_context(lock.locked(folder))
            yield
    except lock.LockedError as error:
        raise BuildError(
            f"{folder}: another build is running here ({error}); wait for it, or choose another --out"
        ) from None
    except BaseException:
        if not existed and isinstance(folder, Path):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _reading(folder: AnyPath) -> Iterator[None]:
    """Turns an OSError into a BuildError, because a build that has not begun has nothing to resume."""
    try:
        yield
    except OSError as error:
        raise BuildError(f"{folder}: cannot be read: {error.strerror or error}; choose another --out") from error


def check(output: Output, resume: bool, overwrite: bool) -> Manifest | None:
    """Returns the manifest of an earlier build in the folder, None without one; changes nothing.

    Raises:
      BuildError: the folder holds other files; a build, without resume or overwrite; or a build that cannot be
        resumed, because its settings differ or its manifest is damaged.
    """
    folder = output.folder
    with _reading(folder):
        if not folder.exists() or {path.name for path in folder.iterdir()} <= _leftovers(folder):
            return None
        if not (folder / MANIFEST).exists():
            raise BuildError(f"{folder} is not empty and was not written by tfrecord_tools.build; choose another --out")
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


def _leftovers(folder: AnyPath) -> set[str]:
    """Names of the files that running and killed builds have in their folder."""
    return {lock.NOTE, *(path.name for path in (*paths.temporary_files(folder), *beam.job_folders(folder)))}


def _unreadable(output: Output, error: shards.ShardError, overwrite: bool) -> Manifest:
    """A substitute for a damaged manifest, listing the shards found; BuildError if they may not be replaced."""
    folder = output.folder
    names = sorted(path.name for path in folder.iterdir())
    matches = [match for match in map(shards.SHARD_NAME.fullmatch, names) if match]
    known = {MANIFEST, QUARANTINE, *_leftovers(folder), *(match[0] for match in matches)}
    if not overwrite:
        raise BuildError(f"{error}; --overwrite replaces the build, or choose another --out") from error
    if strange := [name for name in names if name not in known]:
        reason = f"refusing to overwrite {folder}: {strange[0]} was not written by tfrecord_tools.build"
        raise BuildError(f"{error}; {reason}; choose another --out") from error
    found = [
        shards.ShardResult(match[0], match[1].rstrip("0123456789"), -1, 0, None, 0, 0, "", ()) for match in matches
    ]
    return dataclasses.replace(output.planned, shards=tuple(found), complete=False)


def prepare(output: Output, before: Manifest | None, resume: bool) -> None:
    """Takes over the finished shards of a build to resume, or removes the old build.

    Writes a manifest, so that a build killed before its first shard is recognized.

    Raises:
      BuildError: the folder cannot be written.
    """
    try:
        _clear(output, before, resume)
        output.manifest(complete=False).write(output.folder)
    except OSError as error:
        raise BuildError(f"{output.folder}: cannot be written: {error.strerror or error}") from error


def _clear(output: Output, before: Manifest | None, resume: bool) -> None:
    folder = output.folder
    beam.remove_leftovers(str(folder))
    for path in paths.temporary_files(folder):
        path.unlink()
    if before is None:
        return
    output.before = before
    listed = {result.name for result in before.shards}
    if not before.complete:
        _remove_strays(folder, listed, before)
    if resume:
        changed = {result.name for result in before.shards if not _is_intact(folder, result)}
        if changed:
            which = f"{counted(len(changed), 'shard')}, first {min(changed)}"
            print(f"{folder}: built again, as they do not match the manifest: {which}")
        # A shard with quarantined images is built again, so that --resume includes images repaired since.
        sound = (result for result in before.shards if result.name not in changed and not result.quarantined)
        output.finished = {result.prefix: result for result in sound}
        return
    for name in [QUARANTINE, *listed]:
        (folder / name).unlink(missing_ok=True)
    (folder / MANIFEST).unlink()  # last, so that a killed --overwrite can be repeated


def _check_same(folder: AnyPath, before: Manifest, now: Manifest) -> None:
    """Raises BuildError naming the differences, with which the shards would not fit together."""

    def flat(manifest: Manifest) -> dict[str, Any]:
        # These follow from the input, and some are many.
        inputs = {
            f"{kind} input {key}": value
            for kind, each in manifest.inputs.items()
            for key, value in each.items()
            if key not in ("quarantined", "lost_records", "identical", "left_out", "warnings", "names")
        }
        versions = {key: value for key, value in manifest.versions.items() if key not in ("python", "resampler")}
        return {**manifest.settings, **inputs, **versions}

    old, new = flat(before), flat(now)
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    # Another table or setting changes the plan too; a change of the plan alone comes from the images.
    alone = all(key.endswith(" input plan") for key in different)
    why = "; images were added or removed" if alone else ""
    differing = [
        f"{key.removesuffix(' input plan')}: the assignment of images to shards{why}"
        if key.endswith(" input plan")
        else f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in different
    ]
    if differing:
        raise BuildError(
            f"{folder}: --resume of another build; differences:\n  " + "\n  ".join(differing) + "\n"
            "Pass the settings it was started with, --overwrite to replace it, or another --out"
        )


def _is_intact(folder: AnyPath, result: shards.ShardResult) -> bool:
    path = folder / result.name
    return path.is_file() and path.stat().st_size == result.bytes and shards.file_sha256(path) == result.sha256


def _remove_strays(folder: AnyPath, keep: set[str], manifest: Manifest) -> None:
    """Removes shards of a build that a kill between commit and manifest left unlisted."""
    for path in folder.iterdir():
        name = shards.SHARD_NAME.fullmatch(path.name)
        if name and path.name not in keep and _makes(manifest, name[1]):
            path.unlink()


def _makes(manifest: Manifest, prefix: str) -> bool:
    """Whether a build can make a shard of that prefix."""
    split = prefix.rstrip("0123456789")
    number, count = int(prefix.removeprefix(split)), manifest.settings.get("shards")
    known = split in manifest.inputs and isinstance(count, int) and number < count
    return known and shards.prefix(split, number) == prefix
