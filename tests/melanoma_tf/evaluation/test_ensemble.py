"""Ensembles: features and averages by hand, scikit-learn's fits, and no label of a fold in its own predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy import special, stats
from sklearn.linear_model import LogisticRegression

from melanoma_tf.evaluation import ensemble, intervals, metrics, predictions

FITTED = [("weights", "logistic"), ("stack", "logistic"), ("stack", "boosting")]


def example(n=300, seed=0, signal=1.0, spread=0.0, folds=3):
    """Predictions of two runs: a signal in the logit, and a spread of patients that says nothing of their images."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, n // 10, n)
    y = np.zeros(n, int)
    for fold in range(folds):  # equal shares, so that no fold's prevalence says anything of another's
        own = rng.permutation(np.flatnonzero(patients % folds == fold))
        y[own[: len(own) // 4]] = 1
    table = pd.DataFrame(
        {
            "image_name": [f"i{k}" for k in range(n)],
            "patient_id": [f"p{k}" for k in patients],
            "fold": patients % folds,
            "target": y,
            "sex": rng.choice(np.array(["male", "female", None], object), n),
            "age_approx": rng.choice([40.0, 55.0, np.nan], n),
        }
    )
    shift = spread * rng.normal(size=n)[patients]
    logits = {name: signal * y + shift + rng.normal(0, noise, n) for name, noise in (("a", 1.0), ("b", 2.0))}
    return table, pd.DataFrame(logits)


# ------------------------------------------------------------------------------------------------ without fitting


def test_averages_by_hand():
    logits = pd.DataFrame({"a": [0.0, 2.0, -1.0], "b": [4.0, 0.0, -1.0]})
    np.testing.assert_allclose(ensemble.average("mean", logits, [0, 0, 0]), [2.0, 1.0, -1.0])
    probabilities = special.expit(ensemble.average("mean_probability", logits, [0, 0, 0]))
    np.testing.assert_allclose(probabilities, special.expit(logits.to_numpy()).mean(axis=1), rtol=1e-12)


def test_ranks_are_within_run_and_fold_and_ties_share_theirs():
    # Fold 1 has a scale of its own; the ties of run a in fold 0 have rank 2.5 of 3.
    logits = pd.DataFrame({"a": [1.0, 5.0, 5.0, 900.0, 100.0], "b": [3.0, 2.0, 1.0, 0.1, 0.2]})
    found = special.expit(ensemble.average("rank", logits, [0, 0, 0, 1, 1]))
    a, b = np.array([0.5, 2.0, 2.0, 0.75 * 3, 0.25 * 3]) / 3, np.array([2.5, 1.5, 0.5, 0.25 * 3, 0.75 * 3]) / 3
    np.testing.assert_allclose(found, (a + b) / 2)


# ------------------------------------------------------------------------------------------------ ugly ducklings


def test_relative_features_by_hand():
    logits = pd.DataFrame({"a": [1.0, 2.0, 6.0, 9.0, 4.0, 4.0, 7.0]})
    found = ensemble.relative_to_patient(logits, ["p", "p", "p", "one", "ties", "ties", "another"])
    assert found["rank_in_patient"].tolist() == [0.0, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5]
    sd = np.sqrt((4 + 1 + 9) / 3)  # of 1, 2 and 6, whose mean is 3
    np.testing.assert_allclose(found["z_in_patient"], [-2 / sd, -1 / sd, 3 / sd, 0, 0, 0, 0])


def test_relative_features_are_those_of_scipy_averaged_over_runs():
    rng = np.random.default_rng(0)
    logits = pd.DataFrame(rng.integers(0, 6, (60, 3)).astype(float), columns=list("abc"))
    patients = rng.integers(0, 6, 60)
    found = ensemble.relative_to_patient(logits, patients)
    for patient in range(6):
        own = patients == patient
        n, values = own.sum(), logits[own].to_numpy()
        ranks = (stats.rankdata(values, axis=0) - 1) / (n - 1)
        np.testing.assert_allclose(found.loc[own, "rank_in_patient"], ranks.mean(axis=1))
        np.testing.assert_allclose(found.loc[own, "z_in_patient"], stats.zscore(values, axis=0).mean(axis=1))


def test_equal_logits_do_not_stand_out_by_rounding():
    logits = pd.DataFrame({"a": np.full(7, 0.1)})
    assert ensemble.relative_to_patient(logits, ["p"] * 7)["z_in_patient"].tolist() == [0.0] * 7


def test_features_are_no_acquisition_shortcuts_and_missing_is_a_value():
    table, logits = example(20)
    table = table.assign(patient_id=[None, *table["patient_id"][1:]], width=640, height=range(20))
    found = ensemble.features(table, logits)
    assert list(found) == [
        "logit a", "logit b", "rank_in_patient", "z_in_patient", "age_approx", "sex", "anatom_site_general_challenge",
    ]  # fmt: skip
    assert [found["rank_in_patient"][0], found["z_in_patient"][0]] == [0.5, 0.0]  # an unknown patient
    assert (found["sex"] == ensemble.MISSING).tolist() == table["sex"].isna().tolist()
    assert set(found["anatom_site_general_challenge"]) == {ensemble.MISSING}
    assert found["age_approx"].isna().tolist() == table["age_approx"].isna().tolist()


# ------------------------------------------------------------------------------------------------ fits


def test_weights_are_those_of_logistic_regression_where_all_are_positive():
    table, logits = example(600)
    found = ensemble.fit("weights", "logistic", logits, table["target"])
    scale = logits.to_numpy().std(axis=0)
    model = LogisticRegression(tol=1e-10).fit(logits.to_numpy() / scale, table["target"])
    expected = model.coef_[0] / scale
    assert (expected > 0).all()
    np.testing.assert_allclose([*found.coefficients.values()], expected / expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.score(logits), logits.to_numpy() @ expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (lambda a, b: {"a": a, "b": -b}, [1, 0]),  # worse than chance, where plain regression has a negative weight
        (lambda a, b: {"a": -a, "b": -b}, [0.5, 0.5]),
        (lambda a, b: {"a": a, "b": a}, [0.5, 0.5]),
        (lambda a, b: {"a": a, "b": 0 * b}, [1, 0]),
        (lambda a, b: {"a": a, "b": 1000 * a}, [1000 / 1001, 1 / 1001]),  # equal shares of the ensemble
    ],
    ids=["one harms", "all harm", "twins", "constant", "scales"],
)
def test_weights_by_hand(columns, expected):
    table, logits = example(600)
    found = ensemble.fit("weights", "logistic", pd.DataFrame(columns(logits["a"], logits["b"])), table["target"])
    np.testing.assert_allclose([*found.coefficients.values()], expected, atol=1e-6)


def test_the_stack_is_scikit_learns_on_columns_made_by_hand():
    table, logits = example(600)
    columns = ensemble.features(table, logits)
    found = ensemble.fit("stack", "logistic", columns, table["target"])
    age = table["age_approx"]
    numbers = [*columns.to_numpy()[:, :4].T.astype(float), age.fillna(age.mean()), age.isna()]
    standardized = [(np.asarray(x, float) - np.mean(x)) / np.std(np.asarray(x, float)) for x in numbers]
    words = [columns["sex"] == word for word in ("female", "male", ensemble.MISSING)]
    x = np.column_stack([*standardized, *words, np.ones(len(table))])  # the last: all sites are missing
    model = LogisticRegression(max_iter=1000).fit(x, table["target"])
    np.testing.assert_allclose(found.score(columns), model.decision_function(x), atol=1e-3)
    np.testing.assert_allclose([*found.coefficients.values()], model.coef_[0], atol=1e-3)


@pytest.mark.parametrize("stacker", ["logistic", "boosting"])
def test_a_stack_takes_words_and_gaps_that_it_was_not_fitted_to(stacker):
    table, logits = example()
    complete = table.assign(sex="male", age_approx=50.0)
    fitted = ensemble.fit("stack", stacker, ensemble.features(complete, logits), table["target"])
    new = ensemble.features(complete.assign(sex="other", age_approx=np.nan), logits)
    assert np.isfinite(fitted.score(new)).all()


@pytest.mark.parametrize(("method", "stacker"), FITTED)
def test_labels_of_a_fold_do_not_reach_its_own_predictions(method, stacker):
    table, logits = example()
    own = table["fold"] == 1
    flipped = table.assign(target=table["target"].where(~own, 1 - table["target"]))
    before, _ = ensemble.out_of_fold(method, table, logits, stacker)
    after, _ = ensemble.out_of_fold(method, flipped, logits, stacker)
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any()


@pytest.mark.parametrize(("method", "stacker"), FITTED)
def test_a_fold_is_predicted_by_a_fit_to_the_others_alone(method, stacker):
    table, logits = example()
    columns = ensemble.features(table, logits) if method == "stack" else logits
    found, coefficients = ensemble.out_of_fold(method, table, logits, stacker)
    for fold in range(3):
        own = table["fold"] == fold
        fitted = ensemble.fit(method, stacker, columns[~own], table["target"][~own])
        np.testing.assert_array_equal(found[own], fitted.score(columns[own]))
        for name, value in fitted.coefficients.items():
            assert coefficients[name][fold] == value
    assert len(coefficients.columns) == {"weights": 2, "stack": 10 if stacker == "logistic" else 0}[method]


def within_folds(table, scores):
    """Mean AUC of the folds: of labels by chance its expectation is exactly 0.5, and not only nearly, as if pooled."""
    return np.mean([metrics.auc(part["target"], scores[part.index]) for _, part in table.groupby("fold")])


@pytest.mark.parametrize(
    ("method", "stacker", "simulations"), [(*case, many) for case, many in zip(FITTED, (60, 15, 8), strict=True)]
)
def test_predictions_by_chance_stay_chance(method, stacker, simulations):
    nested, in_sample = [], []
    for seed in range(simulations):
        table, logits = example(200, seed, signal=0.0, folds=2)
        nested.append(within_folds(table, ensemble.out_of_fold(method, table, logits, stacker)[0]))
        columns = ensemble.features(table, logits) if method == "stack" else logits
        fitted = ensemble.fit(method, stacker, columns, table["target"])
        in_sample.append(within_folds(table, fitted.score(columns)))

    def standard_errors(aucs):
        return (np.mean(aucs) - 0.5) / (np.std(aucs, ddof=1) / np.sqrt(simulations))

    assert abs(standard_errors(nested)) < 3.5
    assert standard_errors(in_sample) > 3.5  # what this test would find if the labels of a fold reached it


@pytest.mark.parametrize("stacker", ["logistic", "boosting"])
def test_a_stack_finds_ugly_ducklings(stacker):
    table, logits = example(1500, signal=1.5, spread=3.0)
    scores, _ = ensemble.out_of_fold("stack", table, logits[["a"]], stacker)
    alone = sklearn.metrics.roc_auc_score(table["target"], logits["a"])
    assert sklearn.metrics.roc_auc_score(table["target"], scores) > alone + 0.1


def test_one_fold_or_one_class_is_not_fitted():
    table, logits = example()
    with pytest.raises(metrics.UndefinedMetricError, match="--method weights needs two folds; got one"):
        ensemble.out_of_fold("weights", table.assign(fold=predictions.NO_FOLD), logits)
    with pytest.raises(metrics.UndefinedMetricError, match="folds beside 2 have only one class"):
        ensemble.out_of_fold("stack", table.assign(target=(table["fold"] == 2) * 1), logits)


# ------------------------------------------------------------------------------------------------ new images


@pytest.mark.parametrize(("method", "stacker"), FITTED)
def test_new_images_are_predicted_by_a_fit_to_all(method, stacker):
    known, (test, logits) = example(), example(60, seed=1)
    test = test.assign(fold=predictions.NO_FOLD, target=0).drop(columns="age_approx")
    logits.columns = ["a.csv", "b.csv"]  # by file, in the order of the runs
    found = ensemble.of_new_images(method, known, (test, logits), stacker)
    named = logits.set_axis(["a", "b"], axis=1)
    new, old = (named, known[1]) if method == "weights" else (ensemble.features(test, named), ensemble.features(*known))
    np.testing.assert_array_equal(found, ensemble.fit(method, stacker, old, known[0]["target"]).score(new))


def test_new_images_are_ranked_among_themselves():
    logits = pd.DataFrame({"a": [1.0, 3.0], "b": [9.0, 10.0]})
    test = pd.DataFrame({"fold": [predictions.NO_FOLD] * 2})
    np.testing.assert_allclose(special.expit(ensemble.of_new_images("rank", example(), (test, logits))), [0.25, 0.75])


# ------------------------------------------------------------------------------------------------ tables and figures


def checked(**changes):
    table = pd.DataFrame({"image_name": list("wxyz"), "fold": [0, 0, 1, 1], "target": [0, 1, 0, 1]})
    return predictions.check(table.assign(logit=[0.0, 1.0, 2.0, 3.0]).assign(**changes), "table")


def test_runs_are_joined_by_name_with_what_each_knows():
    first, second = checked(age_approx=[40, 50, 60, 70]), checked(age_approx=[40, None, 60, 70], sex=list("mfmf"))
    table, logits = ensemble.join([first, second[::-1].reset_index(drop=True)], ["one", "two"])
    pd.testing.assert_frame_equal(logits, pd.DataFrame({"one": first["logit"], "two": first["logit"]}))
    assert table["age_approx"].tolist() == [40, 50, 60, 70]
    assert table["sex"].tolist() == list("mfmf")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (checked().iloc[:2], "two: no prediction for 'y', 'z'; expected the images of one and two to be the"),
        (checked(image_name=list("wxyv")), "two: no prediction for 'z'; expected the images of"),
        (checked(target=[0, 1, 1, 1]), "two: another target for 'y'"),
        (checked(fold=[0, 0, 1, 2]), "1 of 4 images are in other folds in two than in one, e.g. 'z' in fold 2 and 1;"),
        (
            checked().assign(fold=predictions.NO_FOLD),
            "4 of 4 images are in other folds in two than in one, e.g. 'w' in ",
        ),
        (checked(age_approx=[40, 50, 60, 75]), "two: another age_approx for 'z'"),
    ],
)
def test_runs_of_other_images_folds_or_metadata_are_errors(second, message):
    with pytest.raises(predictions.PredictionsError) as error:
        ensemble.join([checked(age_approx=[40, 50, 60, 70]), second], ["one", "two"])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("method", ["mean", "mean_probability", "weights"])
def test_scores_of_another_scale_are_not_averaged(method):
    scores = predictions.check(checked().drop(columns=["logit", "probability"]).assign(prediction=[0, 1, 2, 30]), "t")
    with pytest.raises(
        predictions.PredictionsError, match=f"two: predictions are scores from 0 to 30; --method {method}"
    ):
        ensemble.check_scales(method, [checked(), scores], ["one", "two"])
    ensemble.check_scales("rank", [checked(), scores], ["one", "two"])


def test_the_gain_is_scikit_learns_and_paired():
    table, logits = example()
    y, both = table["target"], logits["a"] + logits["b"] / 4
    found = ensemble.gain(table, logits, both, replicates=200)
    aucs = {name: sklearn.metrics.roc_auc_score(y, logits[name]) for name in logits}
    expected = sklearn.metrics.roc_auc_score(y, both)
    assert {name: each.value for name, each in found.runs.items()} == pytest.approx(aucs, abs=1e-12)
    assert found.ensemble.value == pytest.approx(expected, abs=1e-12)
    assert found.best == max(aucs, key=lambda name: aucs[name])
    assert found.difference.value == pytest.approx(expected - max(aucs.values()), abs=1e-12)
    # Independent resamples would have an interval as wide as both AUCs' together.
    width = found.difference.high - found.difference.low
    assert width < (found.ensemble.high - found.ensemble.low) / 2
    assert found.ensemble == intervals.clustered_auc_interval(y, both, table["patient_id"], replicates=200)


def test_an_ensemble_that_orders_as_the_best_run_gains_exactly_nothing():
    table, logits = example()
    found = ensemble.gain(table, logits, special.expit(logits["a"]), replicates=100)
    assert (found.best, found.difference.value, found.difference.low, found.difference.high) == ("a", 0, 0, 0)
