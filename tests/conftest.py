"""What tests share. TensorFlow is imported once per process, with two virtual CPU devices for MirroredStrategy."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import pytest

from tests.support.process import run_command

TINY_PX = 32


def pytest_configure(config: pytest.Config) -> None:
    cache = tempfile.TemporaryDirectory(prefix="cache-of-tests-")  # instead of the user's
    config.add_cleanup(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name
    # Processes that compile the same program with JAX do it once; workers of pytest-xdist inherit the folder.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{cache.name}/jax")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images and tables, where the machine has them."""
    folder = os.environ.get("MELANOMA_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MELANOMA_DATA names no folder with real data")
    return Path(folder)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in ISIC 2020's form: train.csv, test.csv, jpeg/."""
    folder = tmp_path_factory.mktemp("synthetic")
    args = ["--images", "90", "--patients", "30", "--prevalence", "0.3"]
    done = run_command("-m", "tfrecord_tools.synthetic", "--out", str(folder / "data"), *args)
    assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller one, for tests that build it themselves: 48 training and 7 test images of 24 patients."""
    from tfrecord_tools import synthetic as module

    folder = tmp_path_factory.mktemp("build") / "data"
    module.generate(module.SyntheticSettings(str(folder), 48, 24, prevalence=0.25, min_size=200))
    return folder


@pytest.fixture(scope="session")
def shards(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set as a build of 32 px: 5 folds of one shard each."""
    out = tmp_path_factory.mktemp("shards") / "build"
    where = ["--csv", str(synthetic / "train.csv"), "--images", str(synthetic / "jpeg/train"), "--out", str(out)]
    done = run_command("-m", "tfrecord_tools.build", "--size", str(TINY_PX), "--shards", "5", "--workers", "1", *where)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted build of it with one worker."""
    from tests.support.builds import settings
    from tfrecord_tools import build

    out = tmp_path_factory.mktemp("finished") / "out"
    build.build(settings(data, out))
    return out


@pytest.fixture(scope="session")
def finished_test(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of its test set."""
    from tests.support.builds import replaced, settings
    from tfrecord_tools import build

    out = tmp_path_factory.mktemp("finished_test") / "out"
    build.build(replaced(settings(data, out), csv=str(data / "test.csv"), images=str(data / "jpeg/test")))
    return out
