"""The wheel, installed with plain pip beside the packages of Colab, of Kaggle, and of our lower bounds."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from tests.support.process import REPOSITORY, run_command

PLATFORMS = {"colab": "3.13", "kaggle_tpu": "3.12", "oldest": "3.11"}
PINS = REPOSITORY / "tests" / "platforms"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DAMAGED, IMAGES, ZEROED = 5, 60, 600
# What a machine without a compiler gets must be what the wheel's own resampler gives.
RESAMPLED_ALIKE = """
import numpy as np
from tfrecord_tools.imaging import _resample, resample
assert _resample.__file__.endswith("_resample.abi3.so"), _resample.__file__
pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
compiled = resample.resample(pixels, (3.0, 2.0, 80.0, 60.0), 32, 24)
resample._resample = None
assert np.array_equal(compiled, resample.resample(pixels, (3.0, 2.0, 80.0, 60.0), 32, 24))
"""


def run(*command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user does who has no checkout and set no variable."""
    kept = {key: os.environ[key] for key in os.environ if not key.startswith(("PYTHON", "TF_", "KERAS_", "MELANOMA_"))}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**kept, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done


def python_of(version: str) -> Path | None:
    """A working Python of a version: of pyenv, or on PATH."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    names = [*map(str, sorted(root.glob(f"versions/{version}.*/bin/python"))), shutil.which(f"python{version}") or ""]
    for name in filter(None, names):
        done = subprocess.run([name, "-c", "import venv, ensurepip"], capture_output=True, check=False)
        if not done.returncode:
            return Path(name)
    return None


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist and the wheel that is made of it."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, REPOSITORY, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    return next(distributions.glob("*.whl"))


def packages(binaries: Path) -> dict[str, str]:
    """Version of each installed package."""
    listed = run(binaries / "python", "-m", "pip", "list", "--format=json", cwd=binaries).stdout
    return {each["name"].lower(): each["version"] for each in json.loads(listed)}


@pytest.fixture(scope="module", params=list(PLATFORMS))
def platform(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of a platform after `pip install WHEEL`, which replaced none of its packages."""
    python = python_of(PLATFORMS[request.param])
    if python is None:
        pytest.skip(f"no Python {PLATFORMS[request.param]}")
    folder = tmp_path_factory.mktemp(request.param)
    run(python, "-m", "venv", folder / "venv", cwd=folder)
    binaries = folder / "venv" / "bin"
    pip: list[str | Path] = [binaries / "python", "-m", "pip", "install", "--quiet"]
    run(*pip, "-r", PINS / f"{request.param}.txt", cwd=folder)
    before = packages(binaries)
    run(*pip, wheel, cwd=folder)
    after = packages(binaries)
    assert {name: after.get(name) for name in before} == before
    assert "melanoma-tf" in after.keys() - before.keys()
    assert len([name for name in after if name.startswith("tensorflow")]) <= 2  # and its file system plugin
    return binaries


@pytest.mark.slow
def test_every_command_runs_from_outside_the_checkout(platform: Path, tmp_path: Path) -> None:
    for name in PROJECT["scripts"]:
        assert "--help" in run(platform / name, "--help", cwd=tmp_path).stdout
    small = ["--images=60", "--patients=60", "--prevalence=0.3", "--min_size=32"]
    run(platform / "melanoma-synthetic", "--out=data", *small, cwd=tmp_path)
    images = ["--csv=data/train.csv", "--images=data/jpeg/train", "--out=shards"]
    run(platform / "melanoma-build", "--size=32", *images, cwd=tmp_path)
    assert "all sound, no leak" in run(platform / "melanoma-verify", "shards", cwd=tmp_path).stdout
    run(platform / "melanoma-show", "shards", "--out=page.html", cwd=tmp_path)
    tiny = [f"--config.{each}" for each in ("image_size=32", "batch_size=16", "epochs=1", "warmup_epochs=0.0")]
    cpu = "--strategy=cpu"
    run(platform / "melanoma-train", "--config=smoke", *tiny, "--data=shards", "--workdir=run", cpu, cwd=tmp_path)
    assert "AUC" in run(platform / "melanoma-evaluate", "--workdir=run", cwd=tmp_path).stdout
    run(platform / "melanoma-predict", "--workdir=run", "--data=shards", "--out=out.csv", cpu, cwd=tmp_path)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert all(0 <= float(row["target"]) <= 1 for row in rows)


@pytest.mark.slow
def test_the_compiled_resampler_gives_the_bits_of_numpy(platform: Path, tmp_path: Path) -> None:
    run(platform / "python", "-c", RESAMPLED_ALIKE, cwd=tmp_path)


@pytest.fixture(scope="module")
def damaged(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 real JPEGs with their table, of which 5 have 600 zero bytes in the middle."""
    folder = tmp_path_factory.mktemp("damaged")
    with (real_data / "isic2020_512" / "train.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    chosen = rows[::7][:IMAGES]
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *chosen])
    for number, row in enumerate(chosen):
        data = bytearray((real_data / "isic2020_512" / "jpeg" / f"{row[0]}.jpg").read_bytes())
        if number % (IMAGES // DAMAGED) == 0:
            data[len(data) // 2 : len(data) // 2 + ZEROED] = bytes(ZEROED)
        (folder / f"{row[0]}.jpg").write_bytes(data)
    return folder


def arguments(damaged: Path, out: Path) -> list[str]:
    where = [f"--csv={damaged}/train.csv", f"--images={damaged}", f"--out={out}"]
    return [*where, "--size=64", "--workers=1", "--allow_quarantine"]


@pytest.fixture(scope="module")
def quarantined_here(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """quarantine.csv of a build by this Python, of this repository."""
    out = tmp_path_factory.mktemp("here") / "out"
    done = run_command("-m", "tfrecord_tools.build", *arguments(damaged, out))
    assert done.returncode == 0, done.stderr
    return (out / "quarantine.csv").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_same_images_are_quarantined_everywhere(
    platform: Path, damaged: Path, quarantined_here: str, tmp_path: Path
) -> None:
    assert 1 <= len(list(csv.DictReader(quarantined_here.splitlines()))) <= DAMAGED
    run(platform / "melanoma-build", *arguments(damaged, tmp_path / "out"), cwd=tmp_path)
    assert (tmp_path / "out" / "quarantine.csv").read_text(encoding="utf-8") == quarantined_here


# ------------------------------------------------------------------------------------------- what is published


@pytest.mark.slow
def test_one_wheel_serves_all_pythons(wheel: Path) -> None:
    assert re.fullmatch(r"melanoma_tf-[0-9.]+-cp311-abi3-\w+\.whl", wheel.name)


@pytest.mark.slow
def test_the_sdist_holds_what_the_repository_does(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout
    assert {"Makefile", "docs/architecture.md", "notebooks/kaggle.ipynb", "tests/test_platforms.py"} <= held
    assert {name for name in tracked.split() if name not in held} <= {".gitignore", ".gitattributes"}


def test_no_dependency_brings_a_tensorflow() -> None:
    names = {re.split("[<>=;[]", each)[0] for each in PROJECT["dependencies"]}
    assert not [name for name in names if name.startswith(("tensorflow", "jax", "tf-"))]
    bringing = {extra for extra, asked in PROJECT["optional-dependencies"].items() if "tensorflow" in " ".join(asked)}
    assert {"tensorflow", "cpu", "gpu", "tpu", "dev"} <= bringing


def test_the_oldest_platform_is_the_lower_bounds() -> None:
    """So that no bound says more than was tried."""
    pins = dict(line.split("==") for line in (PINS / "oldest.txt").read_text().splitlines() if "==" in line)
    bounds = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"][:1]]
    for each in bounds:
        name, bound = re.split(">=|[,;]", each)[:2]
        assert (pins[name] + ".0").startswith(bound + "."), name


# --------------------------------------------------------------------------------------- without a TensorFlow

WITHOUT = """
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "jax"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
importlib.import_module(sys.argv[0]).run()
"""


def without(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m COMMAND` where neither TensorFlow nor JAX is installed."""
    return run_command("-c", WITHOUT, *command)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (["melanoma_tf.sheet", "--data=DATA", "--out=OUT/sheet.png"], "melanoma-tf[tensorflow]"),
        (["melanoma_tf.train", "--data=DATA", "--workdir=OUT/run", "--strategy=cpu"], "melanoma-tf[tensorflow]"),
        (["melanoma_tf.train", "--data=DATA", "--workdir=OUT/run", "--backend=jax"], "melanoma-tf[tpu]"),
        (["melanoma_tf.preflight", "--topology=v5e-8"], "melanoma-tf[tpu]"),
        (["tfrecord_tools.verify", "gs://nowhere/build"], "melanoma-tf[tensorflow]"),
    ],
)
def test_a_command_that_needs_what_is_not_installed_names_the_extra(
    command: list[str], remedy: str, shards: Path, tmp_path: Path
) -> None:
    done = without(*(word.replace("DATA", str(shards)).replace("OUT", str(tmp_path)) for word in command))
    assert done.returncode == 1
    assert f"pip install '{remedy}'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.integration
def test_building_needs_no_tensorflow(data: Path, tmp_path: Path) -> None:
    images = [f"--csv={data}/train.csv", f"--images={data}/jpeg/train", f"--out={tmp_path}/out"]
    for command in (
        ["tfrecord_tools.build", "--size=32", "--workers=1", *images],
        ["tfrecord_tools.verify", f"{tmp_path}/out"],
        ["tfrecord_tools.show", f"{tmp_path}/out", f"--out={tmp_path}/page.html"],
    ):
        done = without(*command)
        assert done.returncode == 0, done.stderr
