"""Judge a run by its out-of-fold predictions:  python -m melanoma_tf.evaluate --workdir RUN

AUC over the images held out, with an interval that resamples patients; written to RUN/metrics.json.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
from absl import flags

from melanoma_tf.core import cli, files
from melanoma_tf.evaluation import metrics
from melanoma_tf.training.run_dir import METRICS, OOF, RunDirError, read_predictions

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags of this command."""
    flags.DEFINE_string("workdir", None, "Folder of the run, as given to melanoma_tf.train.", required=True)


def main(argv: list[str]) -> None:
    cli.say(report(cli.local_folder("workdir", FLAGS.workdir)))


def report(folder: Path) -> str:
    """Writes metrics.json beside a run's oof.csv and returns the figures as text.

    Raises:
      RunDirError: no finished fold yet.
    """
    if not (folder / OOF).is_file():
        raise RunDirError(f"{folder / OOF} is not there; it is written when melanoma_tf.train has finished a fold")
    table = read_predictions(folder / OOF)
    figures = judge(table)
    files.write_text(folder / METRICS, json.dumps(figures, indent=1) + "\n")
    lines = [
        f"held out: {figures['images']} images of {figures['patients']} patients, {figures['positives']} malignant"
    ]
    lines += [f"fold {fold}: AUC {value:.4f}" for fold, value in figures["auc_per_fold"].items()]
    if len(figures["auc_per_source"]) > 1:
        lines += [f"{source}: AUC {value:.4f}" for source, value in figures["auc_per_source"].items()]
    if "no_interval" in figures:
        lines += [f"AUC {figures['auc']['value']:.4f}, without an interval: {figures['no_interval']}"]
    else:
        lines += [f"AUC {metrics.Interval(**figures['auc'])}, patients resampled"]
    lines += [f"predictions: {folder / OOF}", f"figures: {folder / METRICS}"]
    return "\n".join(lines)


def judge(table: pd.DataFrame) -> dict[str, Any]:
    """The figures of predictions with columns patient_id, source, fold, target, logit.

    Raises metrics.UndefinedMetricError if a fold holds one class only. `no_interval` says why where there is none.

    The AUC of several folds together is taken over their pooled logits; see also those of each fold, because models
    of different folds need not be on the same scale.
    """
    # A image without a patient is a cluster of its own.
    patients = table["patient_id"].fillna("image " + table["image_name"])
    figures: dict[str, Any] = {
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
        interval = metrics.clustered_auc_interval(table["target"], table["logit"], patients)
        figures["auc"] = dataclasses.asdict(interval)
    except metrics.UndefinedMetricError as error:  # a few patients only: the AUC stands, but alone
        figures["no_interval"] = str(error)
    return figures


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
