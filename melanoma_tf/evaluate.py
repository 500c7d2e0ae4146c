"""Evaluate a run's out-of-fold predictions.

    python -m melanoma_tf.evaluate --workdir RUN

Writes the AUC of the held-out images, with an interval that resamples patients, to RUN/metrics.json.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from melanoma_tf.core import cli, files
from melanoma_tf.evaluation import intervals, metrics
from melanoma_tf.training.run_dir import METRICS, OOF, RunDirError, read_predictions

if TYPE_CHECKING:
    import pandas as pd

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "Run folder: the --workdir of melanoma_tf.train.", required=True)


def main(argv: list[str]) -> None:
    """Prints the metrics of --workdir."""
    folder = cli.local_folder("workdir", FLAGS.workdir)
    cli.existing_folder("workdir", FLAGS.workdir, expected="the --workdir of melanoma_tf.train")
    cli.say(report(folder))


def report(folder: Path) -> str:
    """Writes metrics.json of a run and returns the metrics as text.

    Raises:
      RunDirError: no fold is finished.
      metrics.UndefinedMetricError: a fold has only one class.
    """
    if not (folder / OOF).is_file():
        raise RunDirError(f"{folder / OOF} does not exist; melanoma_tf.train writes it when it finishes a fold")
    table = read_predictions(folder / OOF)
    results = compute_metrics(table)
    files.write_text(folder / METRICS, json.dumps(results, indent=1) + "\n")
    lines = [
        f"held out: {results['images']} images of {results['patients']} patients, {results['positives']} malignant"
    ]
    lines += [f"fold {fold}: AUC {value:.4f}" for fold, value in results["auc_per_fold"].items()]
    if len(results["auc_per_source"]) > 1:
        lines += [f"{source}: AUC {value:.4f}" for source, value in results["auc_per_source"].items()]
    if "no_interval" in results:
        lines += [f"AUC {results['auc']['value']:.4f}, without an interval: {results['no_interval']}"]
    else:
        lines += [f"AUC {intervals.Interval(**results['auc'])}, patients resampled"]
    lines += [f"predictions: {folder / OOF}", f"metrics: {folder / METRICS}"]
    return "\n".join(lines)


def compute_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Computes the metrics of out-of-fold predictions.

    The AUC of several folds pools their logits, although models of different folds need not share a scale; the AUC of
    each fold is free of that.

    Args:
      table: image_name, patient_id, source, fold, target and logit of each image.

    Returns:
      The contents of metrics.json; `no_interval` is the reason where an interval does not exist.

    Raises:
      metrics.UndefinedMetricError: a fold has only one class.
    """
    # An image of an unknown patient is a cluster of its own.
    patients = table["patient_id"].fillna("image " + table["image_name"])
    results: dict[str, Any] = {
        "images": len(table),
        "patients": int(patients.nunique()),
        "positives": int(table["target"].sum()),
        "auc": {"value": metrics.auc(table["target"], table["logit"])},
        "auc_per_fold": {str(k): metrics.auc(fold["target"], fold["logit"]) for k, fold in table.groupby("fold")},
        "auc_per_source": {
            k: metrics.auc(part["target"], part["logit"])
            for k, part in table.groupby("source")
            if part["target"].nunique() > 1
        },
    }
    try:
        interval = intervals.clustered_auc_interval(table["target"], table["logit"], patients)
        results["auc"] = dataclasses.asdict(interval)
    except metrics.UndefinedMetricError as error:  # too few patients for an interval
        results["no_interval"] = str(error)
    return results


def run() -> None:
    """Runs the command; console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
