"""The folder of a run: one writer at a time, no leftovers, names that spreadsheets do not run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys

import pandas as pd
import pytest

from melanoma_tf import evaluate
from melanoma_tf.core import config, files
from melanoma_tf.training import run_dir
from tests.support import tiny
from tests.support.process import REPOSITORY, run_command, wait_for
from tests.support.tiny import SMOKE


def train(*args):
    command = [sys.executable, "-c", tiny.TRAIN, *SMOKE, *map(str, args)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.integration
@pytest.mark.slow
def test_a_second_run_ends_in_a_line_and_a_killed_one_leaves_nothing(shards, tmp_path):
    work = tmp_path / "run"
    where = ["--data", shards, "--workdir", work]
    first = train(*where, "--config.epochs=200", "--config.checkpoint_every=1")
    wait_for(lambda: (work / "fold0/checkpoints/LAST").exists() or first.poll() is not None)
    assert first.poll() is None
    second = run_command("-c", tiny.TRAIN, *SMOKE, *map(str, where), "--overwrite")
    assert second.returncode == 1
    line = second.stderr.splitlines()[-1]
    assert line.startswith(f"error: --workdir {work}: another run is writing there (process {first.pid} on ")
    assert socket.gethostname() in line
    assert first.poll() is None
    # Killed again and again, until a kill has left a file or folder behind.
    for _ in range(20):
        wait_for(lambda: any(work.glob("fold0/checkpoints/.step-*")))
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        if left := list(work.glob("fold0/checkpoints/.step-*")):
            break
        first = train(*where, "--config.epochs=200", "--config.checkpoint_every=1")
    assert left
    for name in (f".{first.pid}.run.json", f"fold0/.{first.pid}.history.csv", f"fold0/checkpoints/.{first.pid}.LAST"):
        (work / name).write_text("half")
    resumed = train(*where, "--config.epochs=200", "--config.checkpoint_every=1")
    assert resumed.stderr is not None
    for line in resumed.stderr:
        if "resumes at step" in line:
            break
    resumed.kill()
    resumed.communicate()
    left = [path.name for path in work.rglob(".*") if path.name != ".lock"]
    assert [name for name in left if str(resumed.pid) not in name] == []


def test_leftovers_are_removed_and_files_of_the_user_stay(tmp_path):
    ours = [".7.run.json", ".7.oof.csv", "fold0/.7.oof.csv", "fold0/.7.model.weights.h5", "fold11/.123.history.csv"]
    ours += ["fold0/checkpoints/.step-00000004.77/model.weights.h5", "fold0/checkpoints/.9.LAST"]
    theirs = [".7.notes.txt", ".gitignore", "notes.txt", "fold0_old/.7.oof.csv", "other/.7.run.json", "fold0/oof.csv"]
    theirs += ["fold0/checkpoints/LAST", "fold0/checkpoints/.step-mine/x"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    run_dir.lock_until_exit(tmp_path)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {*theirs, ".lock"}
    with pytest.raises(run_dir.RunDirError, match=f"another run is writing there .process {os.getpid()} on"):
        run_dir.lock_until_exit(tmp_path)


def test_a_run_killed_before_its_first_file_is_no_obstacle(shards, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".7.run.json").write_text("half")
    run_dir.lock_until_exit(tmp_path / "run")
    run_dir.claim(tmp_path / "run", config.default(), [str(shards)], overwrite=False)
    assert (tmp_path / "run" / "run.json").is_file()


def test_overwrite_keeps_folders_that_only_resemble_a_fold(shards, tmp_path):
    run = run_dir.claim(tmp_path / "run", config.default(), [str(shards)], overwrite=False)
    for name in ("fold0", "fold0_old", "fold1.bak", "fold"):
        (run.path / name).mkdir()
    run_dir.claim(tmp_path / "run", config.default(), [str(shards)], overwrite=True)
    assert sorted(path.name for path in run.path.iterdir()) == ["fold", "fold0_old", "fold1.bak", "run.json"]
    (tmp_path / "victim").mkdir()
    (run.path / "fold0").symlink_to(tmp_path / "victim")
    with pytest.raises(run_dir.RunDirError, match="fold0 is a link; remove it yourself"):
        run_dir.claim(tmp_path / "run", config.default(), [str(shards)], overwrite=True)
    assert (tmp_path / "victim").is_dir()


def test_a_run_is_not_resumed_on_other_shards(shards, tmp_path):
    """The manifest holds the SHA-256 of each shard, so that other shards are another data set."""
    run = run_dir.claim(tmp_path / "run", config.default(), [str(shards)], overwrite=False)
    (run.fold(0) / "checkpoints").mkdir(parents=True)
    (run.fold(0) / "checkpoints" / "LAST").write_text("step-00000001\n")
    other = shutil.copytree(shards, tmp_path / "other")
    text = (other / "manifest.json").read_text()
    digest = files.sha256(next(other.glob("train00*.tfrec")))
    assert text.count(digest) == 1
    (other / "manifest.json").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(run_dir.RunDirError, match="differs in the data set"):
        run_dir.claim(tmp_path / "run", config.default(), [str(other)], overwrite=False)


NAMES = ["=1+1", "-ISIC_1", "+7", "-5", "@a", "'=b", "''-c", "'", "NA", "007", "ISIC_1"]


def test_names_that_spreadsheets_would_run_read_back(tmp_path):
    run = run_dir.RunDir(tmp_path, tiny.config(), ())
    table = pd.DataFrame({"image_name": NAMES, "patient_id": NAMES[::-1], "source": "=x", "fold": 0, "target": -1})
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "007", "")
    table["logit"] = [-1.5 * i for i in range(len(NAMES))]
    run.fold(0).mkdir()
    run.finish(0, table.assign(probability=0.5))
    for path in (tmp_path / "oof.csv", tmp_path / "fold0/oof.csv"):
        read = run_dir.read_predictions(path)
        assert read["image_name"].tolist() == NAMES
        assert read["patient_id"].fillna("").tolist() == table["patient_id"].tolist()
        assert set(read["source"]) == {"=x"}
        np_cells = [line.split(",") for line in path.read_text().splitlines()[1:]]
        assert [cell for row in np_cells for cell in row if cell.startswith(("=", "@", "-I"))] == []
        assert [float(row[5]) for row in np_cells] == table["logit"].tolist()


def test_numbers_are_written_as_pandas_writes_them(tmp_path):
    table = pd.DataFrame(
        {"a": pd.Series([0.1, -2.5e-8, None], dtype="float32"), "b": [-1, 2, 3], "c": ["x", None, "y"]}
    )
    files.write_csv(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text() == table.to_csv(index=False)
    files.write_csv(tmp_path / "t.csv", table, float_format="%.3g")
    assert (tmp_path / "t.csv").read_text() == table.to_csv(index=False, float_format="%.3g")


def test_a_run_that_failed_before_its_first_checkpoint_can_be_corrected(shards, tmp_path):
    settings = config.default()
    run_dir.claim(tmp_path / "run", settings, [str(shards)], overwrite=False)
    settings.lr = 0.5
    assert run_dir.claim(tmp_path / "run", settings, [str(shards)], overwrite=False).config.lr == 0.5
    assert run_dir.open_workdir(tmp_path / "run").config.lr == 0.5


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(shards, tmp_path):
    settings = config.default()
    run = run_dir.claim(tmp_path / "run", settings, [str(shards)], overwrite=False)
    (run.fold(0) / "checkpoints").mkdir(parents=True)
    (run.fold(0) / "checkpoints" / "LAST").write_text("step-1\n")
    (run.path / "submission.csv").write_text("mine")
    settings.lr = 0.5
    run_dir.claim(tmp_path / "run", settings, [str(shards)], overwrite=True)
    assert sorted(p.name for p in run.path.iterdir()) == ["run.json", "submission.csv"]


def test_image_names_are_kept_as_text(tmp_path):
    run = run_dir.RunDir(tmp_path, tiny.config(), ())
    names = ["00022", "NA", "1e5", "7"]
    table = pd.DataFrame({"image_name": names, "patient_id": ["007", "", "NA", "08"], "source": "12", "fold": 0})
    run.fold(0).mkdir()
    run.finish(0, table.assign(target=[1, 0, 1, 0], logit=[2.0, 1.0, 0.5, -1.0], probability=0.5))
    read = run_dir.read_predictions(tmp_path / "oof.csv")
    assert read["image_name"].tolist() == names
    assert read["patient_id"].fillna("?").tolist() == ["007", "?", "NA", "08"]
    assert "held out: 4 images of 4 patients, 2 malignant" in evaluate.report(tmp_path)
