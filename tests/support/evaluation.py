"""Predictions to evaluate."""

from __future__ import annotations

import numpy as np
import pandas as pd

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
