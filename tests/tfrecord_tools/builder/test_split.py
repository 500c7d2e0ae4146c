import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecord_tools.builder import split
from tfrecord_tools.metadata import table

TABLES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), min_size=5, max_size=300).filter(
    lambda rows: len({patient for patient, _ in rows}) >= 5
)


def assign(rows, seed=0, folds=5, shards=15):
    return split.assign_shards(
        [f"IP_{patient}" for patient, _ in rows], [label for _, label in rows], folds, shards, seed
    )


@given(TABLES, st.integers(0, 3))
def test_no_patient_is_in_two_shards(rows, seed):
    shards = assign(rows, seed)
    assert len({(patient, shard) for (patient, _), shard in zip(rows, shards, strict=True)}) == len(
        {patient for patient, _ in rows}
    )


@given(TABLES)
def test_every_fold_gets_a_patient(rows):
    assert {split.fold_of(shard, 5) for shard in assign(rows)} == set(range(5))


@given(TABLES)
def test_folds_differ_by_no_more_malignant_images_than_the_largest_patient_has(rows):
    totals, per_patient = np.zeros(5, int), np.zeros(41, int)
    for (patient, label), shard in zip(rows, assign(rows), strict=True):
        totals[split.fold_of(shard, 5)] += label
        per_patient[patient] += label
    assert totals.max() - totals.min() <= per_patient.max()  # the bound of greedy list scheduling


@given(TABLES, st.randoms())
def test_the_order_of_the_table_does_not_matter(rows, random):
    before = dict(zip([patient for patient, _ in rows], assign(rows), strict=True))
    random.shuffle(rows)
    assert dict(zip([patient for patient, _ in rows], assign(rows), strict=True)) == before


def test_a_small_case_by_hand():
    # a has 2 malignant, b and c 1 each: a | b, c. Then d (3 benign) ties on images, e (1 benign) evens out.
    groups = ["a", "a", "b", "c", "d", "d", "d", "e"]
    shards = split.assign_shards(groups, [1, 1, 1, 1, 0, 0, 0, 0], folds=2, shards=2, seed=0)
    assert shards == [0, 0, 1, 1, 0, 0, 0, 1]


def test_shuffled_is_a_permutation_that_depends_on_the_seed_only():
    names = [f"ISIC_{index}" for index in range(100)]
    first, again, other = split.shuffled(names, 0), split.shuffled(names, 0), split.shuffled(names, 1)
    assert sorted(first) == list(range(100))
    assert first == again != other


@pytest.mark.parametrize(("folds", "shards"), [(5, 14), (5, 0), (0, 5), (5, 3)])
def test_shards_must_be_a_multiple_of_folds(folds, shards):
    with pytest.raises(split.SplitError, match=f"{shards} shards for {folds} folds"):
        split.assign_shards(["a"] * 9, [0] * 9, folds, shards, 0)


def test_fewer_patients_than_folds_is_refused():
    with pytest.raises(split.SplitError, match="2 patients for 5 folds"):
        split.assign_shards(["a", "b", "a"], [0, 1, 0], 5, 15, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_real_table_gives_balanced_folds_and_shards(real_data, seed):
    frame = table.read_table(real_data / "isic2020_csv" / "train.csv", labelled=True)
    frame["shard"] = split.assign_shards(frame["patient"].tolist(), frame["target"].tolist(), 5, 15, seed)
    frame["fold"] = frame["shard"] % 5
    assert frame.groupby("patient")["fold"].nunique().max() == 1
    malignant, images = frame.groupby("fold")["target"].sum(), frame.groupby("fold").size()
    assert (malignant - 584 / 5).abs().max() <= 3
    assert images.max() - images.min() < 0.01 * images.mean()
    by_shard = frame.groupby("shard")["target"].sum()
    assert by_shard.max() - by_shard.min() <= 3


def test_leak_groups_join_patients_lesions_and_copies():
    names = ["a", "b", "c", "d", "e", "f"]
    patients = ["P2", "P1", "P2", "", "", ""]
    lesions = ["", "L1", "", "L1", "", ""]
    # b and d share a lesion; e is a copy of an image of P2; f stands alone; a pair with an unknown name joins nothing.
    groups = split.leak_groups(names, patients, lesions, [("e", "a"), ("f", "elsewhere")])
    assert groups == ["P2", "P1", "P2", "P1", "P2", "image:f"]


def test_leak_groups_do_not_depend_on_the_order_of_the_table():
    names, patients, lesions = ["a", "b", "c"], ["P1", "P2", ""], ["", "L", "L"]
    pairs = [("a", "c")]
    forward = dict(zip(names, split.leak_groups(names, patients, lesions, pairs), strict=True))
    backward = split.leak_groups(names[::-1], patients[::-1], lesions[::-1], [("c", "a")])
    assert forward == dict(zip(names[::-1], backward, strict=True)) == {"a": "P1", "b": "P1", "c": "P1"}
