"""Thresholds, net benefit and refer sets against definitions, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import MultiLabelClassificationController

from melanoma_tf.evaluation import metrics, operating_point

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=40).filter(
    lambda rows: len({y for y, _ in rows}) == 2
)


def every_threshold(labels, scores):
    """(threshold, sensitivity, specificity, missed, alarms) of every threshold there is."""
    for threshold in [*np.unique(scores), np.inf]:
        flagged = scores >= threshold
        missed, alarms = int((labels * ~flagged).sum()), int(((1 - labels) * flagged).sum())
        yield threshold, 1 - missed / labels.sum(), 1 - alarms / (1 - labels).sum(), missed, alarms


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]), st.sampled_from([0.5, 1.0, 20.0]))
def test_the_threshold_is_the_best_of_all(rows, rate, cost):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    all_of = list(every_threshold(labels, scores))
    sensitive = [t for t, sensitivity, *_ in all_of if sensitivity >= rate - 1e-9]
    assert operating_point.choose(labels, scores, "sensitivity", rate) == max(sensitive)
    specific = [t for t, _, specificity, *_ in all_of if specificity >= rate - 1e-9]
    assert operating_point.choose(labels, scores, "specificity", rate) == min(specific)
    costs = {t: cost * missed + alarms for t, *_, missed, alarms in all_of}
    assert costs[operating_point.choose(labels, scores, "cost", cost)] == min(costs.values())


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("sensitivity", 1.2, "sensitivity must be in \\[0, 1\\], got 1.2"),
        ("cost", 0, "cost must be positive, got 0"),
        ("accuracy", 0.9, "unknown rule 'accuracy'; expected one of: sensitivity, specificity, cost"),
    ],
)
def test_bad_rules_are_reported(rule, value, message):
    with pytest.raises(ValueError, match=message):
        operating_point.choose([0, 1], [0.0, 1.0], rule, value)


def test_performance_by_hand():
    labels, scores = [1, 1, 1, 0, 0, 0, 0, 0], [3, 2, 0, 2, 0, 0, 0, 0]
    found = operating_point.performance(labels, scores, 2, list("abcdefgh"), replicates=200)
    assert {name: interval.value for name, interval in found.items()} == {
        "sensitivity": pytest.approx(2 / 3),
        "specificity": pytest.approx(4 / 5),
        "positive_predictive_value": pytest.approx(2 / 3),
        "negative_predictive_value": pytest.approx(4 / 5),
        "flagged": pytest.approx(3 / 8),
    }
    assert found["specificity"].low < 4 / 5 < found["specificity"].high


def test_net_benefit_is_its_closed_form():
    labels, probabilities = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.3, 0.5, 0.2, 0.1])
    found = operating_point.decision_curve(labels, probabilities, [0.1, 0.25, 0.6])
    # True positives less false positives times t / (1 - t), per image.
    np.testing.assert_allclose(found.model, [(2 - 3 / 9) / 5, (2 - 1 / 3) / 5, 1 / 5])
    np.testing.assert_allclose(found.treat_all, [(2 - 3 / 9) / 5, (2 - 3 / 3) / 5, (2 - 3 * 1.5) / 5])


def test_a_prevalence_weights_decisions_like_the_images_themselves():
    """Of 4 positives and 8 negatives; at a prevalence of 1 in 9, as if each negative were there four times."""
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [4, 8])
    scores = rng.random(12)
    many = np.r_[np.flatnonzero(labels == 1), np.tile(np.flatnonzero(labels == 0), 4)]
    thresholds = [0.05, 0.2, 0.4]
    found = operating_point.decision_curve(labels, scores, thresholds, 1 / 9)
    expected = operating_point.decision_curve(labels[many], scores[many], thresholds)
    np.testing.assert_allclose(found.model, expected.model)
    np.testing.assert_allclose(found.treat_all, expected.treat_all)
    for cost in (0.7, 3.3, 11.3):
        expected_threshold = operating_point.choose(labels[many], scores[many], "cost", cost)
        assert operating_point.choose(labels, scores, "cost", cost, 1 / 9) == expected_threshold
    chosen = {operating_point.choose(labels, scores, "cost", 11.3, share) for share in (0.01, 0.1, 0.9)}
    assert len(chosen) > 1


def test_each_fold_is_flagged_by_the_threshold_of_the_others():
    labels, folds = [1, 0, 1, 0], [0, 0, 1, 1]
    # Fold 1 chooses 5, which flags nothing of fold 0, and fold 0 chooses 2, which flags both images of fold 1.
    found = operating_point.nested_flags(labels, [2.0, 1.0, 5.0, 4.0], folds, "sensitivity", 1.0)
    assert found.tolist() == [False, False, True, True]
    with pytest.raises(metrics.UndefinedMetricError, match="needs two folds; got one"):
        operating_point.nested_flags(labels, [2.0, 1.0, 5.0, 4.0], [0] * 4, "sensitivity", 1.0)


def test_the_guarantee_of_the_refer_set_holds_on_new_images():
    """The expected risks, over 2,000 draws of calibration images, are below the limits but not far below."""
    rng = np.random.default_rng(0)
    missed, alarms = [], []
    labels = np.repeat([1, 0], [60, 200])
    for _ in range(2000):
        found = operating_point.refer_set(labels, rng.normal(labels, 1.0), 0.9, 0.8)
        new = rng.normal([1.0, 0.0], 1.0)
        missed.append(new[0] < found.low)
        alarms.append(new[1] >= found.high)
    assert 0.07 < np.mean(missed) < 0.1 + 3 * np.sqrt(0.09 / 2000)
    assert 0.17 < np.mean(alarms) < 0.2 + 3 * np.sqrt(0.16 / 2000)


def test_the_refer_set_by_hand():
    # 9 positives: a risk of 0.2 allows (1 + 1) / (9 + 1), one below the lower threshold. 9 negatives: likewise above.
    labels = [1] * 9 + [0] * 9
    scores = [*range(1, 10), *range(-4, 5)]
    found = operating_point.refer_set(labels, scores, 0.8, 0.8)
    assert found.low == 2
    assert 3 < found.high < 3.1
    # 2 and 3 of the positives and of the negatives
    assert found.referred == pytest.approx(4 / 18)


def test_too_few_positives_guarantee_nothing():
    with pytest.raises(metrics.UndefinedMetricError, match=r"at most 0.05 needs 19 positives, got 18"):
        operating_point.refer_set([1] * 18 + [0] * 99, range(117), 0.95, 0.5)
    operating_point.refer_set([1] * 19 + [0] * 99, range(118), 0.95, 0.5)


@pytest.mark.parametrize("images", [60, 137])
@pytest.mark.parametrize("sensitivity", [0.8, 0.9, 0.95])
def test_the_lower_threshold_is_that_of_mapie(images, sensitivity):
    scores = np.random.default_rng(images).uniform(0.01, 1, images).round(4)
    # MAPIE controls the recall of several labels and flags above a threshold of a grid, not at it.
    grid = np.unique(np.r_[0.0, scores - 1e-9])
    controller = MultiLabelClassificationController(
        predict_function=lambda index: np.stack([scores[index[:, 0]], np.zeros(len(index))], axis=1),
        risk="recall",
        method="crc",
        target_level=sensitivity,
        predict_params=grid,
    )
    controller.calibrate(np.arange(images)[:, None], np.tile([1, 0], (images, 1)))
    found = operating_point.refer_set(np.r_[np.ones(images), 0], np.r_[scores, 0.0], sensitivity, 0.5)
    assert found.low == pytest.approx(float(np.squeeze(controller.best_predict_param)), abs=1e-8)
