import csv
import json
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tfrecord_tools import synthetic
from tfrecord_tools.metadata import table

SETTINGS: dict[str, Any] = {"images": 60, "patients": 20, "prevalence": 0.25, "min_size": 48}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "data"
    assert synthetic.generate(synthetic.SyntheticSettings(str(out), **SETTINGS))
    return out


def test_the_tables_pass_the_checks_of_the_real_ones(folder):
    train, test = (table.read_table(folder / f"{name}.csv", name == "train") for name in ("train", "test"))
    assert (len(train), train["patient"].nunique(), train["target"].sum()) == (60, 20, 15)
    assert (len(test), test["patient"].nunique()) == (9, 3)
    assert not set(train["patient"]) & set(test["patient"])
    assert not set(train["image_name"]) & set(test["image_name"])
    assert set(train.loc[train["target"] == 1, "diagnosis"]) == {2}


def test_the_columns_are_those_of_isic_2020(folder):
    with (folder / "train.csv").open() as file:
        row = next(csv.DictReader(file))
    assert list(row) == [
        "image_name",
        "patient_id",
        "sex",
        "age_approx",
        "anatom_site_general_challenge",
        "diagnosis",
        "benign_malignant",
        "target",
    ]
    assert row["image_name"].startswith("ISIC_")
    assert len(row["image_name"]) == len("ISIC_2637011")
    assert len(row["patient_id"]) == len("IP_7279968")


def test_every_row_has_an_image_of_one_of_several_shapes(folder):
    for split, count in (("train", 60), ("test", 9)):
        sizes = [Image.open(path).size for path in (folder / "jpeg" / split).iterdir()]
        assert len(sizes) == count
        assert min(map(min, sizes)) >= 48
    assert len({round(width / height, 1) for width, height in sizes}) > 1


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    synthetic.generate(synthetic.SyntheticSettings(str(again), **SETTINGS))
    synthetic.generate(synthetic.SyntheticSettings(str(other), seed=1, images=1, patients=1, min_size=32))
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*.*"))]
    assert len(files) == 60 + 9 + 3
    assert all((again / path).read_bytes() == (folder / path).read_bytes() for path in files)
    names = [(made / "train.csv").read_text().splitlines()[1].split(",")[0] for made in (folder, other)]
    assert names[0] != names[1]


def test_malignant_lesions_have_more_colors():
    """The spread of color in the middle, which a network can learn, separates the classes, but not perfectly."""
    settings = synthetic.SyntheticSettings(min_size=64)
    spread: dict[int, list[float]] = {0: [], 1: []}
    for index in range(80):
        row = {"image_name": f"ISIC_{1000000 + index}", "patient_id": "IP_1000000", "target": index % 2}
        pixels = synthetic._image(row, settings).astype(float)
        height, width = pixels.shape[:2]
        middle = pixels[height // 4 : -height // 4, width // 4 : -width // 4]
        spread[index % 2].append(np.ptp(middle[..., 0] - middle[..., 2]))
    pairs = np.subtract.outer(spread[1], spread[0])
    assert 0.55 < np.mean(pairs > 0) < 0.97  # the AUC of this one number


def test_a_second_call_with_the_same_settings_does_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not synthetic.generate(synthetic.SyntheticSettings(str(folder), **SETTINGS))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_real_data_are_never_overwritten(tmp_path):
    (tmp_path / "train.csv").write_text("real")
    for overwrite in (False, True):
        with pytest.raises(synthetic.SyntheticError, match="refusing to overwrite .*: not written by"):
            synthetic.generate(synthetic.SyntheticSettings(str(tmp_path), **SETTINGS), overwrite)
    assert (tmp_path / "train.csv").read_text() == "real"


def test_another_synthetic_set_is_replaced_only_if_asked(tmp_path):
    small: dict[str, Any] = {"images": 4, "patients": 2, "min_size": 32}
    synthetic.generate(synthetic.SyntheticSettings(str(tmp_path), **small))
    other = synthetic.SyntheticSettings(str(tmp_path), seed=5, **small)
    with pytest.raises(synthetic.SyntheticError, match="holds another synthetic data set"):
        synthetic.generate(other)
    assert synthetic.generate(other, overwrite=True)
    assert json.loads((tmp_path / "synthetic.json").read_text())["seed"] == 5
    assert len(list((tmp_path / "jpeg" / "train").iterdir())) == 4


def test_what_to_do_next_can_be_pasted_into_a_shell(tmp_path):
    command = [sys.executable, "-m", "tfrecord_tools.synthetic", "--out", str(tmp_path / "my data"), "--images=1"]
    done = subprocess.run([*command, "--patients=1", "--min_size=32"], capture_output=True, text=True)
    _, _, following = done.stdout.partition("next: ")
    where = ["--csv", f"{tmp_path}/my data/train.csv", "--images", f"{tmp_path}/my data/jpeg/train"]
    assert shlex.split(following)[-4:] == where


def test_the_command_names_a_bad_value(tmp_path):
    command = [sys.executable, "-m", "tfrecord_tools.synthetic", "--out", str(tmp_path / "x"), "--images=5"]
    done = subprocess.run([*command, "--patients=9"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: 5 images of 9 patients; expected 1 <= patients <= images <= 1000000\n"
    assert not (tmp_path / "x").exists()
