"""Patient-grouped, stratified folds, and the assignment of images to shards.

It replaces scikit-learn's StratifiedGroupKFold because published folds must not change with a library's version, nor
with the order of the CSV.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence

from tfrecord_tools.core.text import counted


class SplitError(ValueError):
    """An impossible split; the message gives the reason."""


@dataclasses.dataclass
class _Group:
    """A set of images that stay together."""

    name: str
    positives: int = 0
    images: int = 0


_KINDS = ("patient", "image", "lesion")  # a group is named after the first of these that it has


def fold_of(shard: int, folds: int) -> int:
    """Returns the fold of a shard; a fold is a set of files."""
    return shard % folds


def leak_groups(
    names: Sequence[str], patients: Sequence[str], lesions: Sequence[str], same: Iterable[tuple[str, str]] = ()
) -> list[str]:
    """Returns the leak group of each image: images of one patient or lesion, or joined by `same`, share a group.

    A group is named after its alphabetically first patient, or else after its first image as "image:NAME".

    Args:
      names: Image names.
      patients: Patient of each image, "" if unknown, which joins nothing.
      lesions: Lesion of each image, likewise.
      same: Pairs of image names that show one image; pairs with a name not among `names` are ignored.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def join(one: str, other: str) -> None:
        first, second = sorted((root(one), root(other)), key=lambda node: (_KINDS.index(node.split(":")[0]), node))
        parent[second] = first

    for name, patient, lesion in zip(names, patients, lesions, strict=True):
        for kind, value in (("patient", patient), ("lesion", lesion)):
            if value:
                join(f"image:{name}", f"{kind}:{value}")
    known = set(names)
    for one, other in same:
        if one in known and other in known:
            join(f"image:{one}", f"image:{other}")
    return [root(f"image:{name}").removeprefix("patient:") for name in names]


def assign_shards(
    groups: Sequence[str],
    targets: Sequence[int],
    folds: int,
    shards: int,
    seed: int,
    given: Sequence[int] | None = None,
) -> list[int]:
    """Returns the shard (0..shards-1) of each image; a group shares a shard, and folds are balanced.

    Args:
      groups: Leak group of each image.
      targets: Target of each image; 1 is a melanoma.
      folds: Number of folds, none of which is empty.
      shards: A multiple of folds; some may be empty if there are few groups.
      seed: Seed of the order of equal groups.
      given: Fold of each image, the same for all of a group; None for balanced folds.

    Raises:
      SplitError: shards is not a multiple of folds, there are fewer groups than folds, or a given fold is empty.
    """
    if folds < 1 or shards < folds or shards % folds:
        raise SplitError(
            f"{counted(shards, 'shard')} for {counted(folds, 'fold')}; expected a multiple of the number of folds"
        )
    members: dict[str, _Group] = {}
    for name, target in zip(groups, targets, strict=True):
        group = members.setdefault(name, _Group(name))
        group.images += 1
        group.positives += target == 1
    if given is not None:
        in_folds = _given(members, dict(zip(groups, given, strict=True)), folds)
    elif len(members) < folds:
        found = counted(len(members), "patient")
        raise SplitError(f"{found} for {folds} folds; each fold needs one of its own, so pass fewer --folds")
    else:
        in_folds = _balance(list(members.values()), folds, seed)
    shard_of = {}
    for fold, chosen in enumerate(in_folds):
        for index, shard in enumerate(_balance(chosen, shards // folds, seed)):
            shard_of.update({group.name: fold + index * folds for group in shard})
    return [shard_of[name] for name in groups]


def _given(members: dict[str, _Group], fold_of_group: dict[str, int], folds: int) -> list[list[_Group]]:
    """The groups of each fold."""
    in_folds: list[list[_Group]] = [[] for _ in range(folds)]
    for name, group in members.items():
        in_folds[fold_of_group[name]].append(group)
    if empty := [fold for fold, groups in enumerate(in_folds) if not groups]:
        which = ", ".join(map(str, empty))
        raise SplitError(f"no image in fold {which} of {folds}; each fold needs one, so pass fewer --folds")
    return in_folds


def one_class(totals: Iterable[tuple[int, int, int]]) -> Iterator[str]:
    """Yields what is wrong with folds of which all images, or none, are melanomas.

    Args:
      totals: (fold, images, melanomas) of each.
    """
    filled = [each for each in totals if each[1]]
    for missing, kind in (
        ([fold for fold, _, melanomas in filled if not melanomas], "melanoma"),
        ([fold for fold, images, melanomas in filled if melanomas == images], "image of another class"),
    ):
        if missing and len(missing) == len(filled):
            yield f"no {kind} at all, so no model can be trained; look at the targets of the table"
        elif missing:
            folds = f"fold{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            yield f"no {kind} in {folds}, so no model can be evaluated there; pass fewer --folds"


def shuffled(names: Sequence[str], seed: int) -> list[int]:
    """Returns the indices of names in the order of their hashes, a shuffle that is the same on every machine."""
    return sorted(range(len(names)), key=lambda index: _hash(seed, names[index]))


def _hash(seed: int, name: Hashable) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _balance(groups: list[_Group], bins: int, seed: int) -> list[list[_Group]]:
    """Assigns groups, largest first, to the bin with the fewest melanomas (if the group has any) and images."""
    filled: list[list[_Group]] = [[] for _ in range(bins)]
    positives, images = [0] * bins, [0] * bins
    for group in sorted(groups, key=lambda group: (-group.positives, -group.images, _hash(seed, group.name))):
        melanomas_first = group.positives > 0

        def load(index: int, melanomas_first: bool = melanomas_first) -> tuple[int, int, int]:
            return (positives[index] if melanomas_first else 0, images[index], index)

        chosen = min(range(bins), key=load)
        filled[chosen].append(group)
        positives[chosen] += group.positives
        images[chosen] += group.images
    return filled
