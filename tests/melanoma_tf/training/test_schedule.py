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
