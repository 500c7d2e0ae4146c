"""melanoma_tf.evaluate: runs and anybody's predictions to metrics.json, report.html and comparison.json."""

from __future__ import annotations

import html.parser
import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from melanoma_tf import evaluate
from melanoma_tf.evaluation import analysis, predictions, skin_tone, stored, summary
from melanoma_tf.evaluation.report import page
from tests.support import browser
from tests.support.evaluation import example
from tests.support.process import run_forked
from tfrecord_tools.html import filters
from tfrecord_tools.html.page import tag

QUICK = analysis.Options(replicates=100)


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
    several = pd.DataFrame({f"prediction_{name}": table["prediction"] ** k for k, name in enumerate(["NV", "MEL"])})
    several.assign(image_name=table["image_name"]).to_csv(folder / "classes.csv", index=False)
    names = np.where(table["target"], "MEL", "NV")
    table[["image_name", "patient_id"]].assign(diagnosis=names).to_csv(folder / "truth.csv", index=False)
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
        "classes": [
            "--predictions", files / "classes.csv", "--metadata", files / "truth.csv", "--out", files / "classes",
        ],
        "nothing": [],
        "certain": ["--predictions", files / "a.csv", "--out", files / "x", "--prevalence", "1"],
        "classes against": ["--predictions", files / "classes.csv", "--against", files / "b.csv", "--out", files / "x"],
        "rule against": [
            "--predictions", files / "a.csv", "--against", files / "b.csv", "--out", files / "x", "--rule", "cost",
        ],
        "classes calibrated": ["--predictions", files / "classes.csv", "--out", files / "x", "--calibration", "platt"],
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
        ("certain", 2, "--prevalence 1: expected a share between 0 and 1"),
        ("classes against", 2, "classes.csv, which has several classes, does not use --against; leave out what is"),
        ("classes calibrated", 2, "classes.csv, which has several classes, does not use --calibration; leave out"),
        ("rule against", 2, "--against does not use --rule; leave out what is not used"),
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


def test_a_runs_own_table_has_a_logit_and_a_probability(tmp_path):
    table = example().rename(columns={"prediction": "probability"})
    table.assign(logit=np.arange(len(table)) / 7).to_csv(tmp_path / "oof.csv", index=False)
    np.testing.assert_allclose(predictions.read(tmp_path / "oof.csv")["logit"], np.arange(len(table)) / 7)


def test_folds_that_nobody_named_are_not_taken_for_those_of_the_model():
    table, plain = example(), example().drop(columns="fold")
    joined = predictions.with_metadata(predictions.check(plain, "a"), table, "metadata")
    found = analysis.analyze(joined, QUICK)
    assert not found["out_of_fold"]
    assert "floor" in found
    assert any("nothing says that the model was trained by them" in text for text in found["warnings"])
    named = predictions.with_metadata(predictions.check(plain, "a"), table, "metadata", "fold")
    assert analysis.analyze(named, QUICK)["out_of_fold"]


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


def test_decisions_are_those_at_the_stated_prevalence():
    table = predictions.check(example(), "a.csv").assign(patient=lambda t: t["patient_id"])
    plain, stated = (
        analysis.decide(table, table["logit"].to_numpy(), analysis.Options(replicates=100, prevalence=share), True)
        for share in (None, 0.01)
    )
    there, rates = stated["at_prevalence"], [stated[name]["value"] for name in ("sensitivity", "specificity")]
    assert rates == [plain[name]["value"] for name in ("sensitivity", "specificity")]
    flagged = 0.01 * rates[0] + 0.99 * (1 - rates[1])
    assert there["flagged"] == pytest.approx(flagged)
    assert there["positive_predictive_value"] == pytest.approx(0.01 * rates[0] / flagged)
    odds = [p / (1 - p) for p in (there["probability"], stated["probability"])]
    share = table["target"].mean()
    assert odds[0] / odds[1] == pytest.approx(0.01 / 0.99 / (share / (1 - share)))
    # Treating all at a risk of 1 in 2 costs what the healthy are more than the ill.
    assert stated["decision_curve"]["treat_all"][-1] == pytest.approx(0.01 - 0.99)
    assert plain["decision_curve"]["treat_all"][-1] == pytest.approx(share - (1 - share))


def test_a_run_stores_what_calibrates_its_predictions(tmp_path):
    table = example().drop(columns="prediction").assign(logit=np.log(1 / (1 / example()["prediction"] - 1)))
    table.to_csv(tmp_path / "oof.csv", index=False)
    evaluate.report(tmp_path)
    found = stored.read(tmp_path / "calibration.json", tmp_path / "oof.csv")
    point = json.loads((tmp_path / "metrics.json").read_text())["operating_point"]
    assert found is not None
    assert (found.threshold, found.images) == (point["threshold"], 400)
    # Predictions of a single fold calibrate nothing, and what calibrated others is removed.
    table[table["fold"] == 0].to_csv(tmp_path / "oof.csv", index=False)
    evaluate.report(tmp_path)
    assert not (tmp_path / "calibration.json").exists()


@pytest.mark.integration
def test_lists_of_folds_and_sources_end_and_hold_no_control_characters(files, done):
    found = json.loads((files / "own/metrics.json").read_text())
    found["auc_per_fold"] = {str(fold): 0.5 for fold in range(30)}
    found["auc_per_source"] = {"clinic\x1b[31m": 0.5, "other": 0.5}
    shown = summary.lines(found)
    assert "\x1b" not in "".join(shown)
    assert sum(line.startswith("fold ") for line in shown) == 10
    assert "and 20 more folds: see metrics.json" in shown
    assert "and 10 more: see metrics.json" in page.make("many", found)


@pytest.mark.integration
def test_a_rate_says_where_its_threshold_was_chosen(files, done):
    found = json.loads((files / "own/metrics.json").read_text())
    nested = found["operating_point"]["nested"]["sensitivity"]["value"]
    assert f"{nested:.3f} where other folds choose the threshold" in page.make("four folds", found)
    found["operating_point"]["nested"] = None
    assert "the threshold was chosen on these images" in page.make("one fold", found)


@pytest.mark.integration
def test_the_gallery_is_filtered_where_its_figures_are_marked(files, done):
    found, choices = json.loads((files / "own/metrics.json").read_text()), {"site": ["torso", "head"]}
    figures = {marked: tag("figure", **filters.marks(site="torso" if marked else None)) for marked in (True, False)}
    offered = {marked: "<select" in page.make("own", found, figure, choices) for marked, figure in figures.items()}
    assert offered == {True: True, False: False}


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
def test_several_classes_have_a_balanced_accuracy(files, done):
    assert done["classes"]["code"] == 0, done["classes"]["stderr"]
    found, table = json.loads((files / "classes/metrics.json").read_text()), example()
    expected = sklearn.metrics.roc_auc_score(table["target"], table["prediction"])
    assert found["classes"]["MEL"]["auc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert found["patients_known"]
    assert "balanced accuracy 0.5" in done["classes"]["stdout"]  # the power of zero is always the highest
    assert "0.500" in (files / "classes/report.html").read_text()


@pytest.mark.integration
def test_the_reporting_sheet_has_the_figures_and_what_is_missing(files, done):
    text, found = (files / "own/tripod_ai.md").read_text(), json.loads((files / "own/metrics.json").read_text())
    rows = dict(line[2:-2].split(" | ", 1) for line in text.splitlines() if line.startswith("| "))
    assert f"ROC AUC {found['auc']['value']:.3f} (95% interval {found['auc']['low']:.3f}" in rows["23a"]
    assert f"400 images of {found['patients']} patients, {found['positives']} melanomas" in rows["21"]
    assert rows["18a"] == "Funding | **missing**: to be filled in by the author"
    assert rows["12c"].endswith("**missing**: to be filled in by the author")  # anybody's predictions have no run.json
    assert "<script" not in text
    assert {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {4}


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
