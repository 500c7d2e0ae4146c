"""Holds the shards of a data set to the SHA-256 in their manifest, before they are used.

The checksums in records find damage, not changes: whoever rewrites a record writes its checksum too.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melanoma_tf.core import files
from melanoma_tf.data import pipeline
from melanoma_tf.data.pipeline import READERS, DataError, Shard
from tfrecord_tools.core import json_file, paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.records.shards import file_sha256

_SETTLED_NS = 2_000_000_000  # age of a file from which a change shows in its times, also on coarse clocks


def check(shards: Sequence[Shard]) -> str:
    """Checks shards, and returns a line for the user.

    A shard that was sound and still has its size and times is not read again. What is known of that lies in the user's
    cache folder, never beside data or runs, which may come from elsewhere.

    Raises:
      DataError: a shard cannot be read, is damaged or was changed.
    """
    started = time.perf_counter()
    file = _cache_file()
    known = _read_cache(file)
    states = {shard.path: _state(shard) for shard in shards}
    todo = [shard for shard in shards if known.get(_key(shard)) != states[shard.path]]
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        for shard, digest in zip(todo, pool.map(_digest, todo), strict=True):
            if digest != shard.sha256:
                raise DataError(_describe(shard, digest))
    settled = {_key(shard): states[shard.path] for shard in todo if _is_settled(*states[shard.path][1:3])}
    if settled and file is not None:
        known = {path: state for path, state in known.items() if "://" in path or os.path.exists(path)}
        with contextlib.suppress(OSError):  # it is only faster with it
            file.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(file, json.dumps({**known, **settled}, indent=1))
    size, same = sum(states[shard.path][0] for shard in todo) / 1e6, len(shards) - len(todo)
    unchanged = f", {same} of them unchanged since an earlier check" if same else ""
    read = f"SHA-256 of {size:,.1f} MB, {time.perf_counter() - started:.1f} s"
    return f"data: {counted(len(shards), 'shard')} as in the manifest{unchanged} ({read})"


def _digest(shard: Shard) -> str:
    try:
        return file_sha256(shard.path)
    except OSError as error:
        raise DataError(f"{shard.path} cannot be read: {error.strerror or error}") from error


def _describe(shard: Shard, digest: str) -> str:
    remedy = "put the file of the build back, or build it again with tfrecord_tools.build --resume"
    if damage := pipeline.find_damage(shard.path):
        return f"{damage}; {remedy}"
    return (
        f"{shard.path} was changed after it was built: its SHA-256 is {digest}, manifest.json says {shard.sha256}; "
        f"{remedy}"
    )


def _key(shard: Shard) -> str:
    path = paths.path(shard.path)
    return os.path.realpath(path) if isinstance(path, Path) else str(path)


def _state(shard: Shard) -> list[Any]:
    """[size, time of the last change of content, of the file's entry, expected SHA-256]; a time is 0 if unknown."""
    stat = paths.path(shard.path).stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, shard.sha256]


def _is_settled(changed: int, entry_changed: int) -> bool:
    return changed > 0 and time.time_ns() - max(changed, entry_changed) > _SETTLED_NS


def _cache_file() -> Path | None:
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # the user has no home
        return None
    return Path(home) / "melanoma_tf" / "shards.json"


def _read_cache(file: Path | None) -> dict[str, Any]:
    try:
        known = json_file.read(file) if file else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
