"""Predict with a run's models.

    python -m melanoma_tf.predict --workdir RUN --data DIR --out submission.csv

Writes image_name,target (a probability) for the test records of --data, or for all its records if it has none.
Averages the logits of the finished folds' models, each over flips and quarter turns if config.tta is set. A training
record of the run is predicted only by the model that held it out, if that model is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from melanoma_tf.core import cli
from melanoma_tf.devices import select

if TYPE_CHECKING:
    import pandas as pd

    from melanoma_tf.data import pipeline
    from melanoma_tf.training import run_dir

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "Run folder: the --workdir of melanoma_tf.train.", required=True)
    flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build.", required=True)
    flags.DEFINE_string("out", "submission.csv", "Output file.")
    flags.DEFINE_integer(
        "batch_size", None, "Images at a time over all devices. Default: as much memory as training.", 1
    )
    select.define_flags()


def main(argv: list[str]) -> None:
    """Predicts and writes --out."""
    out = cli.output_file("out", FLAGS.out)
    workdir = cli.local_folder("workdir", FLAGS.workdir)
    cli.existing_folder("workdir", FLAGS.workdir, expected="the --workdir of melanoma_tf.train")
    data = cli.existing_folder("data", FLAGS.data, expected="the output folder of tfrecord_tools.build")
    devices = select.start_as_asked()  # before Keras, which reads its backend when it is imported
    import keras

    from melanoma_tf.core import files
    from melanoma_tf.data import integrity, pipeline
    from melanoma_tf.inference import predictor
    from melanoma_tf.training import run_dir

    run = run_dir.open_workdir(workdir)
    dataset = pipeline.open_data(data)
    cli.say(integrity.check(dataset.test or dataset.train))
    batch_size = FLAGS.batch_size or predictor.batch_size(run.config.batch_size, run.config.tta, devices.replicas)
    if batch_size % devices.replicas:
        raise ValueError(f"--batch_size {batch_size} is global; expected a multiple of {devices.replicas} replicas")
    precision = devices.precision(run.config.precision)
    keras.config.set_dtype_policy(precision)
    cli.say(devices.describe(batch_size, precision))
    table = predictions(run, dataset, devices, batch_size)
    files.write_csv(out, table, float_format="%.8g")
    cli.say(f"{len(table)} predictions: {FLAGS.out}")


def predictions(
    run: run_dir.RunDir, dataset: pipeline.DataSet, devices: select.Runtime, batch_size: int
) -> pd.DataFrame:
    """Predicts the test records of a data set, or all records if it has none.

    Args:
      run: run with at least one finished fold.
      dataset: records to predict.
      devices: devices to predict on.
      batch_size: images at a time over all devices.

    Returns:
      image_name and target, a probability.

    Raises:
      run_dir.RunDirError: no fold is finished.
      pipeline.DataError: a shard is damaged.
    """
    from melanoma_tf.data import pipeline
    from melanoma_tf.inference import predictor
    from melanoma_tf.training import build, checkpoint, run_dir

    folds = run.finished_folds()
    if not folds:
        raise run_dir.RunDirError(f"{run.path} has no finished fold; finish melanoma_tf.train first")
    shards = dataset.test or dataset.train
    digest = run_dir.data_sha256(dataset.path)
    seen = digest in run.evaluation_data
    models = [models_for(shard, folds, seen) for shard in shards]
    known = [s for s, m in zip(shards, models, strict=True) if seen and s.fold >= 0 and m != [s.fold]]
    trained_on = pipeline.count(shards if digest in run.training_data and not dataset.test else known)
    if trained_on:
        cli.say(
            f"warning: {trained_on} of {pipeline.count(shards)} records were training data of every finished model; "
            "their predictions say nothing about new images. Train with --fold all to have a model for each."
        )
    if not (seen or trained_on or dataset.test):
        cli.say(
            f"warning: {dataset.path} has no test records and is not the run's training data. If it holds the same "
            "patients, these predictions say nothing about new images."
        )
    sizes = {"batch_size": batch_size, "image_size": run.config.image_size}
    with devices.scope():
        classifier = build.build_classifier(run.config)
        tta_predictor = predictor.predictor(classifier, tta=run.config.tta)
    total = [np.zeros(shard.records) for shard in shards]
    for k in folds:
        predicted = [i for i, folds_of_shard in enumerate(models) if k in folds_of_shard]
        if not predicted:
            continue
        checkpoint.load_final(run.fold(k) / run_dir.WEIGHTS, classifier)
        # One shard at a time: reading several together interleaves their records.
        for i in predicted:
            total[i] += predictor.predict_logits(tta_predictor, [shards[i]], **sizes) / len(models[i])
    names = [pipeline.read_metadata([shard]) for shard in shards]
    import pandas as pd

    return pd.concat(names, ignore_index=True)[["image_name"]].assign(target=predictor.sigmoid(np.concatenate(total)))


def models_for(shard: pipeline.Shard, folds: Sequence[int], seen: bool) -> list[int]:
    """Returns the folds whose models predict a shard.

    Args:
      shard: shard to predict.
      folds: finished folds.
      seen: whether the run trained on the shard's data set; then only the model that held the shard out predicts it.
    """
    return [shard.fold] if seen and shard.fold in folds else list(folds)


def run() -> None:
    """Runs the command; console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
