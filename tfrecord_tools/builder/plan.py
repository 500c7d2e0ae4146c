"""Which image goes to which shard: what is left out, what must lie together, and the folds of the rest."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tfrecord_tools.builder import exclusions, inputs, split
from tfrecord_tools.builder.settings import QUALITY, SUBSAMPLING, BuildError, BuildSettings
from tfrecord_tools.core.text import counted
from tfrecord_tools.dedup import pairs
from tfrecord_tools.imaging import convert
from tfrecord_tools.records import shards


@dataclasses.dataclass(frozen=True)
class Plan:
    """tasks: one for each shard that gets any image. inputs: by split, what they are made of, for the manifest."""

    tasks: list[shards.ShardTask]
    inputs: dict[str, dict[str, Any]]


def make(settings: BuildSettings) -> Plan:
    """The plan of a build, a pure function of its settings and input. Raises one of `build.USERS_ERRORS`."""
    found = inputs.find(settings)
    same = [pair[:2] for pair in pairs.read(settings.duplicates)] if settings.duplicates else []
    held = exclusions.read(settings.others)
    _check_listed(settings, found, same, held)
    test = exclusions.of([each.frame for each in found if each.split == "test"])
    plan = Plan([], {})
    for each in found:
        tasks = _tasks(settings, each, same, held, test if each.split == "train" else exclusions.Held())
        plan.tasks.extend(tasks)
        plan.inputs[each.split] = {
            "name": each.name,
            "sha256": each.sha256,
            "rows": len(each.frame),
            "form": each.form,
            "sources": sorted(set(each.frame["source"])),
            "plan": _digest(tasks),
        }
        if each.quarantined:
            plan.inputs[each.split]["quarantined"] = list(map(dataclasses.asdict, each.quarantined))
        if each.lost:
            plan.inputs[each.split]["lost_records"] = each.lost
    return plan


def convert_to(settings: BuildSettings, sizes: Sequence[int]) -> Callable[[bytes], convert.ConvertedSizes]:
    """What makes images of these sizes, some of those of the settings."""
    return functools.partial(
        convert.convert_sizes,
        sizes=tuple(sizes),
        quality=settings.quality or QUALITY,
        max_pixels=settings.max_pixels,
        fit=settings.fit,
        subsampling=settings.subsampling or SUBSAMPLING,
        decode_for=max(settings.sizes),
        swap_rb=settings.swap_rb,
        keep=settings.kept,
    )


def _check_listed(
    settings: BuildSettings, found: Sequence[inputs.Input], same: list[tuple[str, str]], held: exclusions.Held
) -> None:
    """Warns of a list of duplicates that is of other images."""
    names = held.images.union(*(each.frame["image_name"] for each in found))
    if same and not any(names.issuperset(pair) for pair in same):
        print(f"warning: {settings.duplicates}: {counted(len(same), 'pair')}, none of two images in these tables")


def _resolved(
    settings: BuildSettings,
    given: inputs.Input,
    same: list[tuple[str, str]],
    held: exclusions.Held,
    test: exclusions.Held,
) -> tuple[list[bool], list[str], dict[str, str]]:
    """Whether each row stays, or is a duplicate, in another build or in the test set; the leak group of each; and
    which name stays for each duplicate that is dropped.

    Groups are made before anything is dropped: one image under two patients says that they are one.
    """
    names, patients, lesions = (given.frame[column].tolist() for column in ("image_name", "patient", "lesion"))
    compared = {"target": given.frame["target"].tolist(), "patient": patients}
    there = inputs.names_with_images(given) if same and settings.mode == "drop" else None
    resolution = pairs.resolve(names, compared, same, settings.mode, there)
    for found in resolution.contradictions:
        values = ", ".join(f"{name}: {value}" for name, value in zip(found.names, found.values, strict=True))
        print(f"warning: one image under several names disagrees in {found.column}: {values}")
    if resolution.dropped:
        print(f"left out, as duplicates of others: {len(resolution.dropped)} of {counted(len(names), 'image')}")
    groups = split.leak_groups(names, patients, lesions, [*resolution.same, *given.same])
    listed = () if settings.mode == "keep" else same
    in_test = exclusions.groups_in(test, names, patients, lesions, groups, listed)
    if in_test:
        left_out, total = sum(group in in_test for group in groups), counted(len(names), "training image")
        print(f"left out, as they, their patient or lesion are in the test set: {left_out} of {total}")
    elsewhere = exclusions.groups_in(held, names, patients, lesions, groups, listed)
    if settings.against:
        left_out = sum(group in elsewhere for group in groups)
        total = counted(len(names), "image")
        print(f"left out, as they, their patient or lesion are in {settings.against}: {left_out} of {total}")
        if left_out == len(names):
            raise BuildError(f"--against {settings.against}: nothing is left to build")
    gone = elsewhere | in_test
    stays = [name not in resolution.dropped and group not in gone for name, group in zip(names, groups, strict=True)]
    return stays, groups, resolution.dropped


def _tasks(
    settings: BuildSettings,
    given: inputs.Input,
    same: list[tuple[str, str]],
    held: exclusions.Held,
    test: exclusions.Held,
) -> list[shards.ShardTask]:
    """One task per shard that gets any image. same: pairs of image names that show one image."""
    stays, leak_groups, dropped = _resolved(settings, given, same, held, test)
    copies: dict[str, list[str]] = {}
    for name, stay in sorted(dropped.items()):
        copies.setdefault(stay, []).append(name)
    found = [
        dataclasses.replace(source, copies=tuple(copies.get(source.image_name, ())))
        for source in itertools.compress(inputs.images_of(given, leak_groups), stays)
    ]
    inputs.check_any(given, found)
    groups = [source.group for source in found]
    # Test images have no folds, but a patient's still lie together.
    folds = settings.folds if given.split == "train" else 1
    assigned = split.assign_shards(groups, [source.target for source in found], folds, settings.shards, settings.seed)
    members: dict[int, list[shards.Source]] = {}
    for index in split.shuffled([source.image_name for source in found], settings.seed):
        members.setdefault(assigned[index], []).append(found[index])
    return [
        shards.ShardTask(
            prefix=shards.prefix(given.split, shard),
            split=given.split,
            fold=split.fold_of(shard, folds) if given.split == "train" else -1,
            folders=tuple(map(str, settings.folders.values())),
            convert=convert_to(settings, settings.sizes),
            sources=tuple(chosen),
        )
        for shard, chosen in sorted(members.items())
    ]


def _digest(tasks: Sequence[shards.ShardTask]) -> str:
    """SHA-256 of which image goes where: what makes shards of two runs fit together, whatever it came of."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update("\n".join([task.prefix, *(source.image_name for source in task.sources), ""]).encode())
    return digest.hexdigest()
