"""AUC against scikit-learn, with ties and weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from melanoma_tf.evaluation import metrics


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=60).filter(
        lambda rows: len({y for y, _, w in rows if w}) == 2
    )
)
def test_auc_is_that_of_scikit_learn_with_ties_and_weights(rows):
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    np.testing.assert_allclose(metrics.auc(labels, scores, weights), expected, atol=1e-12)


def test_auc_by_hand():
    # Pairs (positive, negative): 0.8 > 0.5, 0.8 > 0.2, 0.5 = 0.5, 0.5 > 0.2: 3.5 of 4.
    assert metrics.auc([1, 1, 0, 0], [0.8, 0.5, 0.5, 0.2]) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize(
    ("labels", "scores", "error", "message"),
    [
        ([1, 1], [0.1, 0.2], metrics.UndefinedMetricError, "no negative among 2 labels"),
        ([0, 0], [0.1, 0.2], metrics.UndefinedMetricError, "no positive among 2 labels"),
        ([0, 2], [0.1, 0.2], ValueError, "labels must be 0 or 1, got .*2"),
        ([0, 1], [0.1, np.nan], ValueError, "scores must be finite, got nan at index 1"),
        ([0, 1, 1], [0.1, 0.2], ValueError, "got 3 labels, 2 scores"),
    ],
)
def test_bad_input_is_reported(labels, scores, error, message):
    with pytest.raises(error, match=message):
        metrics.auc(labels, scores)
