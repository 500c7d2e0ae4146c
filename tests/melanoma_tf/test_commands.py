"""The commands as users run them, and their error messages."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from melanoma_tf import evaluate, explain, predict, stress, train
from melanoma_tf.core import config, files
from melanoma_tf.data import dataset, pipeline
from melanoma_tf.data.dataset import open_data
from melanoma_tf.devices import select
from melanoma_tf.evaluation import analysis, build_images, predictions, stored
from melanoma_tf.evaluation.calibration import Calibrator
from melanoma_tf.evaluation.report import gallery, overlay
from melanoma_tf.inference import corruption
from melanoma_tf.models import backbones
from melanoma_tf.training import run_dir
from tests.support import tiny
from tests.support.events import read_events
from tests.support.process import run_command
from tests.support.tiny import SMOKE
from tfrecord_tools import schema
from tfrecord_tools.core.cli import UsageError
from tfrecord_tools.records import tfrecord

pytestmark = pytest.mark.integration

# `python -c PREDICT --flags` is melanoma_tf.predict with the tiny model.
PREDICT = tiny.TRAIN.replace("import train; train.run()", "import predict; predict.run()")


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A finished run of two folds with the tiny model."""
    folder = tmp_path_factory.mktemp("run") / "work"
    args = ["--data", str(shards), "--workdir", str(folder), "--fold", "1,0"]
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done


@pytest.mark.slow
def test_the_complete_backbone_trains_and_predicts(shards, tmp_path):
    """EfficientNet-B0 through both commands, without the tiny model in its place."""
    where = ["--data", str(shards), "--workdir", str(tmp_path / "run")]
    done = run_command("-m", "melanoma_tf.train", *SMOKE, "--config.tta=False", *where)
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


def test_the_other_folds_are_trained_in_another_session_and_all_together_predict_every_image(run, shards, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    args = ["--data", str(shards), "--workdir", str(folder), "--fold", "all"]
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [f"fold {fold}: already finished" in done.stdout for fold in range(5)] == [True] * 2 + [False] * 3
    first, second = json.loads((folder / "run.json").read_text())["sessions"]
    assert ("--fold 1,0" in first["command"], "--fold all" in second["command"]) == (True, True)
    assert first["versions"].keys() >= {"melanoma-tf", "python", "tensorflow", "keras"}
    assert second["devices"]["names"] == ["CPU:0"]
    assert (first["seconds"].keys(), second["seconds"].keys()) == ({"fold0", "fold1"}, {"fold2", "fold3", "fold4"})
    for k in range(5):  # all of a fold takes longer than its only epoch
        epoch = pd.read_csv(folder / f"fold{k}/history.csv")["seconds"].sum()
        assert {**first["seconds"], **second["seconds"]}[f"fold{k}"] >= epoch
    oof = pd.read_csv(folder / "oof.csv")
    everything = pipeline.read_metadata(open_data(str(shards)).train)
    assert sorted(zip(oof["image_name"], oof["fold"], oof["target"], strict=True)) == sorted(
        zip(everything["image_name"], everything["fold"], everything["target"], strict=True)
    )
    assert [f"fold {fold}: AUC" in done.stdout for fold in range(5)] == [True] * 5
    assert f"AUC {roc_auc_score(oof['target'], oof['logit']):.4f} (95% interval" in done.stdout


def test_other_settings_are_refused(run, shards):
    where = ["--data", str(shards), "--workdir", str(run[0])]
    done = run_command("-m", "melanoma_tf.train", *SMOKE, *where, "--config.lr=0.5")
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


def test_a_finished_run_goes_on_with_more_epochs_and_beside_another_seed(run, shards, tmp_path):
    workdir = tmp_path / "run"
    folder = shutil.copytree(run[0], workdir / "seed0")
    args = ["--data", str(shards), "--workdir", str(workdir), "--fold", "1", "--config.epochs=2", "--seeds=2"]
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args, "--log=tensorboard")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "run extended from 1 to 2 epochs; after epoch 1 the learning rate is that of a run of 2" in done.stdout
    assert "fold 1 resumes at step 9 of 18" in done.stderr
    assert "note: folds [0] were trained for fewer than 2 epochs; --fold all goes on" in done.stdout
    before, after = (pd.read_csv(each / "oof.csv", index_col="image_name")["logit"] for each in (run[0], folder))
    fold1 = pd.read_csv(folder / "fold1/oof.csv")["image_name"]
    changed = (after != before[after.index]).to_numpy()
    assert changed.tolist() == after.index.isin(fold1).tolist()

    tables = [pd.read_csv(workdir / f"seed{seed}/fold1/oof.csv", index_col="image_name") for seed in (0, 1)]
    assert json.loads((workdir / "seed1/run.json").read_text())["config"]["seed"] == 1
    first, second = (roc_auc_score(table["target"], table["logit"]) for table in tables)
    together = roc_auc_score(tables[0]["target"], (tables[0]["logit"] + tables[1]["logit"]) / 2)
    written = pd.read_csv(workdir / "seeds.csv", index_col="seed")["auc"]
    assert written.index.tolist() == ["0", "1", "mean", "sd", "mean of logits"]
    expected = [first, second, (first + second) / 2, abs(first - second) / 2**0.5, together]
    np.testing.assert_allclose(written, expected, rtol=1e-12)
    assert f"AUC of 2 seeds: {first:.4f} (seed 0), {second:.4f} (seed 1)" in done.stdout
    deviation = f"standard deviation {expected[3]:.4f}"
    assert f"mean {expected[2]:.4f}, {deviation}; of the mean of their logits {together:.4f}" in done.stdout
    assert read_events(folder / "fold1/tensorboard")[0]["epoch"] == [(9, 1.0), (18, 2.0)]  # the first is made up for
    assert read_events(workdir / "seed1/fold1/tensorboard")[0]["epoch"] == [(9, 1.0), (18, 2.0)]


def test_evaluate_repeats_the_metrics_of_training(run):
    folder, trained = run
    done = run_command("-m", "melanoma_tf.evaluate", "--workdir", str(folder))
    assert done.returncode == 0
    assert done.stdout.strip()
    assert trained.stdout.endswith(done.stdout)


@pytest.fixture
def in_this_process(monkeypatch):
    """The tiny model, and the devices that are there already, so that no other process has to start TensorFlow."""
    monkeypatch.setattr(backbones, "build_classifier", tiny.build_classifier)
    monkeypatch.setattr(select, "start_as_asked", lambda: None)


def test_images_are_explained_by_the_model_that_held_them_out(run, shards, tmp_path, in_this_process):
    folder, _ = run
    opened, table = explain.open_run(folder), evaluate.read_run(folder)
    groups = explain.choose(table, None, 2)
    names = [name for members in groups.values() for name in members]
    other = next(name for name in table["image_name"][::-1] if name not in names)
    groups["Others"] = [other]
    images = explain.read_images(str(shards), groups)
    drawn = explain.overlays(opened, table, images)
    folds = table.set_index("image_name")["fold"]
    assert {int(folds[name]) for name in images} == {0, 1}
    # The map of each image by hand, with the weights of its fold.
    import keras

    model = tiny.build_classifier("efficientnet-b0", 32, dropout=0.0)
    features = keras.Model(model.input, model.get_layer(tiny.LAST_LAYER).output)
    for name, (raised, lowered) in drawn.items():
        model.load_weights(folder / f"fold{folds[name]}" / "model.weights.h5")
        pixels = np.asarray(Image.open(io.BytesIO(images[name])))
        maps = []
        for turns in range(4):
            for flipped in (False, True):
                view = np.rot90(pixels[:, ::-1] if flipped else pixels, turns)[None] / np.float32(255)
                found = np.asarray(features(view, training=False))[0] @ np.asarray(model.get_layer("logit").kernel)
                back = np.rot90(found[..., 0], -turns)
                maps.append(back[:, ::-1] if flipped else back)
        for each, against in ((raised, False), (lowered, True)):
            expected = overlay.draw(pixels, np.mean(maps, axis=0), against=against)
            assert each.text == expected.text
            ours, theirs = (np.asarray(Image.open(io.BytesIO(png)), float) for png in (each.png, expected.png))
            np.testing.assert_allclose(ours, theirs, atol=4)

    text = explain.write(tmp_path / "out", table, groups, images, drawn)
    assert text.splitlines() == [f"5 images: {tmp_path}/out/*.png", f"page: {tmp_path}/out/explain.html"]
    page = (tmp_path / "out/explain.html").read_text()
    assert page.count("<img ") == 15
    assert f"probability {table.set_index('image_name')['probability'][other]:.3g}" in page
    files = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert files[:2] == [f"001_{names[0]}_lowered.png", f"001_{names[0]}_raised.png"]
    assert (tmp_path / "out" / files[1]).read_bytes() == drawn[names[0]][0].png


def test_what_cannot_be_explained_is_named(run, shards, shards_of_test_set):
    table = evaluate.read_run(run[0])
    known = table["image_name"][0]
    with pytest.raises(
        ValueError, match=r"--names: no out-of-fold prediction of '<b>', '\?'; expected images of finishe"
    ):
        explain.choose(table, ["<b>", known, "?"], None)
    title = "Melanomas" if table["target"][0] else "Others"
    assert explain.choose(table, [f" {known}", known], None) == {title: [known]}
    with pytest.raises(ValueError, match=f"no image of '{known}'; pass the build that the run was trained on"):
        explain.read_images(str(shards_of_test_set), {"": [known]})


def test_names_of_others_are_no_paths(tmp_path):
    names = ["../../a", "<b>", "x" * 300]
    table = predictions.check(pd.DataFrame({"image_name": names, "target": 0, "logit": 0.0}), "a.csv")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    png = overlay.Overlay(buffer.getvalue(), "")
    explain.write(tmp_path / "o", table, {"": names}, dict.fromkeys(names, png.png), dict.fromkeys(names, (png, png)))
    assert {path.name for path in tmp_path.iterdir()} == {"o"}
    assert sorted(path.name[:10] for path in (tmp_path / "o").glob("*_raised.png")) == [
        "001_______", "002__b__ra", "003_xxxxxx",
    ]  # fmt: skip


def test_the_gallery_of_a_run_has_overlays_or_says_why_not(run, shards, tmp_path, in_this_process, capsys):
    folder = shutil.copytree(run[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    table = evaluate.read_run(folder)
    options = analysis.Options(replicates=100)

    build = build_images.Build(str(shards), table)
    evaluate.write(table, folder / "oof.csv", tmp_path, options, build, folder)
    alts = re.findall('<img [^>]*alt="([^"]*)"', (tmp_path / "report.html").read_text())
    groups = gallery.most_confident(table)
    shown = [name for members in groups.values() for name in members]
    assert len(alts) == 2 * len(shown)
    is_melanoma = table.set_index("image_name")["target"] == 1
    for name, alt in zip(shown, alts[1::2], strict=True):
        assert alt.startswith(f"Grad-CAM of {name}: ")
        assert ("lowered" if is_melanoma[name] else "raised") in alt
    assert "note" not in capsys.readouterr().out

    (folder / "fold1/model.weights.h5").unlink()
    assert evaluate._grad_cam(folder, table, explain.read_images(str(shards), groups)) == {}
    assert f"note: no Grad-CAM in the gallery: {folder}/fold1/model.weights.h5 is missing" in capsys.readouterr().out


ONE_CPU = select.Runtime("tensorflow", "cpu", ("CPU:0",), "test")


def test_a_stress_test_scores_each_image_by_the_model_that_held_it_out(run, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "build_classifier", tiny.build_classifier)
    few = (corruption.Corruption("brightness", -0.2), corruption.Corruption("JPEG", 10))
    monkeypatch.setattr(corruption, "CORRUPTIONS", few)
    table = evaluate.read_run(run[0])
    measured = functools.partial(stress.measure, stress.open_run(run[0], str(shards)), start=lambda: ONE_CPU)
    options = analysis.Options(replicates=100)
    text = evaluate.write(
        table, run[0] / "oof.csv", tmp_path, options, build_images.Build(str(shards), table), stressed=measured
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    found = metrics["stress"]
    assert found["images"] == found["available"] == len(table)
    assert found["clean_logits_differ_by"] < 1e-4
    assert found["clean"]["auc"] == metrics["auc"]["value"]
    assert found["clean"]["sensitivity"]["value"] == metrics["operating_point"]["sensitivity"]["value"]
    assert [(each["corruption"], each["level"]) for each in found["effects"]] == [("brightness", -0.2), ("JPEG", 10)]
    assert f"lowest AUC under stress: {min(each['auc'] for each in found['effects']):.4f}, " in text
    assert "-20% of full scale" in (tmp_path / "report.html").read_text()
    assert "## Under corruptions of the images" in (tmp_path / "model_card.md").read_text()


def test_a_stress_test_needs_the_build_of_the_run(run, shards, tmp_path):
    other = shutil.copytree(shards, tmp_path / "other")
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(run_dir.RunDirError, match="is another build than .* was trained on"):
        stress.open_run(run[0], str(other))


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
    done = run_command("-c", PREDICT, *args, "--fill", "0.125", "--nocalibrated")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "warning" not in done.stdout
    submission, names = pd.read_csv(out), pd.read_csv(synthetic / "test.csv")["image_name"].tolist()
    assert f"note: 1 of {len(names)} images of the test table has no prediction" in done.stdout
    assert list(submission.columns) == ["image_name", "target"]
    assert submission["image_name"].tolist() == names
    assert submission["target"][2] == 0.125
    assert submission["target"].between(0, 1).all()
    assert submission["target"].nunique() == len(names)


def calibrate(folder, threshold, slope=0.5):
    """Replaces the calibration.json of a run."""
    made = stored.Stored(
        Calibrator("platt", slope, -1.0), "sensitivity", 0.9, threshold, 0.25, 30, files.sha256(folder / "oof.csv")
    )
    stored.write(folder / "calibration.json", made)
    return made


def test_predictions_of_training_data_are_of_models_that_have_not_seen_it_and_calibrated(run, shards, tmp_path):
    folder, out = tmp_path / "run", tmp_path / "submission.csv"
    shutil.copytree(run[0], folder, ignore=shutil.ignore_patterns("checkpoints"))
    calibrate(folder, threshold=-1.0)
    args = ["--workdir", str(folder), "--data", str(shards), "--out", str(out), "--strategy", "cpu"]
    done = run_command("-c", PREDICT, *args, "--prevalence", "0.02")
    assert done.returncode == 0, done.stderr[-2000:]
    submission, oof = pd.read_csv(out), pd.read_csv(folder / "oof.csv")
    assert len(submission) == 90
    together = oof.merge(submission, on="image_name", suffixes=("", "_again"))
    expected = 0.5 * together["logit"] - 1 + np.log(0.02 / 0.98) - np.log(0.25 / 0.75)
    np.testing.assert_allclose(together["target_again"], 1 / (1 + np.exp(-expected)), rtol=1e-5)
    assert (
        "calibrated by platt on 30 out-of-fold predictions and for a prevalence of 0.02 instead of 0.25" in done.stdout
    )
    assert "at the operating point chosen there (sensitivity 0.9), " in done.stdout
    assert f"warning: {90 - len(oof)} of 90 records were training data of every finished model" in done.stdout


def test_what_calibrates_is_read_before_anything_is_predicted(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run[0] / "oof.csv", folder)
    assert predict.read_calibration(folder, None, None) is None
    for asked in ((True, None), (None, 0.1)):
        with pytest.raises(
            run_dir.RunDirError, match="calibration.json does not exist: python -m melanoma_tf.evaluate"
        ):
            predict.read_calibration(folder, *asked)
    made = calibrate(folder, threshold=0.0)
    assert predict.read_calibration(folder, None, None) == made
    assert predict.read_calibration(folder, False, None) is None
    for calibrated, prevalence in ((False, 0.1), (None, 0.0), (None, 1.5)):
        with pytest.raises(UsageError, match="expected a share between 0 and 1, without --nocalibrated"):
            predict.read_calibration(folder, calibrated, prevalence)
    (folder / "oof.csv").write_text("other predictions")
    with pytest.raises(stored.StoredError, match="evaluate --workdir RUN again, or pass --nocalibrated"):
        predict.read_calibration(folder, None, None)


def test_flagged_images_are_counted(run, tmp_path):
    shutil.copy(run[0] / "oof.csv", tmp_path)
    logits, text = predict.calibrate(np.array([0.0, 1.0, 3.0]), calibrate(tmp_path, threshold=-0.5), None)
    np.testing.assert_allclose(logits, [-1.0, -0.5, 0.5])
    assert "2 of 3 images are flagged" in text


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.batch_size=0"], "config.batch_size=0 must lie between 1 and"),
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


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "explain"])
def test_help_names_the_flags(command):
    done = run_command("-m", f"melanoma_tf.{command}", "--help")
    assert "--workdir" in done.stdout
    assert f"python -m melanoma_tf.{command}" in done.stdout
