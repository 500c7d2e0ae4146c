"""JSON from strangers: what cannot be read is an error with its place."""

import json

import pytest

from tfrecord_tools.core import json_file


def test_a_file_is_read_as_json_reads_it(tmp_path):
    content = {"a": [1, 2.5, None, True, "\N{LATIN SMALL LETTER E WITH ACUTE}[{"], "b": {}}
    (tmp_path / "x.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert json_file.read(tmp_path / "x.json") == content


def test_brackets_in_texts_and_closed_ones_do_not_count(tmp_path):
    content = '["[[[\\"[[[", ' + "[]," * 500 + "\n" + '{"a":' * 150_000
    (tmp_path / "x.json").write_text(content)
    first = content.index("\n") + 1  # the list around it is one of the 100 levels
    with pytest.raises(
        ValueError, match=rf"^nested more than 100 levels deep: line 2 column 496 \(char {first + 99 * 5}\)$"
    ):
        json_file.read(tmp_path / "x.json")


def test_a_hundred_levels_are_read(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100 + "]" * 100)
    assert json.dumps(json_file.read(tmp_path / "x.json")) == "[" * 100 + "]" * 100


def test_a_text_that_is_cut_off_takes_no_time(tmp_path):
    (tmp_path / "x.json").write_text('"' + '\\"' * 1_000_000)
    with pytest.raises(ValueError, match=r"Unterminated string starting at: line 1 column 1"):
        json_file.read(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("content", "place"),
    [(b'{\n"a" 1}', "line 2 column 5"), (b"", "line 1 column 1"), (b'"\xff"', "position 1"), (b"9" * 9999, "4300")],
)
def test_what_is_no_json_has_its_place(tmp_path, content, place):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=place):
        json_file.read(tmp_path / "x.json")
