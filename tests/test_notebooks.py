"""The notebooks, run from top to bottom as a user runs them, on made-up images."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pandas as pd
import pytest

from tests.support.process import REPOSITORY

pytestmark = pytest.mark.integration

NOTEBOOKS = ("kaggle", "colab_tpu")
COMPETITION = "siim-isic-melanoma-classification"
# A rehearsal as small as training allows: 12 images of as many patients held out, 3 or 4 of them malignant; 6 steps.
TINY = {
    "SIZE": "32",
    "SYNTHETIC": "--images=60 --patients=60 --prevalence=0.3 --min_size=32",
    "EPOCHS": "1",
    "TRAIN_FLAGS": "--config.warmup_epochs=0 --config.batch_size=8",
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)


def source(name: str, cell_id: str) -> str:
    return next(cell.source for cell in read(name).cells if cell.id == cell_id)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, away from the developer's ./data and ./runs, on a machine of no platform."""
    folder = tmp_path / "checkout"
    (folder / "notebooks").mkdir(parents=True)
    for name in ("tfrecord_tools", "melanoma_tf", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).symlink_to(REPOSITORY / name)
    for name in [name for name in os.environ if name.startswith(("MELANOMA_NOTEBOOK_", "COLAB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MELANOMA_NOTEBOOK_KAGGLE", str(tmp_path / "kaggle"))
    monkeypatch.chdir(folder / "notebooks")
    return folder


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a Jupyter kernel that is this very Python, whatever kernels the machine has."""
    folder = tmp_path / "jupyter" / "kernels" / "this-python"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "this Python", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter" / "runtime"))
    return folder.name


def run_cells(name: str, *cell_ids: str) -> dict[str, Any]:
    """The variables after these cells, run in this process."""
    variables: dict[str, Any] = {}
    for cell_id in cell_ids:
        exec(source(name, cell_id), variables)
    return variables


def output(executed: nbformat.NotebookNode, cell_id: str) -> str:
    """What a cell printed."""
    cell = next(cell for cell in executed.cells if cell.id == cell_id)
    return "".join(each.text for each in cell.outputs if each.output_type == "stream")


# ---------------------------------------------------------------------------------------- the whole notebook


@pytest.mark.parametrize("name", ["kaggle", pytest.param("colab_tpu", marks=pytest.mark.slow)])
def test_runs_from_top_to_bottom(name: str, checkout: Path, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in TINY.items():
        monkeypatch.setenv(f"MELANOMA_NOTEBOOK_{key}", value)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    executed = read(name)
    client = nbclient.NotebookClient(executed, timeout=600, kernel_name=kernel)
    client.execute(cwd=str(checkout / "notebooks"))

    work = checkout / "runs" / "notebook"
    submission = pd.read_csv(work / "submission.csv")
    asked = pd.read_csv(work / "synthetic" / "test.csv")
    assert list(submission.columns) == ["image_name", "target"]
    assert sorted(submission["image_name"]) == sorted(asked["image_name"])
    assert submission["target"].between(0, 1).all()
    assert len(pd.read_csv(work / "run" / "oof.csv")) == 12  # a fifth of 60
    assert "all sound, no leak" in output(executed, "verify")
    if name == "colab_tpu":
        assert "no TPU: looked for one" in output(executed, "tpu")
        assert "NOT ON A TPU" in output(executed, "tpu")


# ------------------------------------------------------------------------------------------- what is committed


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_valid_and_holds_no_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_the_notebooks_differ_in_settings_and_tpu_only() -> None:
    code = {name: {cell.id: cell.source for cell in read(name).cells if cell.cell_type == "code"} for name in NOTEBOOKS}
    kaggle, colab = code["kaggle"], code["colab_tpu"]
    assert {cell for cell in kaggle.keys() | colab.keys() if kaggle.get(cell) != colab.get(cell)} == {"settings", "tpu"}


# -------------------------------------------------------------------------------------------------- installing


def installed(platform: str, absent: set[str], monkeypatch: pytest.MonkeyPatch, run: Any = None) -> list[list[str]]:
    """The commands that the install cell runs on a platform that lacks the modules `absent`."""
    commands: list[list[str]] = []
    variables = run_cells("kaggle", "settings", "place")
    variables.update(PLATFORM=platform, run=run or (lambda *command: commands.append(list(command))))
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else real(name))
    exec(source("kaggle", "install"), variables)
    return commands


@pytest.mark.usefixtures("checkout")
def test_on_a_platform_the_package_is_compiled_and_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a copy, because attached inputs are read-only."""

    def pip(*command: str) -> None:
        assert not Path(command[-1]).is_relative_to(REPOSITORY)
        more = ["--no-deps", "--target", str(tmp_path / "site")]
        done = subprocess.run([sys.executable, "-m", *command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    installed("kaggle", set(), monkeypatch, pip)
    assert (tmp_path / "site/melanoma_tf/configs/default.py").is_file()
    if shutil.which("cc"):
        assert list((tmp_path / "site/tfrecord_tools/imaging").glob("_resample*.so"))


@pytest.mark.usefixtures("checkout")
def test_without_a_network_attached_wheels_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "kaggle/input/my-wheels/wheels/melanoma_tf-0.1.0-cp311-abi3-linux_x86_64.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    (command,) = installed("kaggle", set(), monkeypatch)
    assert command == ["pip", "install", "--quiet", "--no-index", f"--find-links={wheel.parent}", "melanoma-tf"]


@pytest.mark.usefixtures("checkout")
def test_a_tpu_machine_without_tensorflow_gets_it_beside_its_own_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"jax": "0.7.2", "jaxlib": "0.7.2", "numpy": "2.0.2"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    ((*_, package, jax, jaxlib, numpy),) = installed("colab", {"tensorflow"}, monkeypatch)
    assert package.endswith("[tpu]")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    assert [each.split(">")[0] for each in extras["tpu"]] == ["jax[tpu]", "tensorflow-cpu"]
    assert (jax, jaxlib, numpy) == ("jax==0.7.2", "jaxlib==0.7.2", "numpy==2.0.2")


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("module", ["tensorflow", "melanoma_tf"])
def test_locally_nothing_is_installed(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed("local", set(), monkeypatch) == []
    with pytest.raises(ModuleNotFoundError, match=f"lacks {module}. Run `make setup`"):
        installed("local", {module}, monkeypatch)


# ---------------------------------------------------------------------------------------------- finding things


@pytest.mark.parametrize("layout", ["", "competitions"])
def test_on_kaggle_it_uses_the_attached_competition(
    layout: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, competition = tmp_path / "kaggle/working", tmp_path / "kaggle/input" / layout / COMPETITION
    working.mkdir(parents=True)
    competition.mkdir(parents=True)
    (competition / "train.csv").touch()
    monkeypatch.setenv("COLAB_RELEASE_TAG", "as on Kaggle, whose machines are made from Colab's")
    found = run_cells("kaggle", "settings", "place", "data")
    assert found["PLATFORM"] == "kaggle"
    assert found["WORK"] == working
    assert found["data"] == competition
    assert (found["SIZE"], found["CONFIG"]) == (384, "default.py")


@pytest.mark.usefixtures("checkout")
def test_on_kaggle_attached_shards_need_no_images(tmp_path: Path) -> None:
    shards = tmp_path / "kaggle/input/my-earlier-notebook/tfrecords/384"
    for folder in (shards / "train", tmp_path / "kaggle/working"):
        folder.mkdir(parents=True)
    (shards / "train/manifest.json").touch()
    found = run_cells("kaggle", "settings", "place", "data")
    assert found["shards"] == shards
    assert found["data"] is None


def test_on_colab_it_works_in_the_current_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    found = run_cells("colab_tpu", "settings", "place")
    assert found["PLATFORM"] == "colab"
    assert found["WORK"] == checkout / "notebooks"


def test_elsewhere_it_finds_the_checkout_around_it(checkout: Path) -> None:
    found = run_cells("kaggle", "settings", "place")
    assert found["PLATFORM"] == "local"
    assert found["REPO"] == checkout
    assert found["WORK"] == checkout / "runs" / "notebook"


@pytest.mark.usefixtures("checkout")
def test_missing_code_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Set REPOSITORY in the first cell"):
        run_cells("kaggle", "settings", "place")


@pytest.mark.usefixtures("checkout")
def test_a_repository_that_cannot_be_cloned_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELANOMA_NOTEBOOK_REPOSITORY", "nowhere")
    with pytest.raises(RuntimeError, match="REPOSITORY='nowhere' is not a folder with the code; git clone failed: "):
        run_cells("kaggle", "settings", "place")


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("name", ["DATA", "SHARDS"])
def test_a_folder_that_was_named_but_is_not_there_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MELANOMA_NOTEBOOK_{name}", "nowhere")
    with pytest.raises(FileNotFoundError, match=f"{name}='nowhere' holds no"):
        run_cells("kaggle", "settings", "place", "data")


@pytest.mark.usefixtures("checkout")
def test_a_failing_command_stops_the_notebook_and_shows_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_cells("kaggle", "settings", "place")["run"]
    with pytest.raises(RuntimeError, match="tfrecord_tools.verify failed with exit code [1-9]"):
        run("tfrecord_tools.verify")
    assert "error: no folder given" in capsys.readouterr().out
