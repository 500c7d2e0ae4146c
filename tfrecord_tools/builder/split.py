"""Patient-grouped, stratified folds, and which shard an image goes to.

Our own few lines instead of scikit-learn's StratifiedGroupKFold: published folds must not change with a library's
version, and the order of the CSV must not matter.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Sequence

from tfrecord_tools.core.text import counted


class SplitError(ValueError):
    """The images cannot be split as asked; the message says why."""


@dataclasses.dataclass
class _Group:
    """The images that must stay together."""

    name: str
    positives: int = 0
    images: int = 0


_KINDS = ("patient", "image", "lesion")  # what a group is called after: the first kind that it has


def fold_of(shard: int, folds: int) -> int:
    """The fold that a shard belongs to, so that a fold is a set of files."""
    return shard % folds


def leak_groups(
    names: Sequence[str], patients: Sequence[str], lesions: Sequence[str], same: Iterable[tuple[str, str]] = ()
) -> list[str]:
    """The name of the group of each image: images of one patient, one lesion or joined by `same` are in one group.

    names: image names. patients, lesions: "" where unknown, which joins nothing. same: pairs of image names that
    show the same image; pairs with a name that is not among `names` are passed over.
    A group is called after its first patient in alphabetical order, or else its first image as "image:NAME".
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


def assign_shards(groups: Sequence[str], targets: Sequence[int], folds: int, shards: int, seed: int) -> list[int]:
    """The shard (0..shards-1) of each image; images of one group share a shard, folds are alike.

    groups: the patient (or other leak group) of each image. targets: 1 counts as melanoma, all else does not.
    shards: a multiple of folds; a shard may stay empty if there are few groups, a fold may not.
    Raises SplitError if shards is no multiple of folds, or there are fewer groups than folds.
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
    if len(members) < folds:
        found = counted(len(members), "patient")
        raise SplitError(f"{found} for {folds} folds; each fold needs at least one of its own, so give fewer --folds")
    shard_of = {}
    for fold, chosen in enumerate(_balance(list(members.values()), folds, seed)):
        for index, shard in enumerate(_balance(chosen, shards // folds, seed)):
            shard_of.update({group.name: fold + index * folds for group in shard})
    return [shard_of[name] for name in groups]


def shuffled(names: Sequence[str], seed: int) -> list[int]:
    """Indices of names in the order of a hash of each: shards come shuffled, the same way on every machine."""
    return sorted(range(len(names)), key=lambda index: _hash(seed, names[index]))


def _hash(seed: int, name: Hashable) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _balance(groups: list[_Group], bins: int, seed: int) -> list[list[_Group]]:
    """Largest first, each group to the bin that has least: of melanomas if it has any, then of images."""
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
