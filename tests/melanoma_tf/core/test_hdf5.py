"""HDF5 files that would read other files, or take more memory than they are large."""

from __future__ import annotations

import resource
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from melanoma_tf.core import hdf5

MOST = 64 << 20  # bytes


@pytest.fixture
def secret(tmp_path):
    """Another local file, as HDF5 and as plain bytes."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(64, dtype="f4")
    np.arange(64, dtype="f4").tofile(tmp_path / "secret.bin")
    return tmp_path


def read(path, most=MOST):
    """Everything that a reader of the file would get."""
    with hdf5.opened(path, most) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        return found


def external_link(file, folder):
    file["layers/dense/vars/0"] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def external_group(file, folder):
    file["layers"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")


def relative_external_link(file, folder):
    file.create_group("a/b")["c"] = h5py.ExternalLink("secret.h5", "x")


def soft_link_to_external_link(file, folder):
    file["elsewhere"] = h5py.ExternalLink("secret.h5", "/")
    file["x"] = h5py.SoftLink("/elsewhere/x")


def raw_storage(file, folder):
    file.create_dataset("x", (64,), "f4", external=[(str(folder / "secret.bin"), 0, 256)])


def raw_storage_behind_a_hard_link(file, folder):
    file.create_dataset("a/x", (64,), "f4", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)])
    file["b"] = file["a"]
    del file["a"]


def virtual(file, folder):
    layout = h5py.VirtualLayout((64,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (64,))
    file.create_virtual_dataset("x", layout)


def virtual_in_part(file, folder):
    layout = h5py.VirtualLayout((2, 64), "f4")
    layout[1] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (64,))
    file.create_virtual_dataset("deep/er/x", layout, fillvalue=0)


OTHER_FILES = [
    external_link,
    external_group,
    relative_external_link,
    soft_link_to_external_link,
    raw_storage,
    raw_storage_behind_a_hard_link,
    virtual,
    virtual_in_part,
]


@pytest.mark.parametrize("write", OTHER_FILES)
def test_no_other_file_is_read(secret, write):
    with h5py.File(secret / "w.h5", "w", libver="latest") as file:
        write(file, secret)
    with pytest.raises(ValueError, match=r"w.h5: .* (is a link to|takes its values from) another file"):
        read(secret / "w.h5")


@pytest.mark.parametrize("write", OTHER_FILES)
def test_no_other_file_is_read_from_a_keras_archive(secret, write):
    with h5py.File(secret / "w.h5", "w", libver="latest") as file:
        write(file, secret)
    with zipfile.ZipFile(secret / "w.keras", "w") as archive:
        archive.write(secret / "w.h5", "model.weights.h5")
    with pytest.raises(ValueError, match=r"w.keras: .* (is a link to|takes its values from) another file"):
        read(secret / "w.keras")


def never_written(file):
    file.create_dataset("x", (1 << 34,), "f4", chunks=(1 << 20,))


def compressed(file):
    file.create_dataset("x", (1 << 34,), "f4", chunks=(1 << 20,), compression="gzip")[:1000] = 1


def filled(file):
    file.create_dataset("x", (1 << 30,), "f8", chunks=(1 << 20,), fillvalue=3.0)


def many(file):
    for i in range(100):
        file.create_dataset(f"layers/{i}/vars/0", (1 << 20,), "f4", chunks=(1 << 10,))


def one_under_many_names(file):
    file.create_dataset("x", (1 << 20,), "f4", chunks=(1 << 10,))
    for i in range(100):
        file[f"again/{i}"] = file["x"]


def large_chunk(file):
    file.create_dataset("x", (4,), "f4", maxshape=(None,), chunks=(1 << 28,))


def large_items(file):
    file.create_dataset("x", (10,), "V100000000", chunks=(1,))


@pytest.mark.parametrize(
    "write", [never_written, compressed, filled, many, one_under_many_names, large_chunk, large_items]
)
def test_a_small_file_that_declares_much_is_refused_unread(tmp_path, write):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        write(file)
    assert (tmp_path / "w.h5").stat().st_size < 5e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="w.h5 declares more than .* MiB of values; expected at most 64 MiB"):
        read(tmp_path / "w.h5")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def deflated(megabytes):
    stream = zlib.compressobj(9)
    return b"".join([*(stream.compress(bytes(1 << 20)) for _ in range(megabytes)), stream.flush()])


@pytest.mark.parametrize("filters", [{}, {"shuffle": True}, {"fletcher32": True}])
def test_a_chunk_that_inflates_to_more_than_it_declares_is_refused(tmp_path, filters):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        dataset = file.create_dataset("x", (256,), "f4", chunks=(256,), compression="gzip", **filters)
        dataset.id.write_direct_chunk((0,), deflated(32) + bytes(4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="w.h5: /x inflates to more than it declares"):
        read(tmp_path / "w.h5")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 25_000  # kB


@pytest.mark.parametrize("compression", ["lzf", "szip"])
def test_other_compressions_are_refused(tmp_path, compression):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        try:
            file["x"] = 1
            file.create_dataset("y", (256,), "f4", chunks=(256,), compression=compression)[:] = 1
        except ValueError:
            pytest.skip(f"this h5py cannot write {compression}")
    with pytest.raises(ValueError, match="w.h5: /y has an unknown compression; expected none, or gzip"):
        read(tmp_path / "w.h5")


def test_files_as_people_have_them_are_read(tmp_path):
    rng = np.random.default_rng(0)
    noise = np.frombuffer(rng.bytes(4096), "u1")
    random, zeros = rng.normal(size=(3, 3, 8, 16)).astype("f4"), np.zeros((1000, 100), "f4")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["plain"], file["scalar"], file["empty"] = random, np.float32(3), np.zeros((0, 4), "f4")
        file["null"] = h5py.Empty("f4")
        for name, value in (("random", random), ("zeros", zeros)):
            file.create_dataset(f"a/{name}", data=value, compression="gzip", shuffle=True, fletcher32=True)
        # Noise does not deflate; HDF5 then stores the chunk as it is.
        file.create_dataset("b/noise", data=noise, chunks=(64,), compression="gzip")
        file.create_dataset("b/part", (1000,), "f4", chunks=(10,), compression="gzip")[:25] = 1
        file["b/text"] = ["ä", "b"]
        file["soft"], file["dangling"] = h5py.SoftLink("/a/random"), h5py.SoftLink("/nowhere")
        file["a/round"], file["round"] = h5py.SoftLink("/round"), h5py.SoftLink("/a/round")  # a cycle of soft links
        file["a/up"] = file["a"]  # and one of hard links
        file["type"] = np.dtype("f4")
    found = read(tmp_path / "w.h5")
    np.testing.assert_array_equal(found["plain"], random)
    np.testing.assert_array_equal(found["a/random"], random)
    np.testing.assert_array_equal(found["a/zeros"], zeros)
    np.testing.assert_array_equal(found["b/noise"], noise)
    assert found["b/part"].sum() == 25
    with hdf5.opened(tmp_path / "w.h5", MOST) as file:
        np.testing.assert_array_equal(file["soft"][()], random)


def test_more_entries_than_a_model_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_MAX_LINKS", 50)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for i in range(60):
            file.create_group(f"{i}")
    with pytest.raises(ValueError, match="w.h5 has more than 50 entries"):
        read(tmp_path / "w.h5")


def test_a_link_of_unknown_kind_is_refused(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w", libver="latest") as file:
        file["x"] = h5py.ExternalLink("secret.h5", "/x")
    content = bytearray((tmp_path / "v.h5").read_bytes())
    # In a link message the type (64: external) follows version and flags; 65 and above are of plugins.
    at = content.index(b"\x01\x08\x40")
    content[at + 2] = 70
    (tmp_path / "v.h5").write_bytes(content)
    with pytest.raises(ValueError, match="v.h5"):
        read(tmp_path / "v.h5")


def test_damage_anywhere_is_an_error_of_one_line(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for i in range(4):
            file.create_dataset(f"layers/{i}/vars/0", data=np.arange(100, dtype="f4"), compression="gzip")
    content = (tmp_path / "w.h5").read_bytes()
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(0, len(damaged), 20):
            damaged[at] = rng.integers(256)
        (tmp_path / "d.h5").write_bytes(damaged)
        try:
            with hdf5.opened(tmp_path / "d.h5", MOST):
                pass
        except ValueError as error:
            found.add(str(error))  # any other exception would be a traceback
    assert len(found) > 3
    assert all("d.h5" in message for message in found)


# ----------------------------------------------------------------------------------------- .keras


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config.json": b"{}"}, "without readable model.weights.h5 .*save_weights"),
        ({"model.weights.h5": b"no HDF5"}, "is not a readable HDF5 file"),
        ({"model.weights.h5": bytes(65 << 20)}, "declares more than 65 MiB of values; expected at most 64 MiB"),
    ],
)
def test_an_archive_without_sound_weights_is_named(tmp_path, members, message):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=f"m.keras .*{message}|m.keras {message}"):
        read(tmp_path / "m.keras")


def test_an_archive_cut_off_or_damaged_is_named(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["x"] = np.arange(1000)
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    content = (tmp_path / "m.keras").read_bytes()
    assert read(tmp_path / "m.keras")["x"].sum() == 499500
    damaged = bytearray(content)
    damaged[200] ^= 255
    for wrong in (bytes(damaged), content[: len(content) // 2], b""):
        (tmp_path / "m.keras").write_bytes(wrong)
        with pytest.raises(ValueError, match="m.keras"):
            read(tmp_path / "m.keras")
