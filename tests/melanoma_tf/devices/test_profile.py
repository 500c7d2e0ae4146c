"""What follows from the devices: how images are warped, and what the settings for TPUs do."""

from __future__ import annotations

import pytest

from melanoma_tf.core import config
from melanoma_tf.devices.profile import DeviceProfile

V5E = "TPU v5 lite"


def settings(**changes):
    tpu = config.default().tpu
    tpu.update(changes)
    return tpu


@pytest.mark.parametrize(
    ("backend", "kind", "method"),
    [
        ("tensorflow", "cpu", "kernel"),
        ("tensorflow", "gpu", "gather"),
        ("jax", "cpu", "gather"),
        ("jax", "gpu", "gather"),
        ("tensorflow", "tpu", "matmul"),
        ("jax", "tpu", "matmul"),
    ],
)
@pytest.mark.parametrize("warp", ["matmul", "shears"])
def test_images_are_warped_as_the_device_does_best(backend, kind, method, warp):
    shears = (backend, kind, warp) == ("jax", "tpu", "shears")
    assert DeviceProfile(backend, kind).warp_method(settings(warp=warp)) == ("shears" if shears else method)


@pytest.mark.parametrize(
    ("generation", "method"), [("TPU v3", "matmul"), ("TPU v4", "matmul"), (V5E, "shears"), ("", "shears")]
)
def test_tpus_with_little_fast_memory_do_not_shear(generation, method):
    assert DeviceProfile("jax", "tpu", generation).warp_method(settings(warp="shears")) == method


@pytest.mark.parametrize(("kind", "expected"), [("cpu", "float32"), ("gpu", "float32"), ("tpu", "bfloat16")])
def test_only_tpus_round_what_they_resample(kind, expected):
    assert DeviceProfile("jax", kind).warp_dtype("bfloat16") == expected


@pytest.mark.parametrize(
    ("backend", "kind", "asked", "dtype", "expected"),
    [
        ("jax", "tpu", True, "bfloat16", True),
        ("jax", "tpu", False, "bfloat16", False),
        ("jax", "tpu", True, "float32", False),
        ("jax", "gpu", True, "bfloat16", False),
        ("tensorflow", "tpu", True, "bfloat16", False),
    ],
)
def test_layers_are_rewritten_where_asked_and_possible(backend, kind, asked, dtype, expected):
    assert DeviceProfile(backend, kind).tpu_rewrites(settings(rewrites=asked), dtype) == expected


@pytest.mark.parametrize(
    ("backend", "kind", "asked", "images", "expected"),
    [
        ("jax", "tpu", 0, 128, 1),
        ("jax", "tpu", 0, 64, 2),
        ("jax", "tpu", 0, 48, 2),
        ("jax", "tpu", 0, 8, 16),
        ("jax", "tpu", 0, 256, 1),
        ("jax", "tpu", 1, 8, 1),
        ("jax", "tpu", 4, 8, 4),
        ("jax", "gpu", 0, 8, 1),
        ("tensorflow", "tpu", 0, 8, 1),
        ("tensorflow", "cpu", 2, 8, 1),
    ],
)
@pytest.mark.parametrize("replicas", [1, 8])
def test_spatial_splits_fill_the_registers_of_a_tpu(backend, kind, asked, images, expected, replicas):
    profile = DeviceProfile(backend, kind, V5E, replicas)
    assert profile.spatial_splits(settings(spatial_splits=asked), images * replicas) == expected


def test_by_default_a_tpu_trains_the_plain_graph():
    profile = DeviceProfile("jax", "tpu", V5E)
    found = profile.tpu_rewrites(settings(), "bfloat16"), profile.spatial_splits(settings(), 8)
    assert (*found, profile.warp_method(settings())) == (False, 1, "matmul")
