"""The commands as users run them, and their error messages."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from melanoma_tf import evaluate, predict, train
from melanoma_tf.core import config
from melanoma_tf.data import dataset, pipeline
from melanoma_tf.models import registry
from melanoma_tf.training import run_dir
from tests.support import tiny
from tests.support.process import run_command
from tests.support.tiny import SMOKE
from tfrecord_tools import schema
from tfrecord_tools.records import tfrecord

pytestmark = pytest.mark.integration

# `python -c PREDICT --flags` is melanoma_tf.predict with the tiny model.
PREDICT = tiny.TRAIN.replace("import train; train.run()", "import predict; predict.run()")


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A finished run of two folds, one after the other, with the tiny model."""
    folder = tmp_path_factory.mktemp("run") / "work"
    for fold in ("1", "0"):
        args = ["--data", str(shards), "--workdir", str(folder), "--fold", fold]
        done = run_command("-c", tiny.TRAIN, *SMOKE, *args)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder, done


def test_the_complete_backbone_trains_and_predicts(shards, tmp_path):
    """EfficientNet-B0 through both commands, without the tiny model in its place."""
    where = ["--data", str(shards), "--workdir", str(tmp_path / "run")]
    done = run_command("-m", "melanoma_tf.train", *SMOKE, *where)
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_command("-m", "melanoma_tf.predict", *where, "--out", str(tmp_path / "out.csv"), "--strategy", "cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    predicted = pd.read_csv(tmp_path / "out.csv", index_col="image_name")["target"]
    oof = pd.read_csv(tmp_path / "run/oof.csv", index_col="image_name")["probability"]
    np.testing.assert_allclose(predicted[oof.index], oof, rtol=1e-5)


def test_training_ends_with_an_exact_auc_and_where_things_are(run, shards):
    folder, done = run
    oof = pd.read_csv(folder / "oof.csv")
    build = dataset.open_data(str(shards))
    assert sorted(oof["image_name"]) == sorted(pipeline.read_metadata([*build.fold(0), *build.fold(1)])["image_name"])
    expected = roc_auc_score(oof["target"], oof["logit"])
    assert json.loads((folder / "metrics.json").read_text())["auc"]["value"] == pytest.approx(expected, abs=1e-12)
    assert f"AUC {expected:.4f} (95% interval " in done.stdout
    assert f"predictions: {folder / 'oof.csv'}" in done.stdout
    assert "runtime: tensorflow on 1 x cpu (CPU:0), global batch 8 = 1 x 8, float32" in done.stdout
    first, second = json.loads((folder / "run.json").read_text())["sessions"]
    assert ("--fold 1" in first["command"], "--fold 0" in second["command"]) == (True, True)
    assert first["versions"].keys() >= {"melanoma-tf", "python", "tensorflow", "keras"}
    assert second["devices"]["names"] == ["CPU:0"]


def test_all_folds_together_predict_every_image(shards, tmp_path):
    args = ["--data", str(shards), "--workdir", str(tmp_path / "run"), "--fold", "all"]
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    oof = pd.read_csv(tmp_path / "run/oof.csv")
    everything = pipeline.read_metadata(pipeline.open_data(str(shards)).train)
    assert sorted(zip(oof["image_name"], oof["fold"], oof["target"], strict=True)) == sorted(
        zip(everything["image_name"], everything["fold"], everything["target"], strict=True)
    )
    assert [f"fold {fold}: AUC" in done.stdout for fold in range(5)] == [True] * 5
    assert f"AUC {roc_auc_score(oof['target'], oof['logit']):.4f} (95% interval" in done.stdout


def test_a_finished_fold_is_not_trained_again_and_other_settings_are_refused(run, shards):
    folder, _ = run
    args = ["-m", "melanoma_tf.train", *SMOKE, "--data", str(shards), "--workdir", str(folder)]
    done = run_command(*args)
    assert "fold 0: already finished" in done.stdout
    done = run_command(*args, "--config.lr=0.5")
    assert done.returncode == 1
    assert "holds a run that differs in lr: 0.002 then, 0.5 now" in done.stderr
    assert "--overwrite" in done.stderr


def test_a_finished_run_without_its_checkpoints_is_still_that_run(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder, ignore=shutil.ignore_patterns("checkpoints"))
    before = run_dir.open_workdir(folder)
    folds = before.finished_folds()
    other = before.config.copy_and_resolve_references()
    other.lr = 0.5
    stored = json.loads((folder / "run.json").read_text())
    with pytest.raises(run_dir.RunDirError, match="differs in lr: 0.002 then, 0.5 now"):
        run_dir.claim(folder, other, [], overwrite=False)
    with before.config.unlocked():
        before.config.tpu.rewrites = True  # computes the same, so it may be set when a run is resumed
    with pytest.raises(run_dir.RunDirError, match="differs in the data set\\."):
        run_dir.claim(folder, before.config, [], overwrite=False)
    assert json.loads((folder / "run.json").read_text()) == stored
    shutil.copytree(folder / "fold0", folder / "fold0_old")
    assert before.finished_folds() == folds


def test_a_finished_run_goes_on_with_more_epochs(run, shards, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    args = ["--data", str(shards), "--workdir", str(folder), "--fold", "1", "--config.epochs=2"]
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "run extended from 1 to 2 epochs; after epoch 1 the learning rate is that of a run of 2" in done.stdout
    assert "fold 1 resumes at step 9 of 18" in done.stderr
    assert "note: folds [0] were trained for fewer than 2 epochs; --fold all goes on" in done.stdout
    before, after = (pd.read_csv(each / "oof.csv", index_col="image_name")["logit"] for each in (run[0], folder))
    fold1 = pd.read_csv(folder / "fold1/oof.csv")["image_name"]
    changed = (after != before[after.index]).to_numpy()
    assert changed.tolist() == after.index.isin(fold1).tolist()


def test_evaluate_repeats_the_metrics_of_training(run):
    folder, trained = run
    done = run_command("-m", "melanoma_tf.evaluate", "--workdir", str(folder))
    assert done.returncode == 0
    assert done.stdout.strip()
    assert trained.stdout.endswith(done.stdout)


@pytest.fixture(scope="module")
def shards_of_test_set(synthetic, tmp_path_factory):
    """The synthetic test set as a build, without its third image, which is cut off."""
    folder = tmp_path_factory.mktemp("test")
    shutil.copytree(synthetic / "jpeg/test", folder / "images")
    damaged = folder / f"images/{pd.read_csv(synthetic / 'test.csv')['image_name'][2]}.jpg"
    damaged.write_bytes(damaged.read_bytes()[:600])
    where = ["--csv", str(synthetic / "test.csv"), "--images", str(folder / "images"), "--out", str(folder / "build")]
    done = run_command("-m", "tfrecord_tools.build", "--size", "32", "--workers", "1", "--allow_quarantine", *where)
    assert done.returncode == 0, done.stderr
    return folder / "build"


def test_predict_writes_a_submission_in_the_order_of_the_table(run, shards_of_test_set, synthetic, tmp_path):
    folder, _ = run
    out = tmp_path / "submission.csv"
    args = ["--workdir", str(folder), "--data", str(shards_of_test_set), "--out", str(out), "--strategy", "cpu"]
    done = run_command("-c", PREDICT, *args, "--fill", "0.125")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "warning" not in done.stdout
    submission, names = pd.read_csv(out), pd.read_csv(synthetic / "test.csv")["image_name"].tolist()
    assert f"note: 1 of {len(names)} images of the test table have no prediction" in done.stdout
    assert list(submission.columns) == ["image_name", "target"]
    assert submission["image_name"].tolist() == names
    assert submission["target"][2] == 0.125
    assert submission["target"].between(0, 1).all()
    assert submission["target"].nunique() == len(names)


def test_predictions_of_training_data_come_from_models_that_have_not_seen_it(run, shards, tmp_path):
    folder, _ = run
    out = tmp_path / "submission.csv"
    args = ["--workdir", str(folder), "--data", str(shards), "--out", str(out), "--strategy", "cpu"]
    done = run_command("-c", PREDICT, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    submission, oof = pd.read_csv(out), pd.read_csv(folder / "oof.csv")
    assert len(submission) == 90
    together = oof.merge(submission, on="image_name", suffixes=("", "_again"))
    np.testing.assert_allclose(together["target_again"], together["probability"], rtol=1e-5)
    assert f"warning: {90 - len(oof)} of 90 records were training data of every finished model" in done.stdout


def test_which_models_predict_a_shard():
    shard, test = pipeline.Shard("a", 1, 10, 2, 32), pipeline.Shard("b", -1, 10, -1, 32)
    assert predict.models_for(shard, [0, 1], seen=True) == [1]
    assert predict.models_for(shard, [0], seen=True) == [0]
    assert predict.models_for(shard, [0, 1], seen=False) == [0, 1]
    assert predict.models_for(test, [0, 1], seen=True) == [0, 1]


TEST = dataset.Shard("t", -1, 2, -1, 32)


@pytest.mark.parametrize(
    ("fill", "expected", "said"),
    [
        (None, {"b": 0.5, "a": 0.1}, "warning: 2 of 4 images of the test table have no prediction"),
        ("mean", {"c": 0.3, "b": 0.5, "=d": 0.3, "a": 0.1}, "They are written with --fill mean: 0.3"),
        ("0", {"c": 0.0, "b": 0.5, "=d": 0.0, "a": 0.1}, "They are written with --fill 0.0: 0"),
    ],
)
def test_predictions_have_the_order_of_the_table_and_the_missing_are_named(fill, expected, said):
    build = dataset.DataSet("DIR", 32, 5, (), (TEST,), ("c", "b", "=d", "a"))
    table = pd.DataFrame({"image_name": ["a", "b"], "target": [0.1, 0.5]})
    found, note = predict.in_order(table, build, predict.parse_fill(fill))
    assert found["image_name"].tolist() == list(expected)
    np.testing.assert_allclose(found["target"], list(expected.values()))
    assert said in note
    assert "see DIR/quarantine.csv): c, =d" in note


def test_of_earlier_builds_only_the_unusable_images_are_known():
    build = dataset.DataSet("DIR", 32, 5, (), (TEST,), ("c",))
    table = pd.DataFrame({"image_name": ["b", "a"], "target": [0.5, 0.1]})
    assert predict.in_order(table, build, "mean")[0]["image_name"].tolist() == ["b", "a", "c"]
    complete = dataclasses.replace(build, test_names=("a", "b"))
    assert predict.in_order(table, complete, None)[1] == ""


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.batch_size=0"], "config.batch_size=0 must lie between 1 and"),
        (["--config.model=resnet"], "unknown backbone 'resnet'"),
    ],
)
def test_train_reports_bad_input(shards, tmp_path, args, message):
    where = ["--data", str(shards), "--workdir", str(tmp_path / "new")]
    done = run_command("-m", "melanoma_tf.train", *SMOKE, *where, *args)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("which", [[], ["--config", "configs/smoke.py"]])
def test_a_setting_that_does_not_exist_is_an_error(which):
    done = run_command("-m", "melanoma_tf.train", *which, "--strategy", "cpu", "--config.learning_rate=1")
    assert done.returncode == 2
    assert "error: --config has no such setting: 'learning_rate'" in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "float17"}, "config.precision='float17'.* auto, float32, mixed_bfloat16, mixed_float16"),
        ({"optimizer": "sgdx"}, "config.optimizer='sgdx'.* adam, adamw"),
        ({"warmup_epochs": 12}, "config.warmup_epochs=12.* must be fewer than config.epochs=12"),
    ],
)
def test_settings_out_of_range_are_reported(change, message):
    settings = config.default()
    settings.update(change)
    with pytest.raises(ValueError, match=message):
        config.check(settings)


@pytest.mark.parametrize("path", sorted(config.CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_each_config_is_valid_and_documented(path):
    module = runpy.run_path(str(path))
    settings = module["get_config"]()
    config.check(settings)
    registry.backbone(settings.model)
    assert settings.keys() == config.default().keys()
    for word in ("python -m melanoma_tf.train", "Hardware:", "easured"):
        assert word in module["__doc__"]
    changed = [key for key in settings if settings[key] != config.default()[key]]
    assert bool(changed) == (path.stem != "default")


def test_configs_that_come_with_the_package_are_found_from_anywhere(tmp_path):
    folder = str(config.CONFIGS.parent)
    args = ["-m", "melanoma_tf.train", "--config", "configs/smoke.py", "--data", "nowhere", "--strategy", "cpu"]
    done = subprocess.run(
        [sys.executable, *args],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "error: --data nowhere: no such folder" in done.stderr


def test_predict_looks_at_its_output_folder_first(tmp_path):
    args = ["--workdir", "x", "--data", "y", "--strategy", "cpu", "--out", str(tmp_path / "no" / "s.csv")]
    done = run_command("-m", "melanoma_tf.predict", *args)
    assert done.returncode == 1
    assert f"there is no folder {tmp_path / 'no'}" in done.stderr


def test_a_damaged_shard_stops_training_and_is_named(shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "damaged")
    victim = sorted(folder.glob("train03-*.tfrec"))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    args = ["--data", str(folder), "--workdir", str(tmp_path / "run"), "--config.epochs=1"]
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args)
    assert done.returncode == 1
    assert f"{victim}: record " in done.stderr
    assert "checksum of its data is wrong" in done.stderr
    assert not (tmp_path / "run/oof.csv").exists()


def test_changed_shards_and_weights_are_not_used(run, shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "changed")
    victim = next(folder.glob("train03-*.tfrec"))
    records = [schema.decode(data) for data in tfrecord.read_records(victim)]
    with victim.open("wb") as file:  # labels turned over, with sound checksums of records
        for record in records:
            tfrecord.write_record(file, schema.encode(dataclasses.replace(record, target=1 - record.target)))
    trained, _ = run
    resumed = ["-m", "melanoma_tf.train", *SMOKE, "--data", str(folder), "--workdir", str(trained), "--fold", "2"]
    out = ["--out", str(tmp_path / "out.csv"), "--strategy", "cpu"]
    predicted = ["-m", "melanoma_tf.predict", "--workdir", str(trained), "--data", str(folder), *out]
    for command in (resumed, predicted):
        done = run_command(*command)
        assert done.returncode == 1
        assert f"error: {victim} was changed after it was built: its SHA-256 is " in done.stderr
        assert "Traceback" not in done.stderr
    assert not (trained / "fold2").exists()

    copied = shutil.copytree(trained, tmp_path / "run")
    weights = copied / "fold1/model.weights.h5"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1 << 6
    weights.write_bytes(content)
    done = run_command("-c", PREDICT, "--workdir", str(copied), "--data", str(shards), *out)
    assert done.returncode == 1
    assert f"error: {weights} was changed or damaged: its SHA-256 is " in done.stderr
    assert "data: 5 shards as in the manifest" in done.stdout
    assert not (tmp_path / "out.csv").exists()


def test_predict_and_evaluate_need_a_run(tmp_path, shards):
    with pytest.raises(run_dir.RunDirError, match=r"has no run.json; pass the --workdir of melanoma_tf.train"):
        run_dir.open_workdir(tmp_path)
    with pytest.raises(run_dir.RunDirError, match=r"oof.csv does not exist; melanoma_tf.train writes it"):
        evaluate.report(tmp_path)


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


def test_running_out_of_device_memory_gives_advice():
    import tensorflow as tf

    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ):
        advice = r"out of device memory with a batch of 64; try a lower --config.batch_size"
        with pytest.raises(RuntimeError, match=advice), train.explain_out_of_memory(64):
            raise error
    with pytest.raises(KeyError), train.explain_out_of_memory(64):
        raise KeyError("x")


def test_the_fold_flag_is_a_fold_or_all():
    assert train.parse_folds("all", 3) == [0, 1, 2]
    assert train.parse_folds("2", 3) == [2]
    assert train.parse_folds("2,0, 2", 3) == [2, 0]
    for wrong in ("3", "-1", "²", "first", ""):
        with pytest.raises(ValueError, match=f"unknown --fold '{wrong}'; expected one of: 0 to 2, all"):
            train.parse_folds(wrong, 3)


@pytest.mark.parametrize("command", ["train", "predict", "evaluate"])
def test_help_names_the_flags(command):
    done = run_command("-m", f"melanoma_tf.{command}", "--help")
    assert "--workdir" in done.stdout
    assert f"python -m melanoma_tf.{command}" in done.stdout
