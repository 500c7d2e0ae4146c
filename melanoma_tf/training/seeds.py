"""Runs that differ in their seeds only: their configs and folders, and how far their results lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections

from melanoma_tf.core import files
from melanoma_tf.training.run_dir import OOF, RUN, RunDirError, read_predictions

SEEDS = "seeds.csv"
_IMAGE = ["fold", "source", "image_name"]


def configs(config: ml_collections.ConfigDict, folder: Path, count: int) -> dict[Path, ml_collections.ConfigDict]:
    """Returns the config of each run by its folder, FOLDER/seedN.

    Args:
      config: with the first seed; the others follow it.
      folder: of all runs.
      count: number of seeds.

    Raises:
      RunDirError: the folder is a file, or holds a run itself.
    """
    if folder.exists() and not folder.is_dir():
        raise RunDirError(f"--workdir {folder} is a file; pass a folder")
    if (folder / RUN).exists():
        raise RunDirError(f"--workdir {folder} holds a run of one seed; with --seeds pass another folder")
    found = {}
    for seed in range(config.seed, config.seed + count):
        found[folder / f"seed{seed}"] = each = config.copy_and_resolve_references()
        each.seed = seed
    return found


def report(folder: Path, runs: Mapping[int, Path], folds: Sequence[int]) -> str:
    """Compares the predictions of runs, and writes seeds.csv.

    Args:
      folder: to write to.
      runs: folder of each run by its seed, all trained on the same data.
      folds: to compare; a run may have more.

    Returns:
      AUC of each seed, their mean and sample standard deviation, and the AUC of the mean of their logits.
    """
    import pandas as pd  # here, because commands check their flags before they import what takes long

    from melanoma_tf.evaluation import metrics

    tables = {seed: read_predictions(path / OOF) for seed, path in runs.items()}
    tables = {seed: table[table["fold"].isin(folds)] for seed, table in tables.items()}
    rows = {str(seed): metrics.auc(table["target"], table["logit"]) for seed, table in tables.items()}
    values = pd.Series(rows)
    together = pd.concat(tables.values()).groupby(_IMAGE, dropna=False)[["target", "logit"]].mean()
    rows |= {"mean": values.mean(), "sd": values.std(ddof=1)}
    rows["mean of logits"] = metrics.auc(together["target"].astype(int), together["logit"])
    files.write_csv(folder / SEEDS, pd.DataFrame({"seed": rows.keys(), "auc": rows.values()}))
    each = ", ".join(f"{value:.4f} (seed {seed})" for seed, value in values.items())
    return (
        f"AUC of {len(runs)} seeds: {each}\n"
        f"mean {rows['mean']:.4f}, standard deviation {rows['sd']:.4f}; of the mean of their logits "
        f"{rows['mean of logits']:.4f}\nseeds: {folder / SEEDS}"
    )
