import h5py
import pytest

from tests.support.images import SKIN, flat_jpeg
from tfrecord_tools.builder import class_folders, inputs
from tfrecord_tools.builder.settings import BuildError, InputSpec
from tfrecord_tools.imaging.index import ImageIndex
from tfrecord_tools.schema import DIAGNOSIS


def read(root, *files, split="auto", roots=()):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(SKIN)
    return class_folders.read(ImageIndex([root / each for each in roots] or [root]), split)


def labels(found):
    """{image name: (diagnosis, target)}"""
    words = dict(enumerate(DIAGNOSIS)) | {-1: ""}
    rows = found.frame[["image_name", "diagnosis", "target"]].itertuples(index=False)
    return {name: (words[diagnosis], target) for name, diagnosis, target in rows}


def test_folders_name_the_class(tmp_path):
    files = ["melanoma/a.jpg", "nevus/b.JPG", "Basal_Cell_Carcinoma/c.jpeg", "bkl/d.jpg", "VASC/e.jpg"]
    found = read(tmp_path, *files, "pigmented benign keratosis/f.jpg", "benign/nevus/g.jpg")
    assert set(found) == {"train"}
    assert labels(found["train"]) == {
        "a": ("melanoma", 1),
        "b": ("nevus", 0),
        "c": ("basal cell carcinoma", 0),
        "d": ("benign keratosis", 0),
        "e": ("vascular lesion", 0),
        "f": ("benign keratosis", 0),
        "g": ("nevus", 0),
    }
    assert found["train"].warnings == ()


def test_benign_and_malignant_give_a_target_and_no_diagnosis_and_say_what_they_are_taken_for(tmp_path):
    (train,) = read(tmp_path, "benign/a.jpg", "malignant/b.jpg").values()
    assert labels(train) == {"a": ("", 0), "b": ("", 1)}
    (warning,) = train.warnings
    assert "malignant are taken for melanomas" in warning


def test_not_melanoma_is_a_class(tmp_path):
    assert labels(read(tmp_path, "Melanoma/a.jpg", "NotMelanoma/b.jpg")["train"]) == {
        "a": ("melanoma", 1),
        "b": ("", 0),
    }


def test_a_test_folder_becomes_test_data_unless_it_is_given_alone(tmp_path):
    files = ["train_sep/train/benign/a.jpg", "valid/malignant/b.jpg", "Test/malignant/c.jpg"]
    found = read(tmp_path, *files)
    assert {kind: labels(each) for kind, each in found.items()} == {
        "train": {"a": ("", 0), "b": ("", 1)},
        "test": {"c": ("", -1)},
    }
    assert set(labels(read(tmp_path, split="train")["train"])) == {"a", "b", "c"}
    assert labels(class_folders.read(ImageIndex([tmp_path / "Test"]), "auto")["train"]) == {"c": ("", 1)}


def test_folders_of_one_class_each_can_be_given_too(tmp_path):
    found = read(tmp_path, "benign/1.jpg", "malignant/1.jpg", roots=("benign", "malignant"))
    assert labels(found["train"]) == {"benign-1": ("", 0), "malignant-1": ("", 1)}


def test_equal_names_in_several_folders_get_their_folders_and_strange_letters_are_replaced(tmp_path):
    found = read(tmp_path, "benign/1.jpg", "malignant/1.jpg", "benign/ISIC_2 (copy).jpg", "malignant/NA.jpg")
    places = dict(zip(found["train"].frame["image_name"], found["train"].images, strict=True))
    assert {name: place and place.file for name, place in places.items()} == {
        "benign-1": "benign/1.jpg",
        "malignant-1": "malignant/1.jpg",
        "ISIC_2-copy-": "benign/ISIC_2 (copy).jpg",
        "malignant-NA": "malignant/NA.jpg",
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.jpg"], "--images without --csv expects folders named by class, and .*a.jpg is in none; give the table"),
        (["benign/a.jpg", "moles/b.jpg"], "moles/b.jpg: folder 'moles' does not say .*; expected one of: benign, mal"),
        (["nevus/a.jpg", "unknown/b.jpg"], "folder 'unknown' does not say whether its images are melanomas"),
        (["nevus/a.jpg", "indeterminate/b.jpg"], "folder 'indeterminate' does not say"),
        (["melanoma/patient 7/a.jpg"], "folder 'patient 7' does not say"),
        (["benign/melanoma/a.jpg"], "folder 'melanoma' within 'benign', which contradicts it"),
        (["malignant/a.jpg", "melanoma/b.jpg"], "folder 'malignant' beside folders named by a diagnosis"),
        (["benign/a.jpg", "benign/a.jpeg"], "1 name of several images, first benign-a: .*a.jp.* and .*a.jp"),
    ],
)
def test_folders_that_leave_the_class_open_are_named(tmp_path, files, message):
    with pytest.raises(BuildError, match=message):
        read(tmp_path, *files)


def test_what_is_within_malignant_may_be_named_more_exactly(tmp_path):
    found = read(tmp_path, "malignant/melanoma/a.jpg", "malignant/bcc/b.jpg", "benign/nevus/c.jpg")
    assert labels(found["train"]) == {
        "a": ("melanoma", 1),
        "b": ("basal cell carcinoma", 0),
        "c": ("nevus", 0),
    }


def test_another_image_or_class_is_another_input(tmp_path):
    first = read(tmp_path, "benign/a.jpg", "melanoma/b.jpg")["train"].digest
    assert read(tmp_path)["train"].digest == first
    (tmp_path / "benign/a.jpg").write_bytes(flat_jpeg(1, 2, 3))
    assert read(tmp_path)["train"].digest == first  # as with a table, which does not know the images' bytes either
    (tmp_path / "benign/a.jpg").rename(tmp_path / "melanoma/a.jpg")
    assert read(tmp_path)["train"].digest != first


@pytest.mark.parametrize("given", ["empty", "train-image.hdf5"])
def test_without_images_in_folders_there_is_nothing_to_build(tmp_path, given):
    (tmp_path / "empty").mkdir()
    h5py.File(tmp_path / "train-image.hdf5", "w").close()
    with pytest.raises(
        BuildError, match=f"{given}: no image in a folder named by class; without --csv, expected benign/"
    ):
        inputs.find(InputSpec(images=str(tmp_path / given)))
