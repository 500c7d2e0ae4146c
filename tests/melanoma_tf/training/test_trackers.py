"""Trackers: what each receives, what a failure does, and the curve that is drawn."""

from __future__ import annotations

import importlib.util
import json
import struct

import numpy as np
import pytest
from PIL import Image

from melanoma_tf.training import trackers
from tests.support import tiny
from tests.support.events import read_events

LABELS, SCORES = [0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]
ROWS = [{"epoch": n, "step": 8 * n, "loss": 1 / n, "val_auc": 0.75} for n in (1, 2, 3, 4)]


def draw():
    return Image.new("RGB", (50, 40), "red")


def follow(folder, name, project="run"):
    """Two epochs; after a resumption a third, of which the tracker did not hear, and a fourth."""
    config = tiny.config()
    with trackers.Log([name], folder, project, "fold0", config) as log:
        log.begin([], draw)
        for row in ROWS[:2]:
            log.epoch(row, LABELS, SCORES)
    config.epochs = 9
    with trackers.Log([name], folder, project, "fold0", config) as log:
        log.begin(ROWS[:3], draw)
        for row in ROWS[2:]:
            log.epoch(row, LABELS, SCORES)


def test_tensorboard_receives_each_epoch_once(tmp_path):
    import tensorflow as tf

    follow(tmp_path, "tensorboard")
    scalars, images = read_events(tmp_path / "tensorboard")
    np.testing.assert_allclose(scalars["loss"], [(row["step"], row["loss"]) for row in ROWS], rtol=1e-6)
    assert scalars.keys() == ROWS[0].keys()
    assert [step for step, _ in images["roc"]] == [8, 16, 32]
    ((step, sheet),) = images["augmented"]
    assert (step, sheet.shape, sheet[0, 0].tolist()) == (0, (40, 50, 3), [255, 0, 0])
    first = min((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    values = [value for event in tf.compat.v1.train.summary_iterator(str(first)) for value in event.summary.value]
    (text,) = [value for value in values if value.metadata.plugin_data.plugin_name == "text"]
    assert json.loads(tf.make_ndarray(text.tensor).item()) == tiny.config().to_dict()


def test_a_tracker_that_fails_is_given_up_with_one_warning(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("where its folder should be")
    follow(tmp_path, "tensorboard")
    warnings = capsys.readouterr().out.splitlines()
    assert len(warnings) == 2  # one of each session
    assert all(line.startswith("warning: tensorboard: ") for line in warnings)
    assert all(line.endswith("; training goes on without it") for line in warnings)


def test_a_run_without_an_epoch_has_nothing_to_continue(tmp_path):
    for _ in range(2):
        with trackers.Log(["tensorboard"], tmp_path, "run", "fold0", tiny.config()) as log:
            log.begin([], draw)
    assert len(read_events(tmp_path / "tensorboard")[1]["augmented"]) == 2


def test_names_and_packages_are_checked():
    with pytest.raises(ValueError, match="unknown --log 'tensorbord'; expected some of: tensorboard, wandb, mlflow"):
        trackers.check(["tensorbord"])
    trackers.check(["tensorboard"])
    for name in ("wandb", "mlflow"):
        if importlib.util.find_spec(name):
            trackers.check([name])
        else:
            with pytest.raises(RuntimeError, match=f"--log {name}: {name} is not installed; pip install {name}"):
                trackers.check([name])


def test_a_curve_is_drawn_through_its_corners():
    """Of two positives and two negatives, one pair in the wrong order: up, right, up, right, by halves."""
    drawn = np.asarray(trackers.roc_image(LABELS, SCORES, "epoch 1")).astype(int)
    side, margin = 360, 48

    def is_blue(x, y):
        column, row = (round(margin + part * (side - 2 * margin)) for part in (x, 1 - y))
        red, _, blue = drawn[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3)[4]
        return blue - red > 100

    on, off = [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)], [(0.25, 0.25), (0.25, 0.75), (0.75, 0.5), (1, 0.5)]
    assert [is_blue(*at) for at in on + off] == [True] * 4 + [False] * 4
    assert (drawn[: margin - 20].min(axis=2) < 100).any()  # a title


@pytest.mark.slow
def test_wandb_receives_each_epoch_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(tmp_path, "wandb", project="my:run")
    found, runs = [], []
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        records = [wandb_internal_pb2.Record.FromString(data) for data in wandb_records(path.read_bytes())]
        runs += [r.run for r in records if r.WhichOneof("record_type") == "run"]
        for record in records:
            items = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            found += [items] if items else []
    assert [row["_step"] for row in found] == [0, 8, 16, 24, 32]
    assert [row["loss"] for row in found[1:]] == [row["loss"] for row in ROWS]
    assert ["roc.path" in row for row in found] == [False, True, True, False, True]
    assert found[0]["augmented.width"] == 50
    assert {(run.project, run.display_name) for run in runs} == {("my-run", "fold0")}
    assert len({run.run_id for run in runs}) == 1
    settings = [{u.key: json.loads(u.value_json) for u in run.config.update} for run in runs]
    assert [each["epochs"] for each in settings] == [2, 9]


def wandb_records(data):
    """Records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_mlflow_receives_each_epoch_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    follow(tmp_path / "fold0", "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("run").experiment_id])
    assert (run.info.run_name, run.info.status) == ("fold0", "FINISHED")
    assert (run.data.params["lr"], run.data.params["tpu.rewrites"]) == (str(tiny.config().lr), "False")
    measured = client.get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in measured] == [(row["step"], row["loss"]) for row in ROWS]
    names = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")]
    steps = sorted(name.split("+")[0] + name.split("+")[2] for name in names if name.endswith(".png"))
    assert steps == ["images/augmented0", "images/roc16", "images/roc32", "images/roc8"]
    assert json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.json"))["epochs"] == 9
