"""Assignment of images to shards: exclusions, leak groups and folds."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfrecord_tools.builder import exclusions, given_folds, identical, inputs, split
from tfrecord_tools.builder.given_folds import GivenFolds
from tfrecord_tools.builder.settings import (
    FOLDS,
    QUALITY,
    SHARDS,
    SUBSAMPLING,
    BuildError,
    BuildSettings,
    InputSpec,
    SplitSpec,
)
from tfrecord_tools.core.text import counted
from tfrecord_tools.dedup import pairs
from tfrecord_tools.imaging import convert
from tfrecord_tools.records import shards


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work of a build.

    tasks: one for each shard with images. inputs: description of the input of each split, for the manifest. folds,
    shards: their numbers.
    """

    tasks: list[shards.ShardTask]
    inputs: dict[str, dict[str, Any]]
    folds: int
    shards: int


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What decides which images stay, and which lie together.

    same: pairs of names of one image, listed or found. identical: names of each set of files with the same bytes.
    folds: those given by --folds_from, None for our own.
    """

    inputs: InputSpec
    split: SplitSpec
    same: list[tuple[str, str]]
    identical: list[tuple[str, ...]]
    built: exclusions.Exclusions
    test: exclusions.Exclusions
    folds: GivenFolds | None


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """Fate of the rows of a table.

    stays: whether each stays. groups: leak group of each. dropped: the name that stays for each dropped duplicate.
    unfolded: cell of --folds_from of each image that it leaves out.
    """

    stays: list[bool]
    groups: list[str]
    dropped: dict[str, str]
    unfolded: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Division:
    """Images in shards.

    members: images of each shard, shuffled. folds, shards: their numbers. numbered: the fold of each value of
    --folds_from, unless --folds determines it. unfolded: as in _Resolved.
    """

    members: dict[int, list[shards.Source]]
    folds: int
    shards: int
    numbered: dict[str, int]
    unfolded: dict[str, str]


def make(settings: BuildSettings) -> Plan:
    """Plans a build, as a pure function of its settings and input. Raises one of `build.USERS_ERRORS`."""
    spec = settings.inputs
    # First, as the tables and images may take minutes.
    same = [pair[:2] for pair in pairs.read(spec.duplicates)] if spec.duplicates else []
    listed = given_folds.read(spec)
    found = inputs.find(spec)
    given = given_folds.find(spec, settings.split.folds, listed, found) if spec.folds_from is not None else None
    built = exclusions.from_builds(spec.excluded_builds)
    names = built.images.union(*(each.frame["image_name"] for each in found))
    if same and not any(names.issuperset(pair) for pair in same):
        print(f"warning: {spec.duplicates}: {counted(len(same), 'pair')}, none of two images in these tables")
    test = exclusions.from_frames([each.frame for each in found if each.split == "test"])
    alike = identical.sets(pair for each in found for pair in zip(each.frame["image_name"], each.images, strict=True))
    same += identical.pairs(alike, [set(each.frame["image_name"]) for each in found])
    rules = _Rules(spec, settings.split, same, alike, built, test, given)
    plan = Plan([], {}, *_counts(settings.split))
    for each in found:
        division = _divided(each, rules)
        if each.split == "train":
            plan = dataclasses.replace(plan, folds=division.folds, shards=division.shards)
        tasks = _tasks(settings, each.split, division)
        plan.tasks.extend(tasks)
        plan.inputs[each.split] = _described(each, tasks, alike, division)
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
    unfolded = rules.folds.left_out(names) if rules.folds and given.split == "train" else {}
    located = zip(names, given.images, strict=True)
    available = {name for name, place in located if place is not None and name not in unfolded}
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
    if rules.folds and unfolded:
        cells = ", ".join(f"{number} {cell}" for cell, number in _counted_cells(unfolded).items())
        total = counted(len(names), "image")
        print(f"left out, as {rules.folds.flag} gives them no fold: {len(unfolded)} of {total}: {cells}")
    excluded, gone = in_builds | in_test, resolution.dropped.keys() | unfolded.keys()
    stays = [name not in gone and group not in excluded for name, group in zip(names, groups, strict=True)]
    return _Resolved(stays, groups, resolution.dropped, unfolded)


def _counted_cells(unfolded: Mapping[str, str]) -> dict[str, int]:
    """Number of images for each cell that gives no fold."""
    return dict(sorted(collections.Counter(cell or "empty" for cell in unfolded.values()).items()))


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


def _divided(given: inputs.Input, rules: _Rules) -> _Division:
    """Divides the images of an input into shards."""
    resolved = _resolved(given, rules)
    copies: dict[str, list[str]] = {}
    for name, stay in sorted(resolved.dropped.items()):
        copies.setdefault(stay, []).append(name)
    found = [
        dataclasses.replace(source, copies=tuple(copies.get(source.image_name, ())))
        for source in itertools.compress(inputs.images_of(given, resolved.groups), resolved.stays)
    ]
    inputs.check_any(given, found)
    spec, train = rules.split, given.split == "train"
    names, groups, targets = ([getattr(each, key) for each in found] for key in ("image_name", "group", "target"))
    numbered = rules.folds.numbered(names) if rules.folds and train else {}
    in_fold = _given_folds(given, rules.folds, numbered, found, spec.mode) if rules.folds and train else None
    folds, number = _counts(spec, numbered)
    # Test images have no folds, but a patient's still lie together.
    assigned = split.assign_shards(groups, targets, folds if train else 1, number, spec.seed, in_fold)
    if train:
        _warn_of_folds(given, [split.fold_of(shard, folds) for shard in assigned], targets)
    members: dict[int, list[shards.Source]] = {}
    for index in split.shuffled(names, spec.seed):
        members.setdefault(assigned[index], []).append(found[index])
    return _Division(members, folds, number, numbered if spec.folds is None else {}, resolved.unfolded)


def _counts(spec: SplitSpec, numbered: Mapping[str, int] | None = None) -> tuple[int, int]:
    """Numbers of folds and shards; numbered: the fold of each value of --folds_from."""
    folds, number = spec.folds, spec.shards
    if folds is None:
        folds = len(set(numbered.values())) if numbered else FOLDS
    if number is None:  # as close above the default as given folds allow
        number = -(-SHARDS // folds) * folds if numbered and 0 < folds <= SHARDS else SHARDS
    return folds, number


def _given_folds(
    given: inputs.Input,
    folds: GivenFolds,
    numbered: Mapping[str, int],
    found: Sequence[shards.Source],
    mode: pairs.Mode,
) -> list[int]:
    """The given fold of each image; BuildError if a patient, lesion or duplicate is in two."""
    print(f"{folds.flag}: value -> fold: {given_folds.describe(numbered)}")
    names, patients, lesions = (given.frame[column].tolist() for column in ("image_name", "patient", "lesion"))
    own = dict(zip(names, split.leak_groups(names, patients, lesions, given.same), strict=True))
    groups = {source.image_name: source.group for source in found}
    in_fold = {name: numbered[folds.cells[name]] for name in groups}
    given_folds.check_apart(folds.flag, in_fold, groups, own, mode)
    return list(in_fold.values())


def _warn_of_folds(given: inputs.Input, folds: Sequence[int], targets: Sequence[int]) -> None:
    images, melanomas = collections.Counter(folds), collections.Counter(itertools.compress(folds, targets))
    for text in split.one_class((fold, images[fold], melanomas[fold]) for fold in sorted(images)):
        given.warnings.add(given.name, text)


def _tasks(settings: BuildSettings, kind: str, division: _Division) -> list[shards.ShardTask]:
    return [
        shards.ShardTask(
            prefix=shards.prefix(kind, shard),
            split=kind,
            fold=split.fold_of(shard, division.folds) if kind == "train" else -1,
            folders=tuple(map(str, settings.folders.values())),
            convert=convert_to(settings, settings.convert.sizes),
            sources=tuple(sources),
        )
        for shard, sources in sorted(division.members.items())
    ]


def _described(
    given: inputs.Input, tasks: Sequence[shards.ShardTask], alike: Sequence[tuple[str, ...]], division: _Division
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
    left_out = dict(sorted(collections.Counter(given.left_out.values()).items()))
    left_out |= {f"no fold: {cell}": number for cell, number in _counted_cells(division.unfolded).items()}
    if left_out:
        found["left_out"] = left_out
    if division.numbered:
        found["given_folds"] = division.numbered
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
