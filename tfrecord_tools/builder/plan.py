"""Assignment of images to shards: exclusions, leak groups and folds."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tfrecord_tools.builder import exclusions, identical, inputs, split
from tfrecord_tools.builder.settings import QUALITY, SUBSAMPLING, BuildError, BuildSettings, InputSpec, SplitSpec
from tfrecord_tools.core.text import counted
from tfrecord_tools.dedup import pairs
from tfrecord_tools.imaging import convert
from tfrecord_tools.records import shards


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work of a build.

    tasks: one for each shard with images. inputs: description of the input of each split, for the manifest.
    """

    tasks: list[shards.ShardTask]
    inputs: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What decides which images stay, and which lie together.

    same: pairs of names of one image, listed or found. identical: names of each set of files with the same bytes.
    """

    inputs: InputSpec
    split: SplitSpec
    same: list[tuple[str, str]]
    identical: list[tuple[str, ...]]
    built: exclusions.Exclusions
    test: exclusions.Exclusions


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """Whether each row stays, its leak group, and the name that stays for each dropped duplicate."""

    stays: list[bool]
    groups: list[str]
    dropped: dict[str, str]


def make(settings: BuildSettings) -> Plan:
    """Plans a build, as a pure function of its settings and input. Raises one of `build.USERS_ERRORS`."""
    spec = settings.inputs
    # First, as the tables and images may take minutes.
    same = [pair[:2] for pair in pairs.read(spec.duplicates)] if spec.duplicates else []
    found = inputs.find(spec)
    built = exclusions.from_builds(spec.excluded_builds)
    names = built.images.union(*(each.frame["image_name"] for each in found))
    if same and not any(names.issuperset(pair) for pair in same):
        print(f"warning: {spec.duplicates}: {counted(len(same), 'pair')}, none of two images in these tables")
    test = exclusions.from_frames([each.frame for each in found if each.split == "test"])
    alike = identical.sets(pair for each in found for pair in zip(each.frame["image_name"], each.images, strict=True))
    same += identical.pairs(alike, [set(each.frame["image_name"]) for each in found])
    rules = _Rules(spec, settings.split, same, alike, built, test)
    plan = Plan([], {})
    for each in found:
        members = _members(each, rules)
        tasks = [_task(settings, each.split, shard, sources) for shard, sources in sorted(members.items())]
        plan.tasks.extend(tasks)
        plan.inputs[each.split] = _described(each, tasks, alike)
    return plan


def convert_to(settings: BuildSettings, sizes: Sequence[int]) -> Callable[[bytes], convert.ConvertedSizes]:
    """Returns the converter of images to some of the sizes of a build."""
    spec = settings.convert
    return functools.partial(
        convert.convert_sizes,
        sizes=tuple(sizes),
        quality=spec.quality or QUALITY,
        max_pixels=spec.max_pixels,
        fit=spec.fit,
        subsampling=spec.subsampling or SUBSAMPLING,
        decode_for=max(spec.sizes),
        swap_rb=settings.inputs.swap_rb,
        keep=settings.kept,
    )


def _resolved(given: inputs.Input, rules: _Rules) -> _Resolved:
    """Applies duplicates and exclusions to the rows of a table.

    Groups are made before anything is dropped: one image under two patients shows that they are one.
    """
    names, patients, lesions = (given.frame[column].tolist() for column in ("image_name", "patient", "lesion"))
    compared = {"target": given.frame["target"].tolist(), "patient": patients}
    mode, same = rules.split.mode, rules.same
    available = {name for name, place in zip(names, given.images, strict=True) if place is not None}
    resolution = pairs.resolve(names, compared, same, mode, available)
    _report_duplicates(given, rules, resolution)
    if resolution.dropped:
        print(f"left out, as duplicates of others: {len(resolution.dropped)} of {counted(len(names), 'image')}")
    groups = split.leak_groups(names, patients, lesions, [*resolution.same, *given.same])
    listed = () if mode == "keep" else same
    test = rules.test if given.split == "train" else exclusions.Exclusions()
    in_test = exclusions.excluded_groups(test, names, patients, lesions, groups, listed)
    if in_test:
        left_out, total = sum(group in in_test for group in groups), counted(len(names), "training image")
        print(f"left out, as they, their patient or lesion are in the test set: {left_out} of {total}")
    in_builds = exclusions.excluded_groups(rules.built, names, patients, lesions, groups, listed)
    if against := rules.inputs.against:
        left_out = sum(group in in_builds for group in groups)
        total = counted(len(names), "image")
        print(f"left out, as they, their patient or lesion are in {against}: {left_out} of {total}")
        if left_out == len(names):
            raise BuildError(f"--against {against}: nothing is left to build")
    excluded = in_builds | in_test
    stays = [
        name not in resolution.dropped and group not in excluded for name, group in zip(names, groups, strict=True)
    ]
    return _Resolved(stays, groups, resolution.dropped)


def _report_duplicates(given: inputs.Input, rules: _Rules, resolution: pairs.Resolution) -> None:
    """Says which files are identical, and warns of images of which two names disagree."""
    if sizes := _identical(given, rules.identical):
        done = {"group": "each set is in one fold", "drop": "one of each set is kept", "keep": "folds may share a set"}
        sets = f"in {counted(len(sizes), 'set')} of up to {max(sizes)}"
        print(f"{given.name}: {sum(sizes)} images have the same bytes as another, {sets}: {done[rules.split.mode]}")
    for column in dict.fromkeys(each.column for each in resolution.contradictions):
        first, *others = [each for each in resolution.contradictions if each.column == column]
        shown = ", ".join(f"{name}: {value}" for name, value in zip(first.names[:3], first.values[:3], strict=True))
        more = f", and {counted(len(others), 'other image')}" if others else ""
        given.warnings.add(given.name, f"one image under several names disagrees in {column}: {shown}{more}")


def _identical(given: inputs.Input, alike: Sequence[tuple[str, ...]]) -> list[int]:
    """Number of images in each set of those of an input that have the same bytes."""
    names = set(given.frame["image_name"])
    found = (len(names.intersection(each)) for each in alike)
    return [number for number in found if number > 1]


def _members(given: inputs.Input, rules: _Rules) -> dict[int, list[shards.Source]]:
    """The images of each shard, shuffled."""
    resolved = _resolved(given, rules)
    copies: dict[str, list[str]] = {}
    for name, stay in sorted(resolved.dropped.items()):
        copies.setdefault(stay, []).append(name)
    found = [
        dataclasses.replace(source, copies=tuple(copies.get(source.image_name, ())))
        for source in itertools.compress(inputs.images_of(given, resolved.groups), resolved.stays)
    ]
    inputs.check_any(given, found)
    spec = rules.split
    # Test images have no folds, but a patient's still lie together.
    folds = spec.folds if given.split == "train" else 1
    groups, targets = [source.group for source in found], [source.target for source in found]
    assigned = split.assign_shards(groups, targets, folds, spec.shards, spec.seed)
    if given.split == "train":
        _warn_of_folds(given, [split.fold_of(shard, folds) for shard in assigned], targets)
    members: dict[int, list[shards.Source]] = {}
    for index in split.shuffled([source.image_name for source in found], spec.seed):
        members.setdefault(assigned[index], []).append(found[index])
    return members


def _warn_of_folds(given: inputs.Input, folds: Sequence[int], targets: Sequence[int]) -> None:
    images, melanomas = collections.Counter(folds), collections.Counter(itertools.compress(folds, targets))
    for text in split.one_class((fold, images[fold], melanomas[fold]) for fold in sorted(images)):
        given.warnings.add(given.name, text)


def _task(settings: BuildSettings, kind: str, shard: int, sources: Sequence[shards.Source]) -> shards.ShardTask:
    return shards.ShardTask(
        prefix=shards.prefix(kind, shard),
        split=kind,
        fold=split.fold_of(shard, settings.split.folds) if kind == "train" else -1,
        folders=tuple(map(str, settings.folders.values())),
        convert=convert_to(settings, settings.convert.sizes),
        sources=tuple(sources),
    )


def _described(
    given: inputs.Input, tasks: Sequence[shards.ShardTask], alike: Sequence[tuple[str, ...]]
) -> dict[str, Any]:
    """The manifest's entry of an input."""
    found: dict[str, Any] = {
        "name": given.name,
        "sha256": given.sha256,
        "rows": len(given.frame),
        "form": given.form,
        "sources": sorted(set(given.frame["source"])),
        "plan": _digest(tasks),
    }
    if given.target_rule:
        found["target_rule"] = given.target_rule
    if sizes := _identical(given, alike):
        found["identical"] = {"images": sum(sizes), "sets": len(sizes)}
    if given.left_out:
        found["left_out"] = dict(sorted(collections.Counter(given.left_out.values()).items()))
    if given.meanings:
        found["meanings"] = list(given.meanings)
    if given.warnings:
        found["warnings"] = list(given.warnings)
    if given.split == "test":
        found["names"] = given.frame["image_name"].tolist()  # in the order in which predictions are expected
    if given.quarantined:
        found["quarantined"] = list(map(dataclasses.asdict, given.quarantined))
    if given.lost:
        found["lost_records"] = given.lost
    return found


def _digest(tasks: Sequence[shards.ShardTask]) -> str:
    """SHA-256 of the assignment of images to shards; shards of two runs fit together if it is equal."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update("\n".join([task.prefix, *(source.image_name for source in task.sources), ""]).encode())
    return digest.hexdigest()
