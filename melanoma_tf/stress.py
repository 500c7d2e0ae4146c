"""Scores of a run's held-out images under corruptions, for `melanoma_tf.evaluate --stress`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melanoma_tf import predict
from melanoma_tf.core import cli
from melanoma_tf.data import dataset
from melanoma_tf.devices import select
from melanoma_tf.training import run_dir
from tfrecord_tools.core.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from melanoma_tf.evaluation import analysis

_SIDE_BY_SIDE = 0.05  # in logits; mixed precision and other devices change them by less


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run and the build that it was trained on.

    Attributes:
      run: with at least one finished fold.
      folds: finished folds.
      build: with the images that they held out.
    """

    run: run_dir.RunDir
    folds: tuple[int, ...]
    build: dataset.DataSet


def open_run(workdir: Path, data: str) -> Opened:
    """Opens a run and its build, before anything that takes long.

    Raises:
      run_dir.RunDirError: the folder is no run with a finished fold, or was trained on another build.
      dataset.DataError: the build cannot be opened.
    """
    run = run_dir.open_workdir(workdir)
    folds, build = predict.check_finished(run), dataset.open_data(data)
    if run_dir.data_sha256(data) not in run.evaluation_data:
        raise run_dir.RunDirError(
            f"--stress: --data {data} is another build than {workdir} was trained on, so that no model is known to "
            "have held its images out; pass the build of --data of melanoma_tf.train"
        )
    return Opened(run, tuple(folds), build)


def measure(
    opened: Opened,
    table: pd.DataFrame,
    results: dict[str, Any],
    options: analysis.Options,
    most: int = 0,
    start: Callable[[], select.Runtime] = select.start_as_asked,
) -> dict[str, Any]:
    """Returns what each corruption does to AUC and decisions, for metrics.json.

    Args:
      opened: the run and its build.
      table: a checked table of the run's out-of-fold predictions.
      results: the figures of `analysis.analyze`, for the operating point.
      options: what those were asked for.
      most: images to score, see `evaluation.stress.choose`.
      start: starts the devices.
    """
    from melanoma_tf.evaluation import predictions, stress

    devices = start()  # before Keras, which reads its backend when it is imported
    from melanoma_tf.data import integrity, pipeline, sampling
    from melanoma_tf.inference.corruption import CORRUPTIONS
    from melanoma_tf.inference.stress import CLEAN

    if opened.run.sources:
        opened = dataclasses.replace(opened, build=sampling.by_source(opened.build, opened.run.sources))
    shards = [shard for fold in opened.folds for shard in opened.build.fold(fold)]
    cli.say(integrity.check(shards))
    names = pipeline.read_metadata(shards)["image_name"]
    rows = stress.choose(table, names, most)
    corruptions = {f"{each.kind} {each.level:g}": each for each in CORRUPTIONS}
    scores = _scores(opened, rows, corruptions, devices).set_index("image_name").loc[rows["image_name"]]
    moved = float(np.abs(scores[CLEAN].to_numpy() - rows["logit"].to_numpy()).max())
    if moved > _SIDE_BY_SIDE:
        cli.say(f"warning: logits of the images as they are differ from those in {run_dir.OOF}, by up to {moved:.3g}")
    decider = stress.Decider.fit(table, options.method, results["operating_point"]["threshold"])
    patients, replicates = predictions.patients(rows), min(options.replicates, 1000)

    def effect(name: str) -> dict[str, Any]:
        clean, corrupted = ((scores[column], decider(scores[column], rows["fold"])) for column in (CLEAN, name))
        found = stress.effect(rows["target"], clean, corrupted, patients, replicates=replicates)
        return dataclasses.asdict(found)

    return {
        "images": len(rows),
        "available": int(table["image_name"].isin(names).sum()),
        "positives": int(rows["target"].sum()),
        "clean": effect(CLEAN),
        "clean_logits_differ_by": moved,
        "effects": [
            {"corruption": each.kind, "level": each.level, "severity": each.severity, **effect(name)}
            for name, each in corruptions.items()
        ],
    }


def _scores(opened: Opened, rows: pd.DataFrame, corruptions: dict[str, Any], devices: select.Runtime) -> pd.DataFrame:
    """Scores each image by the model of its fold."""
    import keras
    import pandas as pd

    from melanoma_tf.data import pipeline
    from melanoma_tf.inference import predictor, stress
    from melanoma_tf.training import checkpoint
    from melanoma_tf.training.build import build_classifier

    config = opened.run.config
    batch_size = predictor.batch_size(config, devices.replicas)
    precision = devices.precision(config.precision)
    keras.config.set_dtype_policy(precision)
    cli.say(devices.describe(batch_size, precision))
    with devices.scope():
        classifier = build_classifier(config)
        model = predictor.of_config(classifier, config, devices.profile)
    build = opened.build
    metadata = pipeline.metadata_of(config.metadata, (*build.train, *build.test))
    passes, done, parts = 1 + len(corruptions), 0, []
    progress = Progress(passes * len(rows), title="scored: ")

    def show(images: int) -> None:
        nonlocal done
        done += images
        progress.show(done)

    for fold in opened.folds:
        if not opened.build.fold(fold):  # of a source that another build has
            continue
        chosen = rows.loc[rows["fold"] == fold, "image_name"]
        checkpoint.load_final(opened.run.fold(fold) / run_dir.WEIGHTS, classifier)
        parts.append(
            stress.logits(
                model,
                opened.build.fold(fold),
                chosen,
                corruptions,
                batch_size=batch_size,
                image_size=config.image_size,
                metadata=metadata,
                progress=show,
            )
        )
    progress.clear()
    return pd.concat(parts, ignore_index=True)
