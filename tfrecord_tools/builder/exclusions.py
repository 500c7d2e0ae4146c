"""Images, patients and lesions that a build leaves out: those of other builds and of the test set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from tfrecord_tools import schema
from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.dedup import pairs
from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.records import tfrecord
from tfrecord_tools.records.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Exclusions:
    """Names of images, patients and lesions to leave out."""

    images: frozenset[str] = frozenset()
    patients: frozenset[str] = frozenset()
    lesions: frozenset[str] = frozenset()


def from_builds(folders: Sequence[AnyPath]) -> Exclusions:
    """Reads the names in all records of finished builds; warns where patients are numbers of a writer's table.

    Raises:
      BuildError: a build is unfinished or damaged.
      shards.ShardError: a folder holds no build.
    """
    images, patients, lesions = set[str](), set[str](), set[str]()
    for folder in folders:
        manifest, coded = Manifest.read(folder), ""
        if not manifest.complete:
            raise BuildError(f"--against {folder}: an unfinished build; complete it with its --resume")
        try:
            for entry in manifest.shards:
                for data in tfrecord.read_records(folder / entry.name):
                    record = schema.decode(data)
                    images.add(record.image_name)
                    patients.add(record.patient)
                    coded = coded or (record.patient if record.patient.startswith(schema.CODE) else "")
                    lesions.add(record.lesion)
        except (OSError, schema.SchemaError, tfrecord.CorruptRecordError) as error:
            raise BuildError(f"--against {folder}: {error}; see tfrecord_tools.verify {folder}") from error
        if coded:
            print(
                f"warning: --against {folder}: its patients are numbers of its writer's table ({coded}), comparable "
                "with no other file; build it with --csv"
            )
    # Builds from before placeholders were read as missing have them.
    named = (frozenset(name for name in found if not vocabulary.is_missing(name)) for found in (patients, lesions))
    return Exclusions(frozenset(images), *named)


def from_frames(frames: Sequence[pd.DataFrame]) -> Exclusions:
    """Returns the names in tables of `table.read_table`."""
    images, patients, lesions = (
        frozenset(name for frame in frames for name in frame[column]) - {""}
        for column in ("image_name", "patient", "lesion")
    )
    return Exclusions(images, patients, lesions)


def excluded_groups(
    exclusions: Exclusions,
    names: Sequence[str],
    patients: Sequence[str],
    lesions: Sequence[str],
    groups: Sequence[str],
    same: Iterable[tuple[str, str]],
) -> set[str]:
    """Returns the leak groups with an excluded image, patient or lesion.

    A group is excluded whole: if one of two images of a lesion is excluded by name, the other shows it too.

    Args:
      exclusions: Names to leave out.
      names: Image name of each row.
      patients: Patient of each row.
      lesions: Lesion of each row.
      groups: Leak group of each row.
      same: Pairs of names of one image, in these rows or among the exclusions.
    """
    copies = {name for each in pairs.connected(same) if exclusions.images.intersection(each) for name in each}
    images = exclusions.images | copies
    return {
        group
        for name, patient, lesion, group in zip(names, patients, lesions, groups, strict=True)
        if name in images or patient in exclusions.patients or lesion in exclusions.lesions
    }
