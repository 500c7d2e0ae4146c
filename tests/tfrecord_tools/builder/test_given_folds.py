"""Folds of a column: numbering, images left out, and what may not cross them."""

import csv
from collections import Counter

import pytest

from tfrecord_tools.builder import plan
from tfrecord_tools.builder.given_folds import GivenFolds, check_apart
from tfrecord_tools.builder.settings import BuildError, BuildSettings


def numbered(*cells, modulo=None):
    given = GivenFolds("--folds_from part", {f"I{at}": cell for at, cell in enumerate(cells)}, modulo)
    return given.numbered(list(given.cells))


@pytest.mark.parametrize(
    ("cells", "modulo", "expected"),
    [
        (["10", "9", "2", "9"], None, {"2": 0, "9": 1, "10": 2}),  # as numbers, not as words
        (["3.0", "1.0", "3"], None, {"1.0": 0, "3.0": 1, "3": 1}),  # as pandas writes a column with empty cells
        (["ph2", "ham10000", "HAM10000"], None, {"HAM10000": 0, "ham10000": 1, "ph2": 2}),
        (["10", "9", "a"], None, {"10": 0, "9": 1, "a": 2}),  # not all are numbers
        (["14", "0", "5", "6"], 5, {"0": 0, "5": 0, "6": 1, "14": 4}),
        (["1", "2", "3"], 3, {"1": 1, "2": 2, "3": 0}),
    ],
)
def test_values_become_folds_in_ascending_order_or_modulo(cells, modulo, expected):
    found = numbered(*cells, modulo=modulo)
    assert found == expected


@pytest.mark.parametrize(
    ("cells", "modulo", "message"),
    [
        (["1", "0.5"], None, "--folds_from part: 0.5 of I1; expected whole numbers, or words"),
        (["1", "ham"], 5, "--folds 5 takes numbers modulo, got 'ham'; leave out --folds for a fold of each of the 2"),
    ],
)
def test_what_is_no_fold_is_named(cells, modulo, message):
    with pytest.raises(BuildError, match=message):
        numbered(*cells, modulo=modulo)


def test_images_without_a_cell_are_counted_and_the_first_named():
    given = GivenFolds("--folds_from split.csv:part", {"a": "0"})
    with pytest.raises(BuildError, match="4 of 5 images have no row there: b, c, d, ...; expected one for each"):
        given.numbered(["a", "b", "c", "d", "e"])


def test_empty_and_negative_cells_leave_images_out():
    cells = {"a": "0", "b": "-1", "c": "", "d": "-2", "e": "-1.0", "f": "nan", "g": "-x", "h": "1"}
    found = GivenFolds("--folds_from part", cells).left_out([*cells, "absent"])
    assert found == {"b": "-1", "c": "", "d": "-2", "e": "-1.0", "f": "nan"}


def test_a_patient_in_two_folds_is_an_error_with_the_number_and_the_first():
    folds = {"a": 0, "b": 0, "c": 1, "d": 2, "e": 1, "f": 2}
    groups = {"a": "P1", "b": "P2", "c": "P1", "d": "P3", "e": "P3", "f": "P4"}
    message = (
        "part: 2 groups of images of one patient or lesion are in several folds, .*; first P1: a in fold 0 and c in"
    )
    with pytest.raises(BuildError, match=message):
        check_apart("--folds_from part", folds, groups, groups, "group")
    check_apart("--folds_from part", {**folds, "c": 0, "e": 2}, groups, groups, "group")


@pytest.mark.parametrize(
    ("mode", "remedy"), [("group", "--on_duplicates drop leaves one of each image"), ("drop", "--on_duplicates keep")]
)
def test_duplicates_in_two_folds_are_an_error_with_another_remedy(mode, remedy):
    own, joined = {"a": "P1", "b": "P2"}, {"a": "P1", "b": "P1"}
    with pytest.raises(BuildError, match=f"1 group of images joined by duplicates is in several folds, .*{remedy}"):
        check_apart("--folds_from part", {"a": 0, "b": 1}, joined, own, mode)


@pytest.fixture
def deotte(real_data, tmp_path):
    """Settings of a build of the published table, one of whose images exists, and its column by name."""
    folder = real_data / "isic2020_csv"
    with (folder / "train_cdeotte.csv").open(newline="") as file:
        column = {row["image_name"]: int(row["tfrecord"]) for row in csv.DictReader(file)}
    (tmp_path / f"{next(iter(column))}.jpg").write_bytes(b"")

    def settings(table, **changes):
        duplicates = str(folder / "ISIC_2020_Training_Duplicates.csv")
        return BuildSettings.of(32, str(folder / table), str(tmp_path), duplicates=duplicates, **changes)

    return settings, folder, column


def folds_of(planned):
    return {source.image_name: task.fold for task in planned.tasks for source in task.sources}


def test_the_published_shards_become_15_folds(deotte, capsys):
    settings, _, column = deotte
    planned = plan.make(settings("train_cdeotte.csv", folds_from="tfrecord"))
    assert folds_of(planned) == {name: number for name, number in column.items() if number >= 0}
    assert len(folds_of(planned)) == 32692
    assert (planned.folds, planned.shards) == (15, 30)
    assert Counter(task.fold for task in planned.tasks) == dict.fromkeys(range(15), 2)
    assert planned.inputs["train"]["left_out"] == {"no fold: -1": 434}
    assert "--folds_from tfrecord gives them no fold: 434 of 33126 images: 434 -1" in capsys.readouterr().out


def test_the_published_shards_become_5_folds_of_3_dropping_the_same_duplicates(deotte):
    settings, folder, column = deotte
    other = f"{folder}/train_cdeotte.csv:tfrecord"
    planned = plan.make(settings("train.csv", folds_from=other, folds=5, on_duplicates="drop"))
    assert folds_of(planned) == {name: number % 5 for name, number in column.items() if number >= 0}
    assert (planned.folds, planned.shards) == (5, 30)
