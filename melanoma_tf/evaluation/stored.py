"""calibration.json: the calibrator and the operating point of a run, as `evaluate` stores and `predict` uses them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma_tf.core import files
from melanoma_tf.evaluation import calibration, operating_point
from melanoma_tf.evaluation.calibration import Calibrator
from tfrecord_tools.core import json_file

AGAIN = "run python -m melanoma_tf.evaluate --workdir RUN again"


class StoredError(ValueError):
    """A calibration.json that cannot be used; the message names file and remedy."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A calibrator and an operating point, fitted to out-of-fold predictions.

    Attributes:
      calibrator: from logits of one model to calibrated logits.
      rule: how the operating point was chosen, see `operating_point.choose`.
      value: of the rule.
      threshold: calibrated logit from which an image is flagged, or None where none is.
      prevalence: share of positives among the predictions, in (0, 1).
      images: number of predictions.
      oof_sha256: SHA-256 of the file of predictions.
    """

    calibrator: Calibrator
    rule: str
    value: float
    threshold: float | None
    prevalence: float
    images: int
    oof_sha256: str

    def __call__(
        self, logits: ArrayLike, prevalence: float | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Calibrates logits.

        Args:
          logits: [N].
          prevalence: share of positives where they are used, in (0, 1); None for that of the predictions.

        Returns:
          [N], calibrated logits, and [N], whether an image is flagged: the threshold moves with the prevalence, so
          that the same images are flagged at any.
        """
        found = self.calibrator(logits)
        flagged = found >= (np.inf if self.threshold is None else self.threshold)
        if prevalence is not None:
            found = calibration.at_prevalence(found, self.prevalence, prevalence)
        return found, flagged


def of_results(results: Mapping[str, Any], oof_sha256: str) -> Stored | None:
    """Takes what is to be stored from metrics.json; None where nothing was calibrated, or to a constant.

    Args:
      results: the contents of metrics.json.
      oof_sha256: SHA-256 of the file of predictions.
    """
    if "calibrator" not in results["calibration"]:
        return None
    point, calibrator = results["operating_point"], Calibrator.from_json(results["calibration"]["calibrator"])
    if calibrator.is_constant:  # it would take the order from the images
        return None
    return Stored(
        calibrator,
        point["rule"],
        point["value"],
        point["threshold"],
        results["positives"] / results["images"],
        results["images"],
        oof_sha256,
    )


def write(path: Path, stored: Stored | None) -> None:
    """Writes a calibration.json; None removes an earlier one, which other predictions were fitted to."""
    if stored is None:
        path.unlink(missing_ok=True)
    else:
        files.write_text(path, json.dumps(dataclasses.asdict(stored), indent=1) + "\n")


def read(path: Path, predictions: Path) -> Stored | None:
    """Reads a calibration.json; None where there is none.

    Args:
      path: the file.
      predictions: file of the predictions that it must have been fitted to.

    Raises:
      StoredError: it is damaged, or fitted to other predictions.
    """
    try:
        found = json_file.read(path)
        stored = Stored(**{**found, "calibrator": Calibrator.from_json(found["calibrator"])})
        _check(stored)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise StoredError(f"{path} is damaged: {error}; {AGAIN}") from error
    if not predictions.is_file() or files.sha256(predictions) != stored.oof_sha256:
        raise StoredError(f"{path} was fitted to another {predictions.name} than the one beside it; {AGAIN}")
    return stored


def _check(stored: Stored) -> None:
    """Raises ValueError for values that `write` does not write."""
    numbers = [stored.prevalence, stored.value, *([] if stored.threshold is None else [stored.threshold])]
    if not all(isinstance(each, int | float) and np.isfinite(each) for each in numbers):
        raise ValueError("expected finite numbers as prevalence, value and threshold")
    if not (0 < stored.prevalence < 1 and stored.rule in operating_point.RULES):
        raise ValueError(f"prevalence {stored.prevalence}, rule {stored.rule!r}: expected 0 to 1 and a known rule")
