"""melanoma_tf.evaluate: runs and anybody's predictions to metrics.json, report.html and comparison.json."""

from __future__ import annotations

import html.parser
import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from melanoma_tf import evaluate
from melanoma_tf.evaluation import analysis, predictions, skin_tone
from melanoma_tf.evaluation.report import page
from tests.support import browser
from tests.support.process import run_forked

QUICK = analysis.Options(replicates=100)
HOSTILE = "<script>alert(1)</script>\"'&=cmd"


def example(n=400, seed=0):
    """Predictions of images of patients in four folds, with metadata."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, n // 4, n)
    target = (rng.random(n) < 0.25).astype(int)
    return pd.DataFrame(
        {
            "image_name": [f"image_{i}" for i in range(n)],
            "patient_id": [f"p{k}" for k in patients],
            "fold": patients % 4,
            "target": target,
            "prediction": 1 / (1 + np.exp(-rng.normal(2 * target - 2, 1.0))),
            "sex": np.where(patients % 2, "male", "female"),
            "age_approx": 20 + 5 * (patients % 12),
            "anatom_site_general": np.where(patients % 3, "torso", HOSTILE),
            "source": np.where(patients % 2, "one", HOSTILE),
            "width": np.where(target + (patients % 5) > 4, 640, 1024),
            "height": 480,
        }
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a.csv, b.csv (another model of the same images, in another order) and metadata.csv."""
    folder = tmp_path_factory.mktemp("predictions")
    table = example()
    columns = ["image_name", "target", "prediction"]
    table.to_csv(folder / "a.csv", index=False)
    table.drop(columns=["prediction", "target"]).rename(columns={"fold": "part"}).to_csv(
        folder / "metadata.csv", index=False
    )
    other = table.assign(prediction=example(seed=1)["prediction"]).sample(frac=1, random_state=0)
    other[columns].to_csv(folder / "b.csv", index=False)
    table[columns].to_csv(folder / "plain.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def done(files):
    """Exit code and output of each command."""
    command = ["melanoma_tf.evaluate", "--replicates=100"]
    cases = {
        "own columns": ["--predictions", files / "a.csv", "--out", files / "own"],
        "metadata": [
            "--predictions", files / "plain.csv", "--metadata", files / "metadata.csv", "--folds_from", "part",
            "--out", files / "joined",
        ],
        "comparison": ["--predictions", files / "a.csv", "--against", files / "b.csv", "--out", files / "own"],
        "plain": ["--predictions", files / "plain.csv", "--out", files / "plain"],
        "nothing": [],
        "no out": ["--predictions", files / "a.csv"],
        "stress": ["--predictions", files / "a.csv", "--out", files / "x", "--stress"],
        "no column": ["--predictions", files / "a.csv", "--folds_from", "shard", "--out", files / "x"],
    }  # fmt: skip
    return dict(zip(cases, run_forked([[*command, *map(str, case)] for case in cases.values()]), strict=True))


@pytest.mark.integration
def test_anybodys_predictions_are_evaluated_without_tensorflow(files, done):
    assert done["own columns"]["code"] == 0, done["own columns"]["stderr"]
    assert not done["own columns"]["tensorflow"]
    found, table = json.loads((files / "own/metrics.json").read_text()), example()
    assert found["auc"]["value"] == pytest.approx(
        sklearn.metrics.roc_auc_score(table["target"], table["prediction"]), abs=1e-9
    )
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]
    brier = sklearn.metrics.brier_score_loss(table["target"], table["prediction"])
    assert found["calibration"]["before"]["brier"]["score"] == pytest.approx(brier, abs=1e-9)
    assert found["calibration"]["after"]["brier"]["score"] < brier
    assert found["floor"]["features"][-2:] == ["width", "share_of_size"]
    assert set(found["subgroups"]) == {"sex", "age", "site", "source", "image size"}
    assert found["operating_point"]["sensitivity"]["value"] >= 0.9
    assert "floor, without pixels: AUC " in done["own columns"]["stdout"]


@pytest.mark.integration
def test_metadata_and_folds_from_another_table_give_the_same(files, done):
    assert done["metadata"]["code"] == 0, done["metadata"]["stderr"]
    own, joined = (json.loads((files / name / "metrics.json").read_text()) for name in ("own", "joined"))
    assert own == joined


@pytest.mark.integration
def test_without_folds_and_patients_there_is_less_and_it_says_so(files, done):
    assert done["plain"]["code"] == 0, done["plain"]["stderr"]
    found = json.loads((files / "plain/metrics.json").read_text())
    assert "floor" not in found
    assert "warning: no patient is known: intervals take their images as independent" in done["plain"]["stdout"]
    assert "not calibrated" in found["calibration"]["none"]


@pytest.mark.integration
def test_two_models_are_compared_on_the_same_images(files, done):
    assert done["comparison"]["code"] == 0, done["comparison"]["stderr"]
    found = json.loads((files / "own/comparison.json").read_text())["differences"]["auc"]
    first, second = example(), example(seed=1)
    expected = [sklearn.metrics.roc_auc_score(first["target"], t["prediction"]) for t in (first, second)]
    assert [found["first"], found["second"]] == pytest.approx(expected, abs=1e-9)
    assert "data of this size show a difference in AUC from" in done["comparison"]["stdout"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("nothing", 2, "pass --workdir RUN or --predictions CSV"),
        ("no out", 2, "--predictions needs --out"),
        ("stress", 2, "--stress needs --workdir RUN and --data"),
        ("no column", 1, "has no column shard (--folds_from); got image_name"),
    ],
)
def test_usage_errors(done, case, code, message):
    assert done[case]["code"] == code
    assert message in done[case]["stderr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="prediction"), "has no column prediction; expected image_name, patient_id, target"),
        (lambda t: t.assign(prediction=t["prediction"].where(t.index != 3)), "no finite prediction for 'image_3'"),
        (lambda t: t.assign(prediction=[np.inf, *t["prediction"][1:]]), "no finite prediction for 'image_0'"),
        (lambda t: t.assign(target=t["target"].where(t.index != 5)), "no finite target for 'image_5'"),
        (lambda t: t.assign(target=t["target"].replace(1, 2)), "a target other than 0 and 1 for"),
        (lambda t: pd.concat([t, t.iloc[[7]]]), "more than one prediction for 'image_7'"),
        (lambda t: t.assign(age_approx="old"), "no number as age_approx for 'image_0', .* and 395 more"),
        (lambda t: t.iloc[:0], "has no row"),
    ],
)
def test_nothing_is_left_out_silently(tmp_path, change, message):
    path = tmp_path / "predictions.csv"
    change(example()).to_csv(path, index=False)
    with pytest.raises(predictions.PredictionsError, match=message):
        predictions.read(path)


def test_images_without_metadata_are_named():
    table = predictions.check(example(), "a.csv")
    with pytest.raises(predictions.PredictionsError, match=r"m.csv: no row for 'image_0'"):
        predictions.with_metadata(table, table[["image_name", "sex"]].iloc[1:], "m.csv")
    with pytest.raises(predictions.PredictionsError, match=r"b.csv: no prediction for 'image_399'"):
        predictions.same_images(table, table.iloc[:-1], ("a.csv", "b.csv"))


def test_folds_that_share_patients_are_refused_or_said_at_the_top():
    table = predictions.check(example(), "a.csv")
    table["fold"] = np.arange(len(table)) % 4
    with pytest.raises(predictions.PredictionsError, match="patients have images in two folds, e.g. p"):
        analysis.analyze(table)
    found = analysis.analyze(table, analysis.Options(allow_leakage=True, replicates=100))
    assert "every figure is too good" in found["warnings"][0]


def test_metadata_fills_gaps_and_does_not_overwrite():
    table = predictions.check(example(), "a.csv")
    empty = table[["image_name"]].assign(patient_id=None, sex="male")
    joined = predictions.with_metadata(table.drop(columns="sex"), empty, "m.csv")
    assert joined["patient_id"].tolist() == table["patient_id"].tolist()
    assert set(joined["sex"]) == {"male"}
    with pytest.raises(predictions.PredictionsError, match=r"m.csv: another patient_id for 'image_0'"):
        predictions.with_metadata(table, empty.assign(patient_id="x"), "m.csv")


def test_images_without_a_fold_among_others_are_left_out_and_counted():
    table = example()
    table.loc[:9, "fold"] = -1
    found = predictions.check(table, "a.csv")
    assert len(found) == 390
    assert "10 images of fold -1 are left out" in " ".join(analysis.analyze(found, QUICK)["warnings"])


def test_scores_that_are_no_probabilities_have_no_probability_of_the_threshold():
    table = predictions.check(example().assign(prediction=np.arange(400.0), fold=0), "a.csv")
    point = analysis.analyze(table, QUICK)["operating_point"]
    assert (point["probability"], point["decision_curve"]) == (None, None)


def test_estimated_skin_tone_is_a_subgroup_that_states_its_error():
    table = predictions.check(example(), "a.csv")
    without = page.make("none", analysis.to_json(analysis.analyze(table, QUICK)))
    assert "ISIC 2020 records no skin type: nothing here says how the model does on dark skin." in without
    tones = skin_tone.classify(np.where(np.arange(len(table)) % 3, 60.0, np.nan))
    found = analysis.to_json(analysis.analyze(table.assign(skin_tone=tones), QUICK))
    assert list(found["subgroups"]["skin tone (estimated)"]) == ["very light", "unknown"]
    assert "an estimate with a large error" in page.make("some", found)


def test_a_constant_prediction_is_worded_truly():
    found = analysis.to_json(analysis.analyze(predictions.check(example().assign(prediction=0.5), "a.csv"), QUICK))
    assert ", all are flagged." in page.make("constant", found)


def test_models_on_different_scales_are_noticed():
    table = predictions.check(example(), "a.csv")
    options = analysis.Options(replicates=100)
    assert "scales_differ" not in analysis.discrimination(table.assign(patient=table["patient_id"]), options)
    shifted = table.assign(logit=table["logit"] + 3 * table["fold"], patient=table["patient_id"])
    assert analysis.discrimination(shifted, options)["scales_differ"]


def test_too_few_patients_for_an_interval_still_have_an_auc(tmp_path):
    table = {"image_name": list("abcd"), "patient_id": ["p", "p", "q", "r"], "fold": 0, "target": [1, 1, 0, 0]}
    frame = pd.DataFrame({**table, "source": "here", "logit": [2.0, 0.0, 1.0, -1.0]})
    frame.to_csv(tmp_path / "oof.csv", index=False)
    text = evaluate.report(tmp_path)
    assert "AUC 0.7500, without an interval: an interval needs images of both classes of at least two patients" in text
    assert json.loads((tmp_path / "metrics.json").read_text())["auc"]["value"] == 0.75


def test_each_source_has_its_auc_where_it_has_both_classes():
    table = {"image_name": list("abcdefg"), "patient_id": list("abcdefg"), "fold": 0, "target": [1, 1, 0, 0, 1, 0, 0]}
    table |= {"source": ["one"] * 4 + ["two"] * 2 + ["only benign"], "logit": [2.0, 0.0, 1.0, -1.0, 0.0, 1.0, 0.0]}
    found = analysis.analyze(predictions.check(pd.DataFrame(table), "a.csv"), analysis.Options(replicates=100))
    assert found["auc_per_source"] == {"one": 0.75, "two": 0.0}


class _Tags(html.parser.HTMLParser):
    """Checks that tags close in order, and collects them."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.integration
def test_the_report_is_well_formed_and_texts_stay_texts(files, done):
    text = (files / "own/report.html").read_text()
    parser = _Tags()
    parser.feed(text)
    assert not parser.open
    names = {tag for tag, _ in parser.seen}
    assert "script" not in names
    assert not any(key.startswith("on") for _, attributes in parser.seen for key in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    charts = [attributes for tag, attributes in parser.seen if tag == "svg" and attributes.get("role") == "img"]
    assert len(charts) == 3
    assert all(chart["aria-label"] for chart in charts)
    ids = [attributes["id"] for _, attributes in parser.seen if "id" in attributes]
    links = {attributes["href"][1:] for tag, attributes in parser.seen if tag == "a"}
    assert len(ids) == len(set(ids))
    assert links == set(ids)


@pytest.mark.integration
def test_the_model_card_has_the_figures_and_what_is_missing(files, done):
    text, found = (files / "own/model_card.md").read_text(), json.loads((files / "own/metrics.json").read_text())
    assert (
        f"| ROC AUC | {found['auc']['value']:.3f} | {found['auc']['low']:.3f} to {found['auc']['high']:.3f} |" in text
    )
    assert "| Comparison with clinicians | **missing**" in text
    assert "<script" not in text
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(widths) <= {3, 4, 6}


@pytest.mark.integration
def test_a_browser_shows_the_report_without_network_and_without_sideways_scrolling(files, done):
    program = browser.find()
    if program is None:
        pytest.skip("there is no Chromium")
    with browser.page(program) as tab:
        for width, dark in ((1280, False), (390, True)):
            tab.open(files / "own/report.html", width, dark)
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert tab.complaints() == []
            assert len(tab.requests()) == 1
            # The most important figure is on the first screen.
            assert tab.evaluate("document.querySelector('.tile dd').getBoundingClientRect().bottom < innerHeight")
