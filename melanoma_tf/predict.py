"""Predict with a run's models:  python -m melanoma_tf.predict --workdir RUN --data DIR --out submission.csv

Writes image_name,target (a probability) for the test shards of --data, or for all its records if it has none. The
finished folds' models are averaged in logits, each over flips and quarter turns if config.tta says so. Records of the
data set that the run was trained on are predicted by the one model that has not seen them, where it is finished.
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
    """The flags of this command."""
    flags.DEFINE_string("workdir", None, "Folder of the run, as given to melanoma_tf.train.", required=True)
    flags.DEFINE_string("data", None, "Folder that tfrecord_tools.build wrote.", required=True)
    flags.DEFINE_string("out", "submission.csv", "File to write.")
    flags.DEFINE_integer(
        "batch_size", None, "Images at a time, over all devices. Default: what fits as training did.", 1
    )
    select.define_flags()


def main(argv: list[str]) -> None:
    out = cli.output_file("out", FLAGS.out)
    workdir = cli.local_folder("workdir", FLAGS.workdir)
    cli.existing_folder("workdir", FLAGS.workdir, expected="the --workdir of melanoma_tf.train")
    data = cli.existing_folder("data", FLAGS.data, expected="the output folder of tfrecord_tools.build")
    devices = select.start_as_asked()  # before Keras, which reads its backend when it is imported
    import keras

    from melanoma_tf.core import files
    from melanoma_tf.data import pipeline
    from melanoma_tf.inference import predictor
    from melanoma_tf.training import run_dir

    run = run_dir.open_workdir(workdir)
    dataset = pipeline.open_data(data)
    batch_size = FLAGS.batch_size or predictor.batch_size(run.config.batch_size, run.config.tta, devices.replicas)
    if batch_size % devices.replicas:
        raise ValueError(f"--batch_size {batch_size}: {devices.replicas} replicas do not divide it")
    precision = devices.precision(run.config.precision)
    keras.config.set_dtype_policy(precision)
    cli.say(devices.describe(batch_size, precision))
    table = predictions(run, dataset, devices, batch_size)
    files.write_text(out, table.to_csv(index=False, float_format="%.8g"))
    cli.say(f"{len(table)} predictions: {FLAGS.out}")


def predictions(
    run: run_dir.RunDir, dataset: pipeline.DataSet, devices: select.Runtime, batch_size: int
) -> pd.DataFrame:
    """image_name, target (probability in [0,1]) of the test records of `dataset`, or of all if it has none."""
    from melanoma_tf.data import pipeline
    from melanoma_tf.inference import predictor
    from melanoma_tf.training import build, run_dir

    folds = run.finished_folds()
    if not folds:
        raise run_dir.RunDirError(f"{run.path} has no finished fold yet; run melanoma_tf.train to its end")
    shards = dataset.test or dataset.train
    digest = run_dir.data_sha256(dataset.path)
    seen = digest in run.judged
    judges = [models_for(shard, folds, seen) for shard in shards]
    known = [s for s, j in zip(shards, judges, strict=True) if seen and s.fold >= 0 and j != [s.fold]]
    trained_on = pipeline.count(shards if digest in run.trained and not dataset.test else known)
    if trained_on:
        cli.say(
            f"warning: {trained_on} of {pipeline.count(shards)} records were training data of every finished model; "
            "their predictions say nothing about new images. Train with --fold all to have a model for each."
        )
    if not (seen or trained_on or dataset.test):
        cli.say(
            f"warning: {dataset.path} has no test records and is not the build that the run was trained on. If it "
            "holds the same patients, these predictions say nothing about new images."
        )
    sizes = {"batch_size": batch_size, "image_size": run.config.image_size}
    with devices.scope():
        classifier = build.build_classifier(run.config)
        tta_predictor = predictor.predictor(classifier, tta=run.config.tta)
    total = [np.zeros(shard.records) for shard in shards]
    for k in folds:
        asked = [i for i, models in enumerate(judges) if k in models]
        if not asked:
            continue
        classifier.load_weights(run.fold(k) / run_dir.WEIGHTS)
        # Shard by shard, because reading several together mixes their records.
        for i in asked:
            total[i] += predictor.predict_logits(tta_predictor, [shards[i]], **sizes) / len(judges[i])
    names = [pipeline.read_table([shard]) for shard in shards]
    import pandas as pd

    return pd.concat(names, ignore_index=True)[["image_name"]].assign(target=predictor.sigmoid(np.concatenate(total)))


def models_for(shard: pipeline.Shard, folds: Sequence[int], seen: bool) -> list[int]:
    """The folds whose models predict a shard: all, or of a shard trained on the one model that held it out."""
    return [shard.fold] if seen and shard.fold in folds else list(folds)


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
