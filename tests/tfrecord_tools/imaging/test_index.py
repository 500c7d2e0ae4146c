import hashlib
import os

import h5py
import numpy as np
import pytest

from tests.support.images import SKIN, flat_jpeg
from tfrecord_tools.core import paths
from tfrecord_tools.imaging import hdf5
from tfrecord_tools.imaging.index import ImageIndex, ImagesError

OTHER = flat_jpeg(120, 90, 80)


def put(folder, *files, data=SKIN):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)


def files_of(found):
    return [None if each is None else each.file for each in found]


# ---------------------------------------------------------------------------------------------- folders


def test_images_are_found_at_any_depth_with_any_extension(tmp_path):
    put(tmp_path, "a.jpg", "train/train/b.JPG", "PH2/IMD1/IMD1_Dermoscopic_Image/c.bmp", "d.Png", "notes.txt")
    found = ImageIndex([tmp_path]).locate(["a", "b", "c", "d", "notes", "e"])
    assert files_of(found) == [
        "a.jpg",
        "train/train/b.JPG",
        "PH2/IMD1/IMD1_Dermoscopic_Image/c.bmp",
        "d.Png",
        None,
        None,
    ]
    assert [os.path.exists(each.path) for each in found if each] == [True] * 4


def test_several_folders_are_one(tmp_path):
    put(tmp_path, "one [1]/a.jpg", "two, too/deep/b.jpg")
    found = ImageIndex([tmp_path / "one [1]", tmp_path / "two, too"]).locate(["b", "a"])
    assert [each and each.path for each in found] == [f"{tmp_path}/two, too/deep/b.jpg", f"{tmp_path}/one [1]/a.jpg"]


def test_hidden_files_and_those_of_an_archive_of_a_mac_are_no_images(tmp_path):
    put(tmp_path, "images/a.jpg", "images/.a.jpg", "images/._b.jpg", data=SKIN)
    put(tmp_path, "__MACOSX/images/a.jpg", ".cache/a.jpg", data=b"resource fork")
    index = ImageIndex([tmp_path])
    assert files_of(index.locate(["a", "._b", "b"])) == ["images/a.jpg", None, None]
    assert files_of(index.files) == ["images/a.jpg"]


def test_a_name_at_two_places_is_one_image_if_the_bytes_are_the_same(tmp_path):
    put(tmp_path, "256/a.jpg", "copy/a.jpg", "b.jpg", "b.jpeg")
    found = ImageIndex([tmp_path]).locate(["a", "b"])
    assert [each is not None for each in found] == [True, True]


@pytest.mark.parametrize("second", ["512/a.jpg", "256/a.png"])
def test_a_name_of_two_images_is_an_error_that_names_both(tmp_path, second):
    put(tmp_path, "256/a.jpg", "256/b.jpg")
    put(tmp_path, second, data=OTHER)
    index = ImageIndex([tmp_path])
    assert files_of(index.locate(["b"])) == ["256/b.jpg"]  # what is not asked for does not matter
    with pytest.raises(ImagesError, match="image a: different bytes under this name: ") as caught:
        index.locate(["b", "a"])
    assert f"{tmp_path}/256/a.jpg" in str(caught.value)
    assert f"{tmp_path}/{second}" in str(caught.value)


def test_a_pipe_under_a_repeated_name_is_not_read(tmp_path):
    put(tmp_path, "one/a.jpg")
    (tmp_path / "two").mkdir()
    os.mkfifo(tmp_path / "two" / "a.jpg")
    with pytest.raises(ImagesError, match="image a: different bytes"):
        ImageIndex([tmp_path]).locate(["a"])


def test_links_to_other_folders_are_not_followed(tmp_path):
    put(tmp_path, "other/a.jpg", "given/b.jpg")
    (tmp_path / "given" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "given" / "round").symlink_to(tmp_path / "given")
    index = ImageIndex([tmp_path / "given"])
    assert files_of(index.locate(["a", "b"])) == [None, "b.jpg"]
    assert sorted(index.links) == [f"{tmp_path}/given/link", f"{tmp_path}/given/round"]
    assert files_of(ImageIndex([tmp_path / "given" / "link"]).locate(["a"])) == ["a.jpg"]


@pytest.mark.parametrize("given", ["nowhere", "file.zip"])
def test_what_is_no_folder_is_named(tmp_path, given):
    (tmp_path / "file.zip").write_bytes(b"PK")
    with pytest.raises(
        ImagesError, match=f"{tmp_path}/{given}: .*; expected the folder of the images, or an HDF5 file"
    ):
        ImageIndex([tmp_path / given])


def test_remote_folders_are_searched_alike():
    """A URL of TensorFlow's in-memory file system stands for a bucket."""
    bucket = paths.path("ram://bucket/images")
    for file in ("a.jpg", "train/train/b.JPG", "notes.txt"):
        path = bucket / file
        path.parent.mkdir()
        path.write_bytes(SKIN)
    assert files_of(ImageIndex([bucket]).locate(["a", "b"])) == ["a.jpg", "train/train/b.JPG"]


# ------------------------------------------------------------------------------------------------- HDF5


def pack(path, images, **options):
    """As ISIC 2024's train-image.hdf5: the bytes of each JPEG as one opaque value."""
    with h5py.File(path, "w", **options) as file:
        for name, data in images.items():
            file.create_dataset(name, data=np.void(data))
    return path


@pytest.mark.parametrize("options", [{}, {"userblock_size": 512}, {"libver": "latest"}])
def test_images_in_an_hdf5_file_are_read_where_they_are(tmp_path, options):
    images = {"ISIC_1": SKIN, "ISIC_2": OTHER + bytes(3)}
    path = pack(tmp_path / "train-image.hdf5", images, **options)
    found = ImageIndex([path]).locate(["ISIC_2", "ISIC_0", "ISIC_1"])
    assert files_of(found) == ["train-image.hdf5: ISIC_2", None, "train-image.hdf5: ISIC_1"]
    for name, place in zip(("ISIC_2", "ISIC_1"), (found[0], found[2]), strict=True):
        assert place is not None
        assert place.part is not None
        with open(place.path, "rb") as file:
            file.seek(place.part.offset)
            assert file.read(place.part.length) == images[name]
        assert place.part.sha256 == hashlib.sha256(images[name]).digest()


def test_rows_of_bytes_and_folders_beside_them_serve_too(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a.jpg"] = np.frombuffer(SKIN, np.uint8)
        file["b"] = np.bytes_(SKIN)
    put(tmp_path / "more", "c.jpg", "a.jpg")
    found = ImageIndex([tmp_path / "a.h5", tmp_path / "more"]).locate(["a", "b", "c"])
    assert [each and each.path for each in found] == [
        f"{tmp_path}/more/a.jpg",
        f"{tmp_path}/a.h5",
        f"{tmp_path}/more/c.jpg",
    ]


def refused(tmp_path, write, message):
    (tmp_path / "secret").write_bytes(b"\xff\xd8\xff of another file")
    pack(tmp_path / "other.hdf5", {"x": SKIN})
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["good"] = np.void(SKIN)
        write(file)
    index = ImageIndex([tmp_path / "a.hdf5"])
    assert files_of(index.locate(["good"])) == ["a.hdf5: good"]
    with pytest.raises(hdf5.Hdf5Error, match=rf"a\.hdf5: x: {message}"):
        index.locate(["good", "x"])


def test_nothing_outside_an_hdf5_file_is_read_through_it(tmp_path):
    def external_link(file):
        file["x"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "x")

    def raw_storage(file):
        file.create_dataset("x", (20,), "u1", external=[(str(tmp_path / "secret"), 0, 20)])

    def virtual(file):
        layout = h5py.VirtualLayout((20,), "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "x", (20,))
        file.create_virtual_dataset("x", layout)

    def soft_link(file):
        file["x"] = h5py.SoftLink("/good")

    refused(tmp_path, external_link, "a link to another place or file; expected the image itself")
    refused(tmp_path, raw_storage, "its bytes are in another file")
    refused(tmp_path, virtual, "its bytes are in another file")
    refused(tmp_path, soft_link, "a link to another place or file")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.create_group("x"), "not a dataset"),
        (lambda file: file.create_dataset("x", (8, 8, 3), "u1"), "no bytes of an image file"),
        (lambda file: file.create_dataset("x", data=np.zeros(9)), "no bytes of an image file"),
        (lambda file: file.create_dataset("x", data=np.zeros(9, "i4")), "no bytes of an image file"),
        (lambda file: file.create_dataset("x", data="text", dtype=h5py.string_dtype()), "no bytes of an image file"),
        (
            lambda file: file.create_dataset("x", data=np.zeros(99, "u1"), compression="gzip"),
            "its bytes are compressed",
        ),
        (lambda file: file.create_dataset("x", (2**40,), "u1"), "its bytes are compressed, in pieces or not written"),
    ],
)
def test_a_dataset_that_is_no_image_file_is_named(tmp_path, write, message):
    refused(tmp_path, write, message)


def test_a_file_that_is_no_hdf5_is_named(tmp_path):
    (tmp_path / "a.hdf5").write_bytes(SKIN)
    with pytest.raises(hdf5.Hdf5Error, match=r"a\.hdf5: not an HDF5 file that can be read"):
        ImageIndex([tmp_path / "a.hdf5"])
    with pytest.raises(hdf5.Hdf5Error, match=r"b\.hdf5: no such file"):
        ImageIndex([tmp_path / "b.hdf5"])
    with pytest.raises(hdf5.Hdf5Error, match=r"gs://bucket/b\.hdf5: HDF5 files are read from a disk"):
        ImageIndex([paths.path("gs://bucket/b.hdf5")])
