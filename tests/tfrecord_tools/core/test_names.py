import pytest

from tfrecord_tools.core import names


@pytest.mark.parametrize("name", ["ISIC_1.jpg", "ISIC_1.JPG", "ISIC_1.Jpeg", "ISIC_1.png", "ISIC_1.TIF", "ISIC_1.dcm"])
def test_extensions_of_images_are_taken_off_in_any_case(name):
    assert names.is_image_file(name)
    assert names.without_extension(name) == "ISIC_1"


@pytest.mark.parametrize("name", ["ISIC_1", "ISIC_1.csv", "jpg", "ISIC_1.jpg.txt", "IL.1"])
def test_other_names_stay(name):
    assert not names.is_image_file(name)
    assert names.without_extension(name) == name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("a,", ["a", ""]),
        ("one,two", ["one,two"]),  # a folder with a comma
        ("one,two,b", ["one,two", "b"]),
        ("a,one,two", ["a", "one,two"]),
        ("one,two,one,two", ["one,two", "one,two"]),
        ("one,three", ["one", "three"]),
        ("x\0,y", ["x\0", "y"]),
        (f"{'x' * 5000},y", ["x" * 5000, "y"]),
    ],
)
def test_a_list_is_split_at_the_commas_that_are_in_no_path(tmp_path, monkeypatch, text, found):
    (tmp_path / "one,two").mkdir()
    monkeypatch.chdir(tmp_path)
    assert names.several(text) == found


def test_a_path_may_be_nothing_but_commas_and_blanks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / " a, b ,").mkdir()
    assert names.several(" a, b ,") == [" a, b ,"]
    assert names.several(f"{tmp_path}/ a, b ,,{tmp_path}") == [f"{tmp_path}/ a, b ,", str(tmp_path)]
