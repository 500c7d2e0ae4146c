"""Learning rates at points with a closed form."""

from __future__ import annotations

import numpy as np
import pytest

from melanoma_tf.training import schedule


def test_it_rises_linearly_and_falls_along_half_a_cosine():
    rate = schedule.warmup_cosine(1.0, total_steps=110, warmup_steps=10, final_fraction=0.1)
    expected = {0: 0.0, 5: 0.5, 10: 1.0, 35: 0.1 + 0.9 * (1 + np.sqrt(0.5)) / 2, 60: 0.55, 110: 0.1, 500: 0.1}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, atol=1e-6, err_msg=f"step {step}")


def test_without_warm_up_it_starts_at_the_peak():
    np.testing.assert_allclose(schedule.warmup_cosine(3e-4, 100, 0)(0), 3e-4, rtol=1e-6)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="warm-up of 100 steps does not fit into a run of 100 steps"):
        schedule.warmup_cosine(1.0, 100, 100)


def test_an_extended_run_keeps_the_rates_that_it_had():
    """Ten steps as planned, then those of a run of 20, then those of a run of 40."""
    parts = {end: schedule.warmup_cosine(1.0, end, 2, 0.1) for end in (10, 20, 40)}
    rate = schedule.extended(parts)
    for steps, end in ((range(10), 10), (range(10, 20), 20), (range(20, 45), 40)):
        for step in steps:
            cosine = 0.5 * (1 + np.cos(np.pi * min(1, (step - 2) / (end - 2))))
            expected = step / 2 if step < 2 else 0.1 + 0.9 * cosine
            np.testing.assert_allclose(rate(step), expected, atol=1e-6, err_msg=f"step {step}")


def test_a_run_that_was_not_extended_has_the_plain_schedule():
    plain = schedule.warmup_cosine(1.0, 10, 2)
    assert schedule.extended({10: plain}) is plain
