"""What finished builds hold, so that a build of further data for the same training leaves it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from tfrecord_tools import schema
from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.dedup import pairs
from tfrecord_tools.records import tfrecord
from tfrecord_tools.records.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Held:
    """Names of the images, patients and lesions of some builds."""

    images: frozenset[str] = frozenset()
    patients: frozenset[str] = frozenset()
    lesions: frozenset[str] = frozenset()


def read(folders: Sequence[AnyPath]) -> Held:
    """Of all records of these builds; warns of patients who are numbers of a writer's table.

    Raises:
      BuildError: an unfinished or damaged build.
      shards.ShardError: no build.
    """
    images, patients, lesions = set(), set(), set()
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
            text = f"its patients are numbers of its writer's table ({coded}), comparable with no other file"
            print(f"warning: --against {folder}: {text}; build it with --csv")
    return Held(frozenset(images), frozenset(patients - {""}), frozenset(lesions - {""}))


def of(frames: Sequence[pd.DataFrame]) -> Held:
    """Of tables of `table.read_table`."""
    images, patients, lesions = (
        frozenset(name for frame in frames for name in frame[column]) - {""}
        for column in ("image_name", "patient", "lesion")
    )
    return Held(images, patients, lesions)


def groups_in(
    held: Held,
    names: Sequence[str],
    patients: Sequence[str],
    lesions: Sequence[str],
    groups: Sequence[str],
    same: Iterable[tuple[str, str]],
) -> set[str]:
    """The leak groups that have a image, patient or lesion in those builds.

    The whole group: of two images of one lesion, one of which is there under its name, the other shows it too.

    Args:
      names, patients, lesions, groups: of each row. same: pairs of names of one image, here or there.
    """
    copies = {name for each in pairs.connected(same) if held.images.intersection(each) for name in each}
    found = set()
    for name, patient, lesion, group in zip(names, patients, lesions, groups, strict=True):
        if name in held.images or name in copies or patient in held.patients or lesion in held.lesions:
            found.add(group)
    return found
