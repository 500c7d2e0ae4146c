"""Settings of a build, in the parts that its steps take, and their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from tfrecord_tools import schema
from tfrecord_tools.builder import beam
from tfrecord_tools.core import names, paths
from tfrecord_tools.dedup import pairs
from tfrecord_tools.imaging import convert, passthrough

QUALITY, SUBSAMPLING = 95, "4:2:0"  # defaults of the records' JPEGs
FOLDS, SHARDS = 5, 30
SIZES = (32, 1024)  # pixels; smaller images show nothing, and few sources have more pixels


class BuildError(RuntimeError):
    """An impossible build; the message gives the reason and what to do."""


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Files that a build reads, and how to read them.

    csv needs images or from_tfrecords, which exclude each other; images alone are in folders named by class.
    """

    csv: str | None = None
    images: str | None = None
    split: str = "auto"
    source: str | None = None
    form: str | None = None
    columns: str | None = None
    modality: str | None = None
    from_tfrecords: str | None = None
    dialect: str | None = None
    codes: str | None = None
    swap_rb: bool = False
    duplicates: str | None = None
    checksums: str | None = None
    against: str | None = None
    folds_from: str | None = None

    @property
    def folds_column(self) -> tuple[paths.AnyPath | None, str]:
        """The table of --folds_from, None for that of the build or without the flag, and its column."""
        file, _, column = (self.folds_from or "").rpartition(":")
        return (paths.path(file) if file else None), column

    @property
    def excluded_builds(self) -> list[paths.AnyPath]:
        """The builds of --against."""
        return [paths.path(each) for each in names.several(self.against)] if self.against else []


@dataclasses.dataclass(frozen=True)
class ConvertSpec:
    """How images become records.

    quality, subsampling: None for QUALITY and SUBSAMPLING, or whatever an image from TFRecords already has.
    """

    sizes: tuple[int, ...]
    fit: str = "crop"
    quality: int | None = None
    subsampling: str | None = None
    max_pixels: int = convert.MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class SplitSpec:
    """How images are distributed over folds and shards.

    folds, shards: None for FOLDS and SHARDS, or as many as --folds_from needs. on_duplicates: None for "group".
    """

    folds: int | None = None
    shards: int | None = None
    seed: int = 0
    on_duplicates: pairs.Mode | None = None

    @property
    def mode(self) -> pairs.Mode:
        """The treatment of duplicates."""
        return self.on_duplicates or "group"


@dataclasses.dataclass(frozen=True)
class OutputSpec:
    """Where shards are written. out: None for tfrecords/SIZE, or tfrecords for several sizes."""

    out: str | None = None
    resume: bool = False
    overwrite: bool = False
    allow_quarantine: bool = False

    def folders(self, sizes: Sequence[int]) -> dict[int, paths.AnyPath]:
        """Returns the output folder of each size."""
        if len(sizes) == 1:
            return {size: paths.path(self.out or f"tfrecords/{size}") for size in sizes}
        return {size: paths.path(self.out or "tfrecords") / str(size) for size in sizes}


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """Where shards are made: in local processes, or by an Apache Beam runner."""

    workers: int = 1
    runner: str | None = None
    beam_options: Sequence[str] = ()


_PARTS: Final[dict[str, type]] = {
    "inputs": InputSpec,
    "convert": ConvertSpec,
    "split": SplitSpec,
    "output": OutputSpec,
    "run": RunSpec,
}
# Every flag except --size, which has no default.
DEFAULTS: Final[dict[str, Any]] = {
    field.name: field.default for part in _PARTS.values() for field in dataclasses.fields(part) if field.name != "sizes"
}


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """All settings of a build; `BuildSettings.of` makes them from the flags' names."""

    inputs: InputSpec
    convert: ConvertSpec
    split: SplitSpec
    output: OutputSpec
    run: RunSpec

    @classmethod
    def of(
        cls,
        size: int | Sequence[int],
        csv: str | None = None,
        images: str | None = None,
        out: str | None = None,
        **flags: Any,
    ) -> BuildSettings:
        """Returns settings from the values of flags, by name; a flag that is left out has its default.

        Raises:
          TypeError: a name is not one of DEFAULTS.
        """
        if unknown := sorted(flags.keys() - DEFAULTS.keys()):
            raise TypeError(f"unknown settings {', '.join(unknown)}; expected some of: {', '.join(DEFAULTS)}")
        sizes = (size,) if isinstance(size, int) else tuple(size)
        given = {"sizes": sizes, "csv": csv, "images": images, "out": out, **flags}
        parts = {
            name: part(**{field.name: given[field.name] for field in dataclasses.fields(part) if field.name in given})
            for name, part in _PARTS.items()
        }
        return cls(**parts)

    @property
    def folders(self) -> dict[int, paths.AnyPath]:
        """The output folder of each size."""
        return self.output.folders(self.convert.sizes)

    @property
    def kept(self) -> passthrough.Asked | None:
        """Requirements, apart from the size, for keeping an image of TFRecords as it is; None encodes every image."""
        if self.inputs.from_tfrecords is None or self.inputs.swap_rb:
            return None
        return passthrough.Asked(self.convert.quality, self.convert.subsampling)


def check(settings: BuildSettings) -> None:
    """Checks the settings, without reading any input.

    Raises:
      BuildError: a setting is not allowed; names it, its value and the allowed ones.
      beam.BeamError: the runner or its options are not allowed.
    """
    _check_convert(settings.convert)
    _check_paths(settings.inputs, settings.output)
    _check_inputs(settings.inputs)
    _check_choice("on_duplicates", settings.split.mode, pairs.MODES)
    _check_run(settings.run)
    if settings.output.resume and settings.output.overwrite:
        raise BuildError("--resume and --overwrite together; expected one of them")


def _check_choice(flag: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise BuildError(f"--{flag} {value}; expected one of: {', '.join(allowed)}")


def _check_convert(spec: ConvertSpec) -> None:
    for size in spec.sizes:
        if not SIZES[0] <= size <= SIZES[1]:
            raise BuildError(f"--size {size}; expected {SIZES[0]} to {SIZES[1]} pixels")
    if not spec.sizes or len(set(spec.sizes)) < len(spec.sizes):
        raise BuildError(f"--size {','.join(map(str, spec.sizes))}; expected one or several different sizes")
    _check_choice("fit", spec.fit, convert.FITS)
    _check_choice("subsampling", spec.subsampling or SUBSAMPLING, convert.SUBSAMPLINGS)
    if spec.quality is not None and not 1 <= spec.quality <= 100:
        raise BuildError(f"--quality {spec.quality}; expected 1 to 100")


def _check_paths(spec: InputSpec, output: OutputSpec) -> None:
    for flag, given in (("csv", spec.csv), ("images", spec.images), ("against", spec.against)):
        if given is not None and not all(part.strip() for part in names.several(given)):
            raise BuildError(f"--{flag} {given!r}; expected one path or several with commas between them, none empty")
    for flag, given in (
        ("from_tfrecords", spec.from_tfrecords),
        ("duplicates", spec.duplicates),
        ("checksums", spec.checksums),
        ("out", output.out),
    ):
        if given is not None and not given.strip():
            raise BuildError(f"--{flag} {given!r}; expected a path")
    _, column = spec.folds_column
    if spec.folds_from is not None and (not column.strip() or column.startswith("//")):
        raise BuildError(
            f"--folds_from {spec.folds_from!r}; expected a column of the table, or FILE.csv:COLUMN for one of another"
        )


def _check_inputs(spec: InputSpec) -> None:
    if spec.source is not None and (not spec.source or schema.CONTROL.search(spec.source)):
        raise BuildError(f"--source {spec.source!r}; expected a name without control characters")
    if spec.from_tfrecords is not None:
        if spec.images is not None:
            raise BuildError("--from_tfrecords and --images together; expected one of them")
        if spec.dialect and spec.columns and spec.csv is None:
            raise BuildError("--dialect and --columns both describe the records; expected one of them")
    elif spec.dialect or spec.codes or spec.swap_rb:
        raise BuildError("--dialect, --codes and --swap_rb without --from_tfrecords; expected --from_tfrecords too")
    elif spec.csv is not None and spec.images is None:
        raise BuildError("--csv without --images; expected both, or neither to look for the competition's data")
    elif spec.images is not None and spec.csv is None and (spec.form or spec.columns):
        raise BuildError("--form or --columns without --csv; expected a table with --csv, or neither of them")
    if spec.modality is not None and (spec.csv is None or not spec.modality.strip()):
        raise BuildError(f"--modality {spec.modality!r}; expected words of image_type, in the table that --csv gives")


def _check_run(spec: RunSpec) -> None:
    if spec.workers < 1:
        raise BuildError(f"--workers {spec.workers}; expected at least 1")
    if spec.runner is not None:
        beam.check(spec.runner, spec.beam_options)
    elif spec.beam_options:
        raise BuildError("--beam_options without --runner; expected e.g. --runner DirectRunner")
