"""Files of PyTorch's old format, written here by hand: what is read, and what is refused."""

from __future__ import annotations

import collections
import io
import pickle
import re
import struct
import sys
import tracemalloc
import types

import numpy as np
import pytest

from melanoma_tf.models import torch_state

MAGIC, PROTOCOL, SYSTEM = 0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}


class Storage:
    """What a tensor's pickle names by its key."""

    def __init__(self, key, kind, count):
        self.pid = ("storage", kind, key, "cpu", count, None)


class Tensor:
    """Pickled as PyTorch pickles a tensor."""

    def __init__(self, storage, offset, shape, strides):
        self.arguments: tuple = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return vars(sys.modules["torch._utils"])["_rebuild_tensor_v2"], self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


@pytest.fixture
def kinds(monkeypatch):
    """Stand-ins for the globals of PyTorch that a pickler has to find."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "HalfStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2():
        raise AssertionError("nothing is called while a pickle is written")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    vars(utils)["_rebuild_tensor_v2"] = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def write(path, state, storages, magic=MAGIC):
    out = io.BytesIO()
    for part in (magic, PROTOCOL, SYSTEM, state, list(storages)):
        Pickler(out, 2).dump(part)
    for values in storages.values():
        out.write(struct.pack("<q", len(values)) + values.tobytes())
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture
def good(kinds, tmp_path):
    """A transposed matrix, a part of the same storage, and a counter."""
    numbers, counter = np.arange(6, dtype="<f4"), np.array([7], "<i8")
    floats, whole = Storage("1", kinds.FloatStorage, 6), Storage("2", kinds.LongStorage, 1)
    state = collections.OrderedDict(
        matrix=Tensor(floats, 0, (2, 3), (1, 2)), part=Tensor(floats, 2, (3,), (1,)), count=Tensor(whole, 0, (), ())
    )
    vars(state)["_metadata"] = collections.OrderedDict({"": {"version": 1}})  # as PyTorch's modules add it
    return write(tmp_path / "good.pth", state, {"2": counter, "1": numbers})


def test_strided_tensors_and_parts_of_storages_are_read(good):
    found = torch_state.read(good)
    np.testing.assert_array_equal(found["matrix"], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(found["part"], [2, 3, 4])
    assert found["count"] == 7
    assert [value.dtype for value in found.values()] == [np.float32, np.float32, np.int64]


class Hostile:
    def __init__(self, called, *arguments):
        self.called, self.arguments = called, arguments

    def __reduce__(self):
        return self.called, self.arguments


def test_a_pickle_that_calls_something_is_refused_by_the_name_of_it(kinds, tmp_path):
    import os

    for called, name in ((os.system, rf"{os.system.__module__}\.system"), (eval, r"builtins\.eval|__builtin__\.eval")):
        path = write(tmp_path / "hostile.pth", {"x": Hostile(called, f"touch {tmp_path}/ran")}, {})
        with pytest.raises(ValueError, match=f"it names ({name}), expected tensors only"):
            torch_state.read(path)
    assert not (tmp_path / "ran").exists()


def test_any_of_the_pickles_may_be_the_hostile_one(kinds, tmp_path):
    path = write(tmp_path / "hostile.pth", {}, {}, magic=Hostile(print, "x"))
    with pytest.raises(ValueError, match=r"names (builtins|__builtin__)\.print"):
        torch_state.read(path)


def test_a_file_cut_off_anywhere_is_refused(good):
    content = good.read_bytes()
    for length in range(len(content)):
        good.write_bytes(content[:length])
        with pytest.raises(ValueError, match=re.escape(str(good))):
            torch_state.read(good)
    good.write_bytes(content + b"x")
    with pytest.raises(ValueError, match="1 bytes after the last storage"):
        torch_state.read(good)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "count", "message"),
    [
        (0, (7,), (1,), 6, "reaches beyond its storage of 6 values"),
        (1, (6,), (1,), 6, "reaches beyond"),
        (0, (2, 3), (3, 2), 6, "reaches beyond"),
        (0, (1 << 40,), (0,), 6, "its tensors have 4398046511104 bytes"),  # one value, repeated
        (0, (0,), (1,), 6, "reaches beyond"),
        (-1, (2,), (1,), 6, "-1 where a number of values is expected"),
        (0, (2,), (-1,), 6, "-1 where a number"),
        (0, ("2",), (1,), 6, "'2' where a number"),
        (0, (2,), (1, 1), 6, "good.pth"),
        (0, (6,), (1,), 7, "storage 1 has 6 values, expected 7"),
        (0, (6,), (1,), 1 << 50, "storage 1 has 6 values"),
        (0, (1,), (1 << 61,), 6, "good.pth is not a state dict"),
    ],
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(kinds, tmp_path, offset, shape, strides, count, message):
    state = {"x": Tensor(Storage("1", kinds.FloatStorage, count), offset, shape, strides)}
    path = write(tmp_path / "good.pth", state, {"1": np.arange(6, dtype="<f4")})
    with pytest.raises(ValueError, match=message):
        torch_state.read(path)


def test_a_count_that_the_file_cannot_hold_takes_no_memory(kinds, tmp_path):
    state = {"x": Tensor(Storage("1", kinds.FloatStorage, 1 << 50), 0, (1 << 50,), (1,))}
    path = write(tmp_path / "long.pth", state, {"1": np.zeros(0, "<f4")})
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<q", 1 << 50))
    with pytest.raises(ValueError, match="expected 1125899906842624 in 0 bytes"):
        torch_state.read(path)


def test_a_storage_is_not_copied_again_and_again(kinds, tmp_path):
    one = Tensor(Storage("1", kinds.FloatStorage, 1 << 18), 0, (1 << 18,), (1,))
    path = write(tmp_path / "many.pth", {f"x{i}": one for i in range(100)}, {"1": np.zeros(1 << 18, "<f4")})
    tracemalloc.start()
    with pytest.raises(ValueError, match="its tensors have 104857600 bytes, more than the 10"):
        torch_state.read(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def nested(levels):
    """Pickle of a tuple of twice the same tuple of twice the same tuple, and so on."""
    return b"\x80\x02)" + b"2\x86" * levels + b"."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02Nr" + struct.pack("<I", 1 << 30) + b".", "index 1073741824 of a pickle in a file of 9 bytes"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", "hostile.pth"),
        (b"\x80\x04\x8e" + struct.pack("<Q", (1 << 63) + 1) + b".", "hostile.pth"),
        (nested(60) + pickle.dumps(1, 2) + pickle.dumps({"little_endian": True}, 2) + pickle.dumps({}, 2) * 2, "magic"),
    ],
)
def test_hostile_pickles_take_neither_memory_nor_time(tmp_path, content, message):
    (tmp_path / "hostile.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        torch_state.read(tmp_path / "hostile.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"PK\x03\x04", "format before 1.6, or damaged"),
        (pickle.dumps(5) * 5, "PyTorch's format"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        torch_state.read(tmp_path / "x.pth")


def test_other_dtypes_and_other_values_are_refused(kinds, tmp_path):
    half = {"x": Tensor(Storage("1", kinds.HalfStorage, 1), 0, (1,), (1,))}
    with pytest.raises(ValueError, match=r"it names torch\.HalfStorage"):
        torch_state.read(write(tmp_path / "half.pth", half, {"1": np.zeros(1, "<f2")}))
    with pytest.raises(ValueError, match="damaged"):
        torch_state.read(write(tmp_path / "text.pth", {"x": "no tensor"}, {}))
    with pytest.raises(ValueError, match=r"magic number 5"):
        torch_state.read(write(tmp_path / "magic.pth", {}, {}, magic=5))
