import functools
import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from tests.conftest import run_command
from tfrecord_tools import duplicates


def textured(seed, size=128):
    """A picture like no other: blurred noise of two scales."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
    rough = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size))
    return Image.blend(rough, noise.filter(ImageFilter.GaussianBlur(2)), 0.5)


def jpeg(picture, quality=90):
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def turned(picture, turn):
    return jpeg(picture.transpose(turn))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded": lambda picture: jpeg(picture, 40),
    "smaller": lambda picture: jpeg(picture.resize((96, 96))),
    "larger": lambda picture: jpeg(picture.resize((200, 200))),
    "cropped": lambda picture: jpeg(picture.crop((4, 1, 127, 124)).resize((128, 128))),
    **{turn.name: functools.partial(turned, turn=turn) for turn in Image.Transpose},
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_planted_copy_is_found_and_nothing_else(kind):
    pictures = [textured(seed) for seed in range(20)]
    images = [(f"a{number:02d}", jpeg(picture)) for number, picture in enumerate(pictures)]
    found = duplicates.find([*images, ("copy", COPIES[kind](pictures[7]))])
    assert [(pair.name_1, pair.name_2) for pair in found.pairs] == [("a07", "copy")]


def test_the_symmetry_makes_the_second_of_the_first():
    picture = textured(1)
    for turn, word in (
        (Image.Transpose.ROTATE_270, "turned 90 clockwise"),
        (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    ):
        (pair,) = duplicates.find([("a", jpeg(picture)), ("b", jpeg(picture.transpose(turn)))]).pairs
        assert pair.symmetry == word


def test_apart_looks_only_between_labels():
    prints = [duplicates.fingerprint(jpeg(textured(0), quality)) for quality in (90, 80, 70)]
    assert {pair[:2] for pair in duplicates.candidates(prints, apart=[0, 0, 1])} == {(0, 2), (1, 2)}


def test_pictures_of_one_grey_and_unreadable_ones_are_no_pairs(tmp_path):
    images = [("a", jpeg(Image.new("RGB", (64, 64), "gray"))), ("b", jpeg(Image.new("RGB", (64, 64), "white")))]
    found = duplicates.find([*images, ("half", jpeg(textured(0))[:900]), ("gone", tmp_path / "gone.jpg")])
    assert found.pairs == []
    assert [name for name, _ in found.unreadable] == ["gone", "half"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_name_1,other\n", "pairs.csv: line 1: missing column(s) image_name_2; found image_name_1, other"),
        ("image_name_1,image_name_2\na,b\na,../b\n", "pairs.csv: line 3: column image_name_2: '../b'"),
        ("image_name_1,image_name_2\na\n", "pairs.csv: line 2: 1 cells; the header has 2"),
        ("image_name_1,image_name_2\na,a\n", "pairs.csv: line 2: column image_name_2: 'a' is image_name_1 too"),
    ],
)
def test_a_wrong_list_is_told_with_line_and_column(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(duplicates.DuplicatesError) as caught:
        duplicates.read_published(path)
    assert str(caught.value).startswith(message)


def test_the_published_list_has_425_pairs(real_data):
    assert len(duplicates.read_published(real_data / "isic2020_csv/ISIC_2020_Training_Duplicates.csv")) == 425


def test_drop_keeps_the_first_of_each_connected_set_and_tells_contradictions():
    pairs = [("c", "b"), ("b", "d"), ("a", "elsewhere")]
    got = duplicates.resolve(["d", "c", "b", "a"], {"target": [0, 1, -1, 0]}, pairs, "drop")
    assert (got.kept, got.dropped, got.sets) == (["b", "a"], {"c": "b", "d": "b"}, [("b", "c", "d")])
    assert got.contradictions == [("target", ("b", "c", "d"), (-1, 1, 0))]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh"))), st.randoms())
def test_resolving_does_not_depend_on_the_order_of_pairs(pairs, random):
    names = list("abcdefgh")
    first = duplicates.resolve(names, {}, pairs, "drop")
    random.shuffle(pairs)
    assert duplicates.resolve(names, {}, [pair[::-1] for pair in pairs], "drop") == first
    assert sorted([*first.kept, *first.dropped]) == names
    assert set(first.dropped.values()) <= set(first.kept)


def test_the_command_writes_the_pairs(tmp_path):
    for name, data in (("a", jpeg(textured(0))), ("b", jpeg(textured(1))), ("c", jpeg(textured(0), 50))):
        (tmp_path / f"{name}.jpg").write_bytes(data)
    out = tmp_path / "pairs.csv"
    done = run_command("-m", "tfrecord_tools.duplicates", "--images", str(tmp_path), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert duplicates.read_published(out) == [("a", "c")]
