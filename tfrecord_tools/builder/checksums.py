"""SHA-256 of images, as their publisher or an earlier download lists them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from tfrecord_tools.builder.plan import Plan
from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.core import names, paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.metadata import csv_rows
from tfrecord_tools.records import shards

_SUM = re.compile(r"[0-9a-fA-F]{64}")
_LINE = re.compile(rf"\\?({_SUM.pattern}) [ *](.+)")  # of sha256sum; the backslash marks an escaped name
_TAGGED = re.compile(rf"SHA256 \((.+)\) = ({_SUM.pattern})")  # of sha256sum --tag, and of BSD
_COLUMNS = ("image_name", "sha256")


@dataclasses.dataclass(frozen=True)
class Checksums:
    """A list of checksums.

    Attributes:
      name: Name of its file.
      sha256: Hex SHA-256 of its file.
      sums: Hex SHA-256 of each image name; several where files in different folders have one name.
    """

    name: str
    sha256: str
    sums: dict[str, tuple[str, ...]]

    def apply(self, planned: Plan) -> Plan:
        """Returns a plan that compares each image with its checksum, and quarantines those that have none."""
        tasks = [dataclasses.replace(task, sources=tuple(map(self._checked, task.sources))) for task in planned.tasks]
        inputs = {}
        for kind, described in planned.inputs.items():
            sources = [source for task in tasks if task.split == kind for source in task.sources]
            images = sum(bool(source.checksums) for source in sources)
            print(f"{self.name}: has a checksum of {images} of {counted(len(sources), f'{kind} image')}")
            inputs[kind] = {**described, "checksums": {"name": self.name, "sha256": self.sha256, "images": images}}
        return dataclasses.replace(planned, tasks=tasks, inputs=inputs)

    def _checked(self, source: shards.Source) -> shards.Source:
        known = (source.image_name,) if source.part else (_stem(source.file), source.image_name)
        found = next((self.sums[name] for name in known if name in self.sums), ())
        if source.path is None or found:
            return dataclasses.replace(source, checksums=found)
        return dataclasses.replace(source, unusable=f"not listed in {self.name}, which --checksums gives")


def read(path: paths.AnyPath) -> Checksums:
    """Reads the output of sha256sum, or a CSV with the columns image_name and sha256.

    Raises:
      BuildError: it is neither; names the line.
    """
    try:
        data = path.read_bytes()
        rows = list(_rows(path, data.decode("utf-8-sig")))
    except OSError as error:
        raise BuildError(f"--checksums {path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv_rows.CsvError):
        raise BuildError(f"--checksums {path}: {_expected()}") from None
    sums: dict[str, dict[str, None]] = {}
    for number, name, digest in rows:
        if not name or not _SUM.fullmatch(digest):
            raise BuildError(f"--checksums {path}: line {number}: {_expected()}")
        sums.setdefault(_stem(name), {})[digest.lower()] = None
    if not sums:
        raise BuildError(f"--checksums {path}: empty; {_expected()}")
    return Checksums(path.name, shards.file_sha256(path), {name: tuple(found) for name, found in sums.items()})


def _expected() -> str:
    return "expected lines of sha256sum, or a CSV with the columns image_name and sha256"


def _rows(path: paths.AnyPath, text: str) -> Iterator[tuple[int, str, str]]:
    """Yields (number of the line, name, checksum)."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and not (_LINE.fullmatch(lines[0][1]) or _TAGGED.fullmatch(lines[0][1])):
        (number, header), *rows = csv_rows.read(path)
        given = [cell.lower() for cell in header]
        at = [given.index(column) if column in given else -1 for column in _COLUMNS]
        if min(at) < 0:
            raise BuildError(f"--checksums {path}: line {number}: {_expected()}")
        for number, cells in rows:
            name, digest = (cells[each] if each < len(cells) else "" for each in at)
            yield number, name, digest
        return
    for number, line in lines:
        plain, tagged = _LINE.fullmatch(line), _TAGGED.fullmatch(line)
        if plain:
            yield number, plain[2], plain[1]
        else:
            yield (number, tagged[1], tagged[2]) if tagged else (number, "", "")


def _stem(file: str) -> str:
    """Name of a file without its folders and extension."""
    name = names.without_folders(file)
    return name.rpartition(".")[0] or name
