"""External builds: disjoint from the main build, trained on, evaluated only on request, refused where they leak."""

import dataclasses
import json
import shutil
import types

import pandas as pd
import pytest

from melanoma_tf import predict, train
from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import open_data
from melanoma_tf.data.external import _identities, add_external
from melanoma_tf.devices import select
from melanoma_tf.models import backbones
from melanoma_tf.training import fold, run_dir
from tests.support import tiny
from tests.support.builds import replaced, settings
from tests.support.process import run_command
from tests.support.tiny import SMOKE
from tfrecord_tools import build, schema, synthetic, verify
from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.dedup import pairs
from tfrecord_tools.records import tfrecord

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def main_csv(synthetic):
    return pd.read_csv(synthetic / "train.csv")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another synthetic data set: 24 images of 8 patients."""
    folder = tmp_path_factory.mktemp("other") / "data"
    synthetic.generate(synthetic.SyntheticSettings(str(folder), 24, 8, prevalence=0.3, seed=1, min_size=200))
    return folder


@pytest.fixture(scope="module")
def external(other, tmp_path_factory):
    """Its build."""
    out = tmp_path_factory.mktemp("external") / "build"
    build.build(settings(other, out))
    return out


def records_of(folder):
    return [schema.decode(each) for path in sorted(folder.glob("*.tfrec")) for each in tfrecord.read_records(path)]


def changed(other, tmp_path, change):
    """Settings of a build of `other` whose table `change` has altered."""
    frame = pd.read_csv(other / "train.csv")
    change(frame)
    frame.to_csv(tmp_path / "train.csv", index=False)
    return replaced(settings(other, tmp_path / "out"), csv=str(tmp_path / "train.csv"))


# ------------------------------------------------------------------------------------------------------- building


def test_a_build_leaves_out_the_patients_of_another(other, shards, main_csv, tmp_path, capsys):
    shared = main_csv["patient_id"][0]
    theirs = pd.read_csv(other / "train.csv")["patient_id"].iloc[0]

    def change(frame):
        frame.loc[frame["patient_id"] == theirs, "patient_id"] = shared

    given = replaced(changed(other, tmp_path, change), against=str(shards))
    build.build(given)
    found = {record.image_name for record in records_of(tmp_path / "out")}
    table = pd.read_csv(tmp_path / "train.csv")
    assert found == set(table["image_name"][table["patient_id"] != shared])
    assert (
        f"left out, as they, their patient or lesion are in {shards}: {24 - len(found)} of 24 images"
        in capsys.readouterr().out
    )
    assert verify.verify([shards, tmp_path / "out"]).problems == []


def test_a_shared_image_excludes_its_whole_patient(other, shards, main_csv, tmp_path):
    """Shared by name or by a list of pairs; other images of its patient may show the same lesion."""
    table = pd.read_csv(other / "train.csv")
    by_name, by_pair = table["patient_id"].unique()[:2]
    first = {each: table.index[table["patient_id"] == each][0] for each in (by_name, by_pair)}
    there = main_csv["image_name"][3]
    old = table["image_name"][first[by_name]]
    (tmp_path / "jpeg").mkdir()
    for path in (other / "jpeg/train").iterdir():
        (tmp_path / "jpeg" / (f"{there}.jpg" if path.stem == old else path.name)).hardlink_to(path)
    (tmp_path / "pairs.csv").write_text(pairs.to_csv([pairs.Pair(there, table["image_name"][first[by_pair]])]))

    def change(frame):
        frame.loc[first[by_name], "image_name"] = there

    given = replaced(
        changed(other, tmp_path, change),
        images=str(tmp_path / "jpeg"),
        against=str(shards),
        duplicates=str(tmp_path / "pairs.csv"),
    )
    build.build(given)
    found = {record.patient for record in records_of(tmp_path / "out")}
    assert found == set(table["patient_id"]) - {by_name, by_pair}


def test_unusable_values_of_against_are_reported(data, shards, external, tmp_path):
    def given(against):
        return replaced(settings(data, tmp_path / "out"), against=str(against))

    build.build(settings(data, tmp_path / "same"))
    with pytest.raises(BuildError, match="same: nothing is left to build"):
        build.build(given(tmp_path / "same"))
    manifest = tmp_path / "same" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(BuildError, match="--against .*same: an unfinished build"):
        build.build(given(tmp_path / "same"))
    assert not (tmp_path / "out").exists()


def test_verify_lists_pairs_for_the_next_build(other, external, tmp_path):
    """The same images under other names and patients."""
    (tmp_path / "jpeg").mkdir()
    for path in (other / "jpeg/train").iterdir():
        (tmp_path / "jpeg" / f"NEW_{path.name}").hardlink_to(path)

    def change(frame):
        frame["image_name"] = "NEW_" + frame["image_name"]
        frame["patient_id"] = "NEW_" + frame["patient_id"]

    given = replaced(changed(other, tmp_path, change), images=str(tmp_path / "jpeg"))
    build.build(given)
    listed = tmp_path / "pairs.csv"
    done = run_command(
        "-m", "tfrecord_tools.verify", str(external), str(tmp_path / "out"), "--pairs", str(listed), "--workers=1"
    )
    assert done.returncode == 1
    assert len(pairs.read(listed)) == 24
    with pytest.raises(BuildError, match="nothing is left to build"):
        build.build(replaced(given, against=str(external), duplicates=str(listed), overwrite=True))


# ------------------------------------------------------------------------------------------------------- training


def test_external_records_train_every_fold_and_are_held_out_in_none(shards, external):
    alone = open_data(str(shards))
    both = add_external(alone, [str(external)], held_out=False)
    for k in range(alone.folds):
        assert both.fold(k) == alone.fold(k)
        assert pipeline.count(both.others(k)) == pipeline.count(alone.others(k)) + 24


def test_they_are_held_out_fold_by_fold_on_request(shards, external):
    alone, further = open_data(str(shards)), open_data(str(external))
    both = add_external(alone, [str(external)], held_out=True)
    for k in range(alone.folds):
        assert both.fold(k) == (*alone.fold(k), *further.fold(k))
        assert both.others(k) == (*alone.others(k), *further.others(k))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_leak_is_reported(other, shards, main_csv, tmp_path, held_out):
    theirs = pd.read_csv(other / "train.csv")["patient_id"].iloc[0]
    home = {record.patient: record.fold for record in records_of(shards)}

    def build_sharing(patient):
        def change(frame):
            frame.loc[frame["patient_id"] == theirs, "patient_id"] = patient

        build.build(replaced(changed(other, tmp_path, change), overwrite=True))
        (fold,) = {record.fold for record in records_of(tmp_path / "out") if record.patient == patient}
        return fold

    # With held_out a patient may be in both builds, provided that it is in the same fold of both.
    fold = build_sharing(main_csv["patient_id"][0])
    together = next(patient for patient in main_csv["patient_id"] if home[patient] == fold)
    assert build_sharing(together) == fold
    if held_out:
        add_external(open_data(str(shards)), [str(tmp_path / "out")], held_out=True)
    apart = next(patient for patient in main_csv["patient_id"] if home[patient] != fold)
    assert build_sharing(apart) == fold
    message = rf"external images? would .*: patient {apart} is in fold {home[apart]} of {shards}.* --against"
    with pytest.raises(pipeline.DataError, match=message):
        add_external(open_data(str(shards)), [str(tmp_path / "out")], held_out=held_out)


@pytest.mark.parametrize("key", ["image_name", "sha256", "lesion", "patient"])
@pytest.mark.parametrize("where", ["train", "test"])
def test_each_identity_is_compared_with_training_and_test_set(shards, external, monkeypatch, key, where):
    alone = open_data(str(shards))
    if where == "test":
        alone = dataclasses.replace(alone, train=alone.train[1:], test=alone.train[:1])
    known = next(iter(_identities(alone.train[0] if where == "train" else alone.test[0])))
    known["lesion"] = b"L1"

    def identities(shard):
        everything = list(real(shard))
        if shard.path.startswith(str(external)):
            everything[0][key] = known[key]
        elif everything[0]["image_name"] == known["image_name"]:
            everything[0] = known
        return everything

    real = _identities
    monkeypatch.setattr("melanoma_tf.data.external._identities", identities)
    shown = known[key].hex() if key == "sha256" else known[key].decode()
    home = "the test set" if where == "test" else f"fold {alone.train[0].fold}"
    with pytest.raises(pipeline.DataError, match=f"external images? would .*: {key} {shown} is in {home} of"):
        add_external(alone, [str(external)], held_out=False)


def test_a_changed_shard_is_reported_before_its_records_are_read(shards, external, tmp_path, monkeypatch):
    """Otherwise the message would be that of a leak, which the record that was exchanged pretends."""
    folder = shutil.copytree(external, tmp_path / "changed")
    victim, stranger = next(folder.glob("train*.tfrec")), next(shards.glob("train*.tfrec"))
    _, *others = tfrecord.read_records(victim)
    with victim.open("wb") as file:
        for record in (next(tfrecord.read_records(stranger)), *others):
            tfrecord.write_record(file, record)
    size = victim.stat().st_size
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["shards"]:
        entry["bytes"] = size if entry["name"] == victim.name else entry["bytes"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    given = types.SimpleNamespace(fold="0", external=[str(folder)], validate_external=True, hold_out_source=False)
    monkeypatch.setattr(train, "FLAGS", given)
    with pytest.raises(pipeline.DataError, match=f"{victim} was changed after it was built"):
        train.open_builds(tiny.config(), str(shards))
    given.external = [str(external)]
    assert pipeline.count(train.open_builds(tiny.config(), str(shards))[0].train) == 90 + 24


def test_builds_that_cannot_be_external_are_refused(shards, other, tmp_path):
    alone = open_data(str(shards))
    test = replaced(settings(other, tmp_path / "test"), csv=str(other / "test.csv"), images=str(other / "jpeg/test"))
    build.build(test)
    with pytest.raises(pipeline.DataError, match="test has no labelled records"):
        add_external(alone, [str(tmp_path / "test")], held_out=False)
    build.build(replaced(settings(other, tmp_path / "two"), folds=2, shards=2))
    with pytest.raises(pipeline.DataError, match="two has 2 folds, expected 5"):
        add_external(alone, [str(tmp_path / "two")], held_out=True)


def test_the_command_trains_on_them_and_predict_knows(shards, external, tmp_path):
    folder = tmp_path / "run"
    args = ["--data", str(shards), "--external", str(external), "--workdir", str(folder)]
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = open_data(str(shards))
    assert f"fold 0: {pipeline.count(alone.others(0)) + 24} images" in done.stdout + done.stderr
    oof = pd.read_csv(folder / "oof.csv")
    assert sorted(oof["image_name"]) == sorted(pipeline.read_metadata(alone.fold(0))["image_name"])
    run = run_dir.open_workdir(folder)
    assert run.training_data == (run_dir.data_sha256(str(external)),)
    predicting = tiny.TRAIN.replace("import train; train.run()", "import predict; predict.run()")
    where = ["--workdir", str(folder), "--data", str(external), "--out", str(tmp_path / "out.csv"), "--strategy=cpu"]
    done = run_command("-c", predicting, *where)
    assert "warning: 24 of 24 records were training data of every finished model" in done.stdout, done.stderr[-2000:]
    # The same folder without external data is another run.
    done = run_command("-c", tiny.TRAIN, *SMOKE, *args[:2], *args[4:])
    assert done.returncode == 1
    assert "holds a run that differs in the data set" in done.stderr


def test_sources_are_held_out_in_turn(other, shards, tmp_path, monkeypatch):
    elsewhere = tmp_path / "out"
    build.build(replaced(settings(other, elsewhere), source="elsewhere"))
    given = types.SimpleNamespace(fold="0", external=[str(elsewhere)], validate_external=True, hold_out_source=True)
    monkeypatch.setattr(train, "FLAGS", given)
    monkeypatch.setattr(backbones, "build_classifier", tiny.build_classifier)
    config, on = tiny.config(epochs=1, tta=False), select.Runtime("tensorflow", "cpu", ("CPU:0",), "test")
    builds, folds = train.open_builds(config, str(shards))
    assert (builds.sources, builds.folds, folds) == (("elsewhere", "isic2020"), 2, [0])
    data = [str(shards), str(elsewhere)]
    run = run_dir.claim(tmp_path / "run", config, data, overwrite=False, sources=builds.sources)
    run.finish(0, fold.train(config, builds, 0, run.fold(0), on))
    table = run_dir.read_predictions(run.path / run_dir.OOF)
    assert set(table["source"]) == {"elsewhere"}
    assert (len(table), set(table["fold"])) == (24, {0})
    assert run_dir.open_workdir(run.path).sources == builds.sources
    names, logits = predict.predictions(run, open_data(str(elsewhere)), on, 8)
    found = pd.Series(logits, names["image_name"])[table["image_name"]]
    assert found.to_numpy() == pytest.approx(table["logit"].to_numpy(), rel=1e-3, abs=1e-5)
    with pytest.raises(run_dir.RunDirError, match="--hold_out_source: elsewhere, isic2020 then, no now"):
        run_dir.claim(run.path, config, data, overwrite=False)
