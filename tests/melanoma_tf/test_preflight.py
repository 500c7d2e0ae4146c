"""The real training step of a small model, compiled for TPUs that are not here."""

from __future__ import annotations

import importlib.util
import json

import pytest

from melanoma_tf import preflight
from melanoma_tf.augment import operations
from melanoma_tf.augment.warp import shears
from tests.support import tiny
from tests.support.process import run_command

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
]
# The tiny model's module imports Keras, so the backend has to be chosen before the command does.
JAX = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
TINY = tiny.TRAIN.replace("melanoma_tf import train; train.run()", "melanoma_tf import preflight; preflight.run()")
SMALL = ["--config", "configs/smoke.py", "--config.image_size=32", "--config.ema=0.99"]
REWRITTEN = ["--config.tpu.rewrites=True", "--config.tpu.spatial_splits=0", "--config.tpu.warp=shears"]
DEFAULT_AUGMENT = "--config.augment=flip|affine(rotate=180)|color(0.1)|cutout"


def test_the_tiny_model_compiles_for_eight_chips():
    done = run_command(
        "-c", TINY, *SMALL, *REWRITTEN, DEFAULT_AUGMENT, "--topology=v5e-8", "--batch=8", "--json", **JAX
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert (found["chips"], found["batch_per_chip"], found["spatial_splits"]) == (8, 8, 2)
    assert 0 < found["memory_used"] < 1e9
    assert found["memory_used"] + found["memory_free"] == pytest.approx(16e9)
    # Its stem alone: 16 x 16 x 32 outputs of 3 x 3 x 3 products, forward and twice as much backward.
    assert found["gflop"] > 3 * 2 * 16 * 16 * 32 * 27 / 1e9
    assert 1000 < found["expected_images_per_s"] < found["images_per_s"]
    # Images come as bytes, and what the stem makes of them is small enough for the fast memory.
    assert 3 * 32 * 32 / 1e6 < found["megabytes"] < found["counted_megabytes"]
    assert "compiling efficientnet-b0 at 32 px for v5e-8, 8 images a chip" in done.stderr


@pytest.mark.parametrize(
    ("topology", "size"),
    [
        pytest.param("v4-8", 300, marks=pytest.mark.slow),  # B3's own size
        pytest.param("v5e-1", 528, marks=pytest.mark.slow),  # B6's
        pytest.param("v5e-1", shears.LARGEST, marks=pytest.mark.slow),
        pytest.param("v5e-1", shears.LARGEST + 32, marks=pytest.mark.slow),
    ],
)
def test_images_of_any_size_are_turned_on_a_chip(topology, size):
    turned = [
        *REWRITTEN,
        "--config.augment=affine(rotate=180)",
        f"--config.image_size={size}",
        f"--topology={topology}",
    ]
    done = run_command("-c", TINY, *SMALL, *turned, "--batch=8", "--json", **JAX)
    assert done.returncode == 0, done.stderr[-2000:]
    # As XLA counts, the small model alone moves 400 MB of an image of 384 px. Weights of a product that are stored
    # would be another 1,200, pixels that are gathered 9,800.
    assert json.loads(done.stdout)["counted_megabytes"] < 1000 * (size / 384) ** 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--topology=v9-8"], "--topology 'v9-8': unknown topology. Expected one of: v3-8, "),
        (["--topology=v2:2x2"], "--topology 'v2:2x2': no figures for 'v2'; expected one of: v3, v4, v5e, v5p, v6e"),
        (
            ["--topology=v5litepod-8", "--config.batch_size=100"],
            "config.batch_size=100 is global and not divisible by 8 chips",
        ),
        pytest.param(
            ["--topology=v5e:2x2", "--batch=4000000"], "v5e:2x2, 4000000 images a chip: ", marks=pytest.mark.slow
        ),
    ],
)
def test_what_does_not_compile_says_why(args, message):
    done = run_command("-c", TINY, *SMALL, *args, **JAX)
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_topology_that_is_named_is_known_to_libtpu():
    code = (
        "from melanoma_tf import preflight; preflight.prepare('auto'); "
        "print(*[len(preflight.topology_devices(name)) for name in preflight.TOPOLOGIES])"
    )
    done = run_command("-c", code)
    assert "TPU_" not in done.stderr  # libtpu complaining about a machine without TPUs
    assert done.stdout.split() == ["8", "8", "1", "4", "8", "16", "4", "1", "4", "8", "16"], done.stderr[-2000:]


@pytest.mark.parametrize("fits", [8, 9, 100, 333])
def test_the_largest_batch_that_fits_is_found(monkeypatch, fits):
    def examine(config, topology, devices, batch):
        tried.append(batch)
        if batch > fits:
            raise preflight.PreflightError("too large")
        # More than a straight line, as padding makes it.
        used = 1e9 + 4e7 * batch + 2e4 * batch**2
        return preflight.Finding("v5e-8", 8, batch, 1, used, 16e9 - used, 1.0, 1.0, 1.0, 1.0, "memory", 1.0, 1.0)

    tried: list[int] = []
    monkeypatch.setattr(preflight, "examine", examine)
    assert preflight.find_batch(None, "v5e-8", [], 64).batch_per_chip == fits // 8 * 8
    assert len(tried) <= 8


def test_not_even_eight_is_reported(monkeypatch):
    def examine(*args):
        raise preflight.PreflightError("needs 20 of 16 GB")

    monkeypatch.setattr(preflight, "examine", examine)
    with pytest.raises(preflight.PreflightError, match="needs 20 of 16 GB"):
        preflight.find_batch(None, "v5e-8", [], 64)


@pytest.mark.slow
def test_every_operation_and_ready_policy_compiles():
    code = (
        "from melanoma_tf import preflight; preflight.prepare('float32'); import jax; from melanoma_tf import sheet; "
        "from melanoma_tf.augment import policy; "
        "on = jax.sharding.SingleDeviceSharding(preflight.topology_devices('v5e-1')[0]); "
        "given = [jax.ShapeDtypeStruct(s, d, sharding=on) for s, d in (((8, 96, 96, 3), 'uint8'), ((8,), 'uint32'))]; "
        "make = lambda text, way: policy.Augment(text, way, dtype='float32'); ways = ('shears', 'matmul'); "
        "run = lambda layer: jax.jit(lambda x, s: layer(x, s, training=True), out_shardings=on); "
        "done = [run(make(text, way)).lower(*given).compile() for text in sheet.EVERY for way in ways]; "
        "print(len(done), len(sheet.EVERY))"
    )
    done = run_command("-c", code, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr[-2000:]
    compiled, texts = map(int, done.stdout.split())
    assert compiled == 2 * texts >= 2 * len(operations.OPS)


@pytest.mark.slow
def test_b0_at_384_with_batch_64_is_known_before_anything_is_paid():
    args = [
        "--config.model=efficientnet-b0",
        "--config.image_size=384",
        "--config.optimizer=adamw",
        "--config.ema=0.999",
        *REWRITTEN,
    ]
    done = run_command("-m", "melanoma_tf.preflight", "--topology=v5e-8", "--batch=64", "--json", *args)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    # Plain Keras without augmentation has been measured at 8.5 GFLOP, 552 MB (863 counted) and 3.9 GB; the compiler
    # expects 3,715 images/s of it.
    assert 8 < found["gflop"] < 23  # products with zeros included
    assert 200 < found["megabytes"] < 310
    assert 500 < found["counted_megabytes"] < 635
    assert found["expected_images_per_s"] > 1.7 * 3715
    assert found["memory_used"] < 6e9


@pytest.mark.parametrize(
    ("batch", "splits", "hinted"),
    [(64, 1, True), (64, 2, False), (48, 2, True), (128, 1, False), (192, 1, True), (256, 1, False)],
)
def test_a_batch_that_leaves_lanes_empty_is_hinted_at(batch, splits, hinted):
    found = preflight.Finding(
        "v5e-8", 8, batch, splits, 4e9, 12e9, 12.7, 327.0, 639.0, 20055.0, "memory", 5640.0, 146.0
    )
    assert ("give a chip 128 images or a multiple" in found.text()) == hinted


@pytest.mark.slow
def test_spatial_splits_move_less_where_a_chip_has_few():
    found = {}
    for splits in ("1", "0"):
        code = TINY.replace("backbones.build", "tiny.LAST_LAYER = 'block3a_project_bn'; backbones.build", 1)
        done = run_command(
            "-c", code, *SMALL, "--config.image_size=128", f"--config.tpu.spatial_splits={splits}",
            "--config.augment=flip", "--topology=v5e-1", "--batch=64", "--json", **JAX,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found[splits] = json.loads(done.stdout)["megabytes"]
    assert found["0"] < 0.85 * found["1"]
