"""melanoma_tf.ensemble: made-up runs to oof.csv, which evaluate reads, and submission.csv; and its errors."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy import special

from melanoma_tf.evaluation import build_images
from melanoma_tf.training import run_dir
from tests.support.evaluation import example
from tests.support.process import run_forked

COMMAND = "melanoma_tf.ensemble"
NAMES = {"stack": "stack (logistic)"}  # in what is printed
RUN = [
    "image_name", "patient_id", "source", "fold", "target", "width", "height", "age_approx", "sex",
    "anatom_site_general_challenge", "logit", "probability",
]  # fmt: skip


def a_run(seed):
    """The oof.csv of a run: another seed, another model of the same images."""
    table = example().rename(columns={"anatom_site_general": "anatom_site_general_challenge"})
    rng = np.random.default_rng(seed)
    logit = special.logit(table["prediction"]) + rng.normal(0, 1, len(table))
    return table.assign(logit=logit, probability=special.expit(logit), sex=table["sex"].where(logit < 0, None))[RUN]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, finished_test):
    """Folder of the runs a and b, of others that do not go with them, and of predictions of a build by both."""
    folder = tmp_path_factory.mktemp("ensemble")
    a, b = a_run(1), a_run(2).assign(sex=a_run(1)["sex"])
    runs = {"a": a, "b": b.sample(frac=1, random_state=0), "short": b[:-2], "moved": b.assign(fold=b["fold"] ^ 1)}
    runs["shared"] = a.assign(fold=np.arange(len(a)) % 4)
    for name, table in runs.items():
        (folder / name).mkdir()
        table.to_csv(folder / name / "oof.csv", index=False)
    (folder / "a/run.json").write_text("{}")
    b[["image_name", "target", "fold"]].assign(prediction=b["probability"]).to_csv(folder / "others.csv", index=False)
    b[["image_name", "target", "fold"]].assign(prediction=b["logit"]).to_csv(folder / "scores.csv", index=False)
    names = [record.image_name for record in build_images.records(str(finished_test), test=True)]
    for seed, name in enumerate(("a", "b")):
        targets = special.expit(np.random.default_rng(seed).normal(-2, 1, len(names)))
        test = pd.DataFrame({"image_name": names, "target": targets})
        test.to_csv(folder / f"test_{name}.csv", index=False)
        test[1:].to_csv(folder / f"few_{name}.csv", index=False)
        strange = test.assign(image_name=[f"x{k}" for k in range(len(names))])
        strange.to_csv(folder / f"x_{name}.csv", index=False)
        test.assign(target=10 * targets).to_csv(folder / f"y_{name}.csv", index=False)
        test[["image_name"]].to_csv(folder / f"z_{name}.csv", index=False)
        pd.concat([test, strange[:2]]).to_csv(folder / f"more_{name}.csv", index=False)
    return folder


# Command lines that are refused, and the beginning of the message. {0} is the folder.
TWO = ("--runs={0}/a,{0}/b",)
TEST = "--test={0}/test_a.csv,{0}/test_b.csv"
REFUSED: dict[tuple[str, ...], str] = {
    ("--runs={0}/a",): "--method mean needs at least two --runs, got 1; --method stack takes a single one",
    ("--runs={0}/a,{0}/a",): "--runs names {0}/a twice; expected different runs",
    ("--runs={0}/a,{0}/c",): "--runs {0}/c: no such folder or file; expected a --workdir of melanoma_tf.train, or a",
    ("--runs={0}/a,{0}",): "{0}/oof.csv does not exist; melanoma_tf.train writes it when it finishes a fold",
    ("--runs={0}/a,{0}/short",): "{0}/short: no prediction for 'image_398', 'image_399'; expected the images of ",
    ("--runs={0}/short,{0}/a",): "{0}/short: no prediction for 'image_398', 'image_399'; expected the images of ",
    ("--runs={0}/a,{0}/moved",): "400 of 400 images are in other folds in {0}/moved than in {0}/a, e.g. 'image_0' in ",
    ("--runs={0}/a,{0}/scores.csv",): "{0}/scores.csv: predictions are scores from ",
    ("--runs={0}/shared", "--method=stack"): "90 patients have images in two folds, e.g. ",
    (*TWO, "--out={0}/b"): "--out {0}/b: its oof.csv is that of a run; pass another folder, or a new one",
    ("--runs={0}/b", "--method=stack", "--out={0}/a"): "--out {0}/a: its oof.csv is that of a run",
    (*TWO, "--out=gs://b/x"): "--out gs://b/x: expected a folder of this machine",
    (*TWO, "--stacker=boosting"): "--stacker goes with --method stack; got --method mean",
    (*TWO, "--test={0}/test_a.csv"): "--test has 1 file, expected one for each of 2 --runs",
    (*TWO, TEST, "--data={0}"): "--data goes with --test and --method stack; leave it out, see --help",
    (*TWO, TEST, "--method=stack"): "--method stack with --test needs --data, the build that was predicted",
    (*TWO, TEST, "--method=stack", "--data={0}/none"): "--data {0}/none: no such folder; expected the build that was",
    (*TWO, TEST, "--method=stack", "--data={0}"): "--data {0}: ",
    (*TWO, "--test={0}/test_a.csv,{0}/few_b.csv"): "{0}/few_b.csv: no prediction for ",
    (*TWO, "--test={0}/test_a.csv,{0}/scores.csv"): "{0}/scores.csv has a prediction beside its target; expected ",
    (*TWO, "--test={0}/test_a.csv,{0}/y_b.csv"): "only one of {0}/b and {0}/y_b.csv has probabilities; ",
    (*TWO, "--test={0}/test_a.csv,{0}/z_b.csv"): "{0}/z_b.csv has no column target; expected image_name, target (the ",
    (*TWO, "--test={0}/x_a.csv,{0}/x_b.csv", "--method=stack", "--data={1}"): "--data {1} has none of the images of ",
}


@pytest.fixture(scope="module")
def done(folder, finished_test):
    """Exit code and output of each command line: those of REFUSED, and by name those that end well."""
    places = folder, finished_test
    found: dict[tuple[str, ...] | str, list[str]] = {
        args: [COMMAND, *(arg.format(*places) for arg in args)] for args in REFUSED
    }
    for line in found.values():
        line += [] if any(arg.startswith("--out") for arg in line) else [f"--out={folder}/refused"]
    two = [COMMAND, f"--runs={folder}/a,{folder}/b", "--replicates=100"]
    tested, built = TEST.format(folder), f"--data={finished_test}"
    found |= {
        "mean": [*two, f"--out={folder}/mean", tested],
        "rank": [COMMAND, f"--runs={folder}/a,{folder}/scores.csv", "--method=rank", f"--out={folder}/rank"],
        "weights": [*two, f"--out={folder}/weights", "--method=weights", tested],
        "others": [
            COMMAND, f"--runs={folder}/a,{folder}/others.csv", "--method=weights", f"--out={folder}/others", tested,
        ],
        "stack": [*two, f"--out={folder}/stack", "--method=stack", tested, built],
        "again": [*two, f"--out={folder}/again", "--method=stack", tested, built],
        "single": [COMMAND, f"--runs={folder}/a", "--method=stack", "--stacker=boosting", f"--out={folder}/single"],
        "leak": [COMMAND, f"--runs={folder}/shared", "--method=stack", "--allow_leakage", f"--out={folder}/leak"],
        "absent": [
            *two, f"--out={folder}/absent", "--method=stack", built,
            f"--test={folder}/more_a.csv,{folder}/more_b.csv",
        ],
    }  # fmt: skip
    imported = ["melanoma_tf.evaluation.analysis", "melanoma_tf.evaluation.ensemble"]
    return dict(zip(found, run_forked([*found.values()], imported), strict=True))


@pytest.mark.integration
@pytest.mark.parametrize("args", REFUSED, ids=lambda args: " ".join(args).replace("{0}/", ""))
def test_what_cannot_be_one_prediction_is_an_error(folder, finished_test, done, args):
    assert done[args]["code"] in (1, 2)
    assert done[args]["stderr"].startswith(f"error: {REFUSED[args].format(folder, finished_test)}"), done[args][
        "stderr"
    ]
    assert done[args]["stderr"].count("\n") == 1
    assert not (folder / "refused").exists()


@pytest.mark.integration
@pytest.mark.parametrize("method", ["mean", "weights", "stack"])
def test_an_ensemble_has_the_columns_of_a_run_and_its_figures_are_printed(folder, done, method):
    assert done[method]["code"] == 0, done[method]["stderr"]
    assert not done[method]["tensorflow"]
    found, a, b = (run_dir.read_predictions(folder / name / "oof.csv") for name in (method, "a", "b"))
    assert list(found) == list(a)
    pd.testing.assert_frame_equal(
        found.drop(columns=["logit", "probability"]), a.drop(columns=["logit", "probability"])
    )
    np.testing.assert_allclose(special.expit(found["logit"]), found["probability"])
    for name, table in ((f"{folder}/a", a), (f"{folder}/b", b), (NAMES.get(method, method), found)):
        auc = sklearn.metrics.roc_auc_score(table["target"], table["logit"])
        assert re.search(rf"^  {re.escape(name)} +{auc:.4f} \(95% interval ", done[method]["stdout"], re.MULTILINE)
    assert "the best run on these images: " in done[method]["stdout"]


@pytest.mark.integration
def test_means_and_weights_are_those_of_the_logits(folder, done):
    a, b = (run_dir.read_predictions(folder / name / "oof.csv") for name in "ab")
    b = b.set_index("image_name").loc[a["image_name"]].reset_index()
    mean = run_dir.read_predictions(folder / "mean/oof.csv")["logit"]
    np.testing.assert_allclose(mean, (a["logit"] + b["logit"]) / 2)
    found = run_dir.read_predictions(folder / "weights/oof.csv")["logit"]
    for fold in range(4):
        own = a["fold"] == fold
        weight = ((found - b["logit"]) / (a["logit"] - b["logit"]))[own]
        assert 0 <= weight.iloc[0] <= 1
        np.testing.assert_allclose(weight, weight.iloc[0], rtol=1e-4)
    assert "weights of the logits, mean over folds" in done["weights"]["stdout"]


@pytest.mark.integration
def test_predictions_of_others_are_runs_too(folder, done):
    assert done["others"]["code"] == 0, done["others"]["stderr"]
    found, expected = (run_dir.read_predictions(folder / name / "oof.csv") for name in ("others", "weights"))
    np.testing.assert_allclose(found["logit"], expected["logit"], rtol=1e-5)


@pytest.mark.integration
def test_ranks_take_any_scores_and_are_said_to_be_none(folder, done):
    assert done["rank"]["code"] == 0, done["rank"]["stderr"]
    assert "mean ranks are no probabilities of melanoma" in done["rank"]["stdout"]
    a = run_dir.read_predictions(folder / "a/oof.csv")
    scores = pd.read_csv(folder / "scores.csv")
    ranks = [
        (s.groupby(a["fold"]).rank() - 0.5) / s.groupby(a["fold"]).transform("size")
        for s in (a["logit"], scores["prediction"])
    ]
    found = run_dir.read_predictions(folder / "rank/oof.csv")["probability"]
    np.testing.assert_allclose(found, (ranks[0] + ranks[1]) / 2)


@pytest.mark.integration
def test_new_images_are_predicted_in_the_order_of_the_files(folder, done):
    a, b = (pd.read_csv(folder / f"test_{name}.csv") for name in "ab")
    for method in ("mean", "weights", "stack"):
        found = pd.read_csv(folder / method / "submission.csv")
        assert list(found) == ["image_name", "target"]
        assert found["image_name"].tolist() == a["image_name"].tolist()
        assert found["target"].between(0, 1).all()
        assert "is taken for uncalibrated predictions (predict --nocalibrated)" in done[method]["stdout"]
    mean = pd.read_csv(folder / "mean/submission.csv")["target"]
    np.testing.assert_allclose(
        mean, special.expit((special.logit(a["target"]) + special.logit(b["target"])) / 2), rtol=1e-6
    )


@pytest.mark.integration
def test_images_without_a_record_are_warned_of(folder, done):
    assert done["absent"]["code"] == 0, done["absent"]["stderr"]
    assert "warning: 2 images of --test without a record in " in done["absent"]["stdout"]
    found, complete = (pd.read_csv(folder / name / "submission.csv") for name in ("absent", "stack"))
    pd.testing.assert_frame_equal(found[:-2], complete)  # to their patients' other images it is all the same
    assert found["image_name"].tolist()[-2:] == ["x0", "x1"]
    assert "without a record" not in done["stack"]["stdout"]


@pytest.mark.integration
def test_a_second_time_gives_the_same_bytes(folder, done):
    assert done["again"]["code"] == 0
    for name in ("oof.csv", "submission.csv"):
        assert (folder / "again" / name).read_bytes() == (folder / "stack" / name).read_bytes()
    assert {path.name for path in (folder / "stack").iterdir()} == {"oof.csv", "submission.csv"}


@pytest.mark.integration
def test_a_stack_takes_a_single_run(folder, done):
    assert done["single"]["code"] == 0, done["single"]["stderr"]
    assert "stack (boosting)" in done["single"]["stdout"]
    assert re.search(rf"^stack \(boosting\) less {folder}/a: ", done["single"]["stdout"], re.MULTILINE)
    assert "log-odds" not in done["single"]["stdout"]


@pytest.mark.integration
def test_shared_patients_are_warned_of(done):
    assert done["leak"]["code"] == 0, done["leak"]["stderr"]
    assert done["leak"]["stdout"].startswith("warning: 90 patients have images in two folds: every figure is too good")


@pytest.mark.integration
def test_evaluate_reads_an_ensemble(folder, done):
    assert done["stack"]["code"] == 0
    args = ["--predictions", f"{folder}/stack/oof.csv", "--out", f"{folder}/report", "--replicates=100"]
    (evaluated,) = run_forked([["melanoma_tf.evaluate", *args]])
    assert evaluated["code"] == 0, evaluated["stderr"]
    found = json.loads((folder / "report/metrics.json").read_text())
    assert found["out_of_fold"] is True
    assert f"{found['auc']['value']:.4f} (95% interval {found['auc']['low']:.4f}" in done["stack"]["stdout"]
