import functools
import io
from collections.abc import Callable

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.support.images import textured
from tests.support.process import run_command
from tfrecord_tools import duplicates
from tfrecord_tools.dedup import pairs, search
from tfrecord_tools.dedup.fingerprint import DuplicatesError, fingerprint
from tfrecord_tools.imaging.index import ImageIndex
from tfrecord_tools.metadata import table


def jpeg(image, quality=90):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def turned(image, turn):
    return jpeg(image.transpose(turn))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded": lambda image: jpeg(image, 40),
    "smaller": lambda image: jpeg(image.resize((96, 96))),
    "larger": lambda image: jpeg(image.resize((200, 200))),
    "cropped": lambda image: jpeg(image.crop((4, 1, 127, 124)).resize((128, 128))),
    **{turn.name: functools.partial(turned, turn=turn) for turn in Image.Transpose},
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_planted_copy_is_found_and_nothing_else(kind):
    originals = [textured(seed) for seed in range(20)]
    images = [(f"a{number:02d}", jpeg(image)) for number, image in enumerate(originals)]
    found = search.find([*images, ("copy", COPIES[kind](originals[7]))])
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a07", "copy")]


def test_the_symmetry_makes_the_second_of_the_first():
    image = textured(1)
    for turn, word in (
        (Image.Transpose.ROTATE_270, "turned 90 clockwise"),
        (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    ):
        (pair,) = search.find([("a", jpeg(image)), ("b", jpeg(image.transpose(turn)))]).pairs
        assert pair.symmetry == word


def test_apart_looks_only_between_labels():
    prints = [fingerprint(jpeg(textured(0), quality)) for quality in (90, 80, 70)]
    assert {pair[:2] for pair in search.candidates(prints, apart=[0, 0, 1])} == {(0, 2), (1, 2)}


def test_images_of_one_grey_and_unreadable_ones_are_no_pairs(tmp_path):
    images = [("a", jpeg(Image.new("RGB", (64, 64), "gray"))), ("b", jpeg(Image.new("RGB", (64, 64), "white")))]
    found = search.find([*images, ("half", jpeg(textured(0))[:900]), ("gone", tmp_path / "gone.jpg")])
    assert found.pairs == []
    assert [name for name, _ in found.unreadable] == ["gone", "half"]


def test_the_command_writes_the_pairs(tmp_path):
    for name, data in (("a", jpeg(textured(0))), ("b", jpeg(textured(1))), ("c", jpeg(textured(0), 50))):
        (tmp_path / f"{name}.jpg").write_bytes(data)
    out = tmp_path / "pairs.csv"
    done = run_command("-m", "tfrecord_tools.duplicates", "--images", str(tmp_path), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert [pair[:2] for pair in pairs.read(out)] == [("a", "c")]


def test_files_are_those_that_build_takes(tmp_path):
    for name in ("a.jpg", "copy/a.jpg", "deep/er/b.JPEG", "c.Jpg", "d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = ImageIndex([tmp_path])
    found = [("a", tmp_path / "a.jpg"), ("b", tmp_path / "deep/er/b.JPEG"), ("c", tmp_path / "c.Jpg")]
    assert duplicates._named_files(index, None) == found
    listed = [("a", tmp_path / "a.jpg"), ("d", tmp_path / "d.jpg")]  # the second is missing, as for build
    assert duplicates._named_files(index, ["d", "a", "a"]) == listed


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "holds no images; expected files like NAME{.jpg,.jpeg,.png,"),
        (["b", "a"], "holds none of the 2 images of the table; expected files like a{.jpg,.jpeg,.png,"),
    ],
)
def test_a_folder_without_images_is_an_error(tmp_path, names, message):
    (tmp_path / "a.txt").touch()
    with pytest.raises(DuplicatesError) as caught:
        duplicates._named_files(ImageIndex([tmp_path]), names)
    assert str(caught.value).startswith(f"{tmp_path}: {message}")


def test_images_in_several_folders_are_compared_and_those_in_hdf5_files_are_not(tmp_path):
    (tmp_path / "one, two").mkdir()
    (tmp_path / "three").mkdir()
    (tmp_path / "one, two/a.jpg").write_bytes(jpeg(textured(0)))
    (tmp_path / "three/b.jpg").write_bytes(jpeg(textured(0), 50))
    command = ("-m", "tfrecord_tools.duplicates", "--images")
    done = run_command(*command, f"{tmp_path}/one, two,{tmp_path}/three")
    assert done.stdout.splitlines()[1].startswith("a,b,")
    with h5py.File(tmp_path / "train-image.hdf5", "w") as file:
        file["a"] = np.void(jpeg(textured(0)))
    done = run_command(*command, str(tmp_path / "train-image.hdf5"))
    assert done.returncode == 1
    assert "train-image.hdf5: an HDF5 file; expected folders, so build it and use verify --pairs" in done.stderr


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x89PNG\r\n\x1a\n.", "a PNG that cannot be decoded: damaged, or of a kind that is not supported"),
        (b"", "the file is empty"),
        (b"%PDF-1.7 secret", "not an image that can be converted: PDF; expected JPEG, PNG,"),
    ],
)
def test_what_is_no_image_is_recognized_by_its_first_bytes(data, found):
    ((name, reason),) = search.find([("a", data)]).unreadable
    assert name == "a"
    assert reason.startswith(found)
    assert "secret" not in reason


def test_the_command_does_not_replace_its_table_and_says_so_first(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("image_name\na\n")
    images = ("-m", "tfrecord_tools.duplicates", "--images", str(tmp_path / "none"))
    done = run_command(*images, "--csv", str(path), "--out", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --out {path}: refusing to overwrite it: not a list of pairs of this package")
    assert path.read_text() == "image_name\na\n"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("image_name,more\na,1\nb,1\n", None),
        ("isic_id,sex\na,male\nb,\n", None),
        ("lesion_id,image_id,dx,age,sex,localization\nL,a,mel,,,\nL,b,no such word,,,\n", None),
        ("file,x\na.jpg,\nb.jpeg,\n", "image_name=file"),
    ],
)
def test_the_images_of_any_table_are_listed(tmp_path, text, columns):
    (tmp_path / "table.csv").write_text(text)
    assert duplicates._listed(str(tmp_path / "table.csv"), None, columns) == ["a", "b"]


def test_a_table_that_names_no_images_is_an_error(tmp_path):
    (tmp_path / "table.csv").write_text("name,sex\na,male\n")
    done = run_command(
        "-m", "tfrecord_tools.duplicates", "--images", str(tmp_path), "--csv", str(tmp_path / "table.csv")
    )
    assert done.returncode == 1
    assert "table.csv: line 1: unknown header name, sex" in done.stderr
    (tmp_path / "table.csv").write_text("image_name\n\na\n../b\n")
    with pytest.raises(table.TableError, match="line 4: column image_name: '../b' is not allowed"):
        duplicates._listed(str(tmp_path / "table.csv"), None, None)
