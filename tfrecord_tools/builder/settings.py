"""What a build is asked for, and whether it can be done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfrecord_tools import schema
from tfrecord_tools.builder import beam
from tfrecord_tools.core import paths
from tfrecord_tools.dedup import pairs
from tfrecord_tools.imaging import convert, passthrough

QUALITY, SUBSAMPLING = 95, "4:2:0"  # of the records' JPEGs where nothing else is asked
SIZES = (32, 1024)  # pixels; below, nothing is left to see; above, few sources have the pixels


class BuildError(RuntimeError):
    """The build cannot be done as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What the flags say; see `define_flags`. out: None for tfrecords/SIZE.

    csv and images: both or neither; with from_tfrecords no images, and a csv or none. on_duplicates: None for "group".
    quality, subsampling: None for QUALITY and SUBSAMPLING, or what a image in TFRecords has already.
    """

    size: int | tuple[int, ...]
    csv: str | None = None
    images: str | None = None
    out: str | None = None
    split: str = "auto"
    workers: int = 1
    folds: int = 5
    shards: int = 30
    seed: int = 0
    fit: str = "crop"
    quality: int | None = None
    subsampling: str | None = None
    max_pixels: int = convert.MAX_PIXELS
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
    on_duplicates: pairs.Mode | None = None
    against: str | None = None
    allow_quarantine: bool = False
    resume: bool = False
    overwrite: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the square images, in pixels."""
        return (self.size,) if isinstance(self.size, int) else tuple(self.size)

    @property
    def kept(self) -> passthrough.Asked | None:
        """What images in TFRecords must have, apart from the size, to stay as they are; None: all are encoded."""
        if self.from_tfrecords is None or self.swap_rb:
            return None
        return passthrough.Asked(self.quality, self.subsampling)

    @property
    def mode(self) -> pairs.Mode:
        """What becomes of duplicates."""
        return self.on_duplicates or "group"

    @property
    def others(self) -> list[paths.AnyPath]:
        """The builds whose images are left out."""
        return [paths.path(each) for each in self.against.split(",")] if self.against else []

    @property
    def folders(self) -> dict[int, paths.AnyPath]:
        """Where the shards of each size go."""
        if len(self.sizes) == 1:
            return {size: paths.path(self.out or f"tfrecords/{size}") for size in self.sizes}
        return {size: paths.path(self.out or "tfrecords") / str(size) for size in self.sizes}


def check(settings: BuildSettings) -> None:
    """BuildError naming the first setting that is not allowed, and what is."""
    for size in settings.sizes:
        if not SIZES[0] <= size <= SIZES[1]:
            raise BuildError(f"--size {size}; expected {SIZES[0]} to {SIZES[1]} pixels")
    if not settings.sizes or len(set(settings.sizes)) < len(settings.sizes):
        raise BuildError(f"--size {','.join(map(str, settings.sizes))}; expected one or several different sizes")
    for flag, given, several in (
        ("csv", settings.csv, True),
        ("against", settings.against, True),
        ("images", settings.images, False),
        ("from_tfrecords", settings.from_tfrecords, False),
        ("duplicates", settings.duplicates, False),
        ("out", settings.out, False),
    ):
        if given is not None and not all(part.strip() for part in (given.split(",") if several else [given])):
            expected = "one path or several with commas between them, none empty" if several else "a path"
            raise BuildError(f"--{flag} {given!r}; expected {expected}")
    for name, value, allowed in (
        ("fit", settings.fit, convert.FITS),
        ("subsampling", settings.subsampling or SUBSAMPLING, convert.SUBSAMPLINGS),
        ("on_duplicates", settings.mode, pairs.MODES),
    ):
        if value not in allowed:
            raise BuildError(f"--{name} {value}; expected one of {', '.join(allowed)}")
    if settings.quality is not None and not 1 <= settings.quality <= 100:
        raise BuildError(f"--quality {settings.quality}; expected 1 to 100")
    if settings.source is not None and (not settings.source or schema.CONTROL.search(settings.source)):
        raise BuildError(f"--source {settings.source!r}; expected a name without control characters")
    if settings.workers < 1:
        raise BuildError(f"--workers {settings.workers}; expected at least 1")
    if settings.from_tfrecords is not None:
        if settings.images is not None:
            raise BuildError("--from_tfrecords and --images together; expected one of them")
        if settings.dialect and settings.columns and settings.csv is None:
            raise BuildError("--dialect and --columns together, both say what the records hold; expected one of them")
    elif settings.dialect or settings.codes or settings.swap_rb:
        raise BuildError("--dialect, --codes and --swap_rb are for --from_tfrecords, which is not given")
    elif (settings.csv is None) != (settings.images is None):
        given, other = ("csv", "images") if settings.images is None else ("images", "csv")
        raise BuildError(f"--{given} without --{other}; expected both, or neither to look for the competition's data")
    if settings.on_duplicates and not settings.duplicates:
        raise BuildError(f"--on_duplicates {settings.on_duplicates} without --duplicates, the list of the duplicates")
    if settings.runner is not None:
        beam.check(settings.runner, settings.beam_options)
    elif settings.beam_options:
        raise BuildError("--beam_options without --runner; expected e.g. --runner DirectRunner")
    if settings.resume and settings.overwrite:
        raise BuildError("--resume and --overwrite together; expected one of them")
