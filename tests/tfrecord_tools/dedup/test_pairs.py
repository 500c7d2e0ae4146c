import csv

import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from tfrecord_tools.dedup import pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_name_1,other\n", "pairs.csv: line 1: missing column(s) image_name_2; found image_name_1, other"),
        ("image_name_1,image_name_2\na,b\na,../b\n", "pairs.csv: line 3: column image_name_2: '../b'"),
        ("image_name_1,image_name_2\na\n", "pairs.csv: line 2: 1 cell; the header has 2"),
        ("image_name_1,image_name_2\na,a\n", "pairs.csv: line 2: column image_name_2: 'a' is image_name_1 too"),
        ("", "pairs.csv: line 1: missing column(s) image_name_1, image_name_2; found nothing"),
        ("image_name_1,image_name_2,similarity\nA,B,0.9\nA,C,high\n", "pairs.csv: line 3: column similarity: 'high'"),
        ("image_name_1,image_name_2,similarity\nA,B,nan\n", "pairs.csv: line 2: column similarity: 'nan' is not"),
        ('image_name_1,image_name_2\n"A,B\n', "pairs.csv: line 2: not CSV: unexpected end of data; is a"),
    ],
)
def test_a_wrong_list_is_reported_with_line_and_column(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(pairs.PairsError) as caught:
        pairs.read(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_the_published_list_is_read(real_data):
    path = real_data / "isic2020_csv" / "ISIC_2020_Training_Duplicates.csv"
    with path.open() as file:
        expected = [tuple(row) for row in csv.reader(file)][1:]
    assert [pair[:2] for pair in pairs.read(path)] == expected
    assert len(expected) == 425


def test_what_is_written_is_read_again(tmp_path):
    given = [pairs.Pair("a", "b", 0.875, "mirrored"), pairs.Pair("c", "d")]
    (tmp_path / "pairs.csv").write_text(pairs.to_csv(given))
    assert [pair[:3] for pair in pairs.read(tmp_path / "pairs.csv")] == [("a", "b", 0.875), ("c", "d", None)]


def test_a_list_is_written_over_a_list_and_an_empty_file_only(tmp_path):
    path = tmp_path / "pairs.csv"
    for _ in range(2):
        pairs.check_output(path)
        pairs.write(path, [pairs.Pair("a", "b")])
    assert path.read_text() == pairs.to_csv([pairs.Pair("a", "b")])
    path.write_text("")
    pairs.check_output(path)
    assert list(tmp_path.iterdir()) == [path]
    for text in ("{}", "image_name,target\na,1\n", "image_name_1,image_name_2\na,b\n"):  # the last: not ours
        path.write_text(text)
        with pytest.raises(
            pairs.PairsError, match=r"pairs\.csv: refusing to overwrite it: not a list of pairs of this package"
        ):
            pairs.check_output(path)
        assert path.read_text() == text


def test_a_list_that_could_not_be_written_is_reported_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "nodir" / "x.csv", f"no such folder {tmp_path / 'nodir'}; make it first"),
        (tmp_path / "file" / "x.csv", f"no such folder {tmp_path / 'file'}; make it first"),
        (tmp_path, "not a file; expected a new name, or a list of pairs to replace"),
        (tmp_path / ("x" * 255), "cannot be written: File name too long"),
    ):
        with pytest.raises(pairs.PairsError) as caught:
            pairs.check_output(path)
        assert str(caught.value) == f"{path}: {message}"


def test_drop_keeps_the_first_of_each_connected_set_and_tells_contradictions():
    same = [("c", "b"), ("b", "d"), ("a", "elsewhere")]
    got = pairs.resolve(["d", "c", "b", "a"], {"target": [0, 1, -1, 0]}, same, "drop")
    assert got.dropped == {"c": "b", "d": "b"}
    assert pairs.connected(same) == [("a", "elsewhere"), ("b", "c", "d")]
    assert got.contradictions == [("target", ("b", "c", "d"), (-1, 1, 0))]


@over(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh"))), st.randoms())
def test_resolving_does_not_depend_on_the_order_of_pairs(same, random):
    names = list("abcdefgh")
    first = pairs.resolve(names, {}, same, "drop")
    random.shuffle(same)
    assert pairs.resolve(names, {}, [pair[::-1] for pair in same], "drop") == first
    assert set(first.dropped) <= set(names)
    assert set(first.dropped.values()).isdisjoint(first.dropped)
