"""Predict with a run's models.

    python -m melanoma_tf.predict --workdir RUN --data DIR --out submission.csv

Writes image_name,target (a probability) for the test records of --data, in the order of their table, or for all its
records if it has none. Kaggle refuses a file without some of the images; --fill writes those that have no record.
Averages the logits of the finished folds' models, each over flips and quarter turns if config.tta is set. A training
record of the run is predicted only by the model that held it out, if that model is finished.

If evaluate has stored RUN/calibration.json, the probabilities are calibrated by it, and the images flagged at its
operating point are counted; --nocalibrated writes those of the models. --prevalence 0.01 states the share of melanoma
among the images, if it is another than in training. The order of the images remains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from melanoma_tf.core import cli
from melanoma_tf.data import dataset
from melanoma_tf.devices import select
from melanoma_tf.training import run_dir
from tfrecord_tools.core import paths
from tfrecord_tools.core.cli import UsageError
from tfrecord_tools.core.progress import Progress
from tfrecord_tools.core.text import counted, verb

if TYPE_CHECKING:
    import pandas as pd

    from melanoma_tf.evaluation.stored import Stored

FLAGS = flags.FLAGS
MEAN = "mean"  # of --fill: the mean of the predictions
SHOWN = 10  # names of a message at most


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "Run folder: the --workdir of melanoma_tf.train.", required=True)
    flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build.", required=True)
    flags.DEFINE_string("out", "submission.csv", "Output file.")
    flags.DEFINE_string("fill", None, "Value for images of the test table without a record: mean, or 0 to 1.")
    flags.DEFINE_bool("calibrated", None, "Calibrate by RUN/calibration.json. Default: if it is there.")
    flags.DEFINE_float("prevalence", None, "Share of melanoma among the images, for calibrated probabilities.")
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
    parse_fill(FLAGS.fill)
    select.check_flags()
    run = run_dir.open_workdir(workdir)
    check_finished(run)
    stored = read_calibration(workdir, FLAGS.calibrated, FLAGS.prevalence)
    if not paths.is_remote(data):
        dataset.open_data(data)  # before TensorFlow starts, which takes long
    devices = select.start_as_asked()  # before Keras, which reads its backend when it is imported
    import keras

    from melanoma_tf.core import files
    from melanoma_tf.data import integrity
    from melanoma_tf.inference import predictor

    build = dataset.open_data(data)
    cli.say(integrity.check(build.test or build.train))
    batch_size = FLAGS.batch_size or predictor.batch_size(run.config, devices.replicas)
    if batch_size % devices.replicas:
        raise ValueError(f"--batch_size {batch_size} is global; expected a multiple of {devices.replicas} replicas")
    precision = devices.precision(run.config.precision)
    keras.config.set_dtype_policy(precision)
    cli.say(devices.describe(batch_size, precision))
    names, logits = predictions(run, build, devices, batch_size)
    if stored:
        logits, text = calibrate(logits, stored, FLAGS.prevalence)
        cli.say(text)
    predicted = names.assign(target=predictor.sigmoid(logits))
    table, note = in_order(predicted, build, parse_fill(FLAGS.fill))
    files.write_csv(out, table, float_format="%.8g")
    if note:
        cli.say(note)
    cli.say(f"{counted(len(table), 'prediction')}: {FLAGS.out}")


def parse_fill(value: str | None) -> float | str | None:
    """Parses --fill.

    Raises:
      ValueError: it is neither "mean" nor a probability.
    """
    if value in (None, MEAN):
        return value
    try:
        probability = float(value or "")
    except ValueError:
        probability = math.nan
    if not 0 <= probability <= 1:
        raise ValueError(f"--fill {value}: expected {MEAN} or a number from 0 to 1")
    return probability


def read_calibration(workdir: Path, calibrated: bool | None, prevalence: float | None) -> Stored | None:
    """Reads what calibrates a run's predictions; None where nothing does.

    Args:
      workdir: folder of the run.
      calibrated: --calibrated.
      prevalence: --prevalence.

    Raises:
      run_dir.RunDirError: asked for, and there is none.
      stored.StoredError: it is damaged, or of earlier predictions.
      UsageError: --prevalence with --nocalibrated, or out of range.
    """
    if prevalence is not None and (calibrated is False or not 0 < prevalence < 1):
        raise UsageError(f"--prevalence {prevalence:g}: expected a share between 0 and 1, without --nocalibrated")
    if calibrated is False:
        return None
    from melanoma_tf.evaluation import stored

    path = workdir / run_dir.CALIBRATION
    try:
        found = stored.read(path, workdir / run_dir.OOF)
    except stored.StoredError as error:
        raise stored.StoredError(f"{error}, or pass --nocalibrated") from error
    if found is None and (calibrated or prevalence is not None):
        raise run_dir.RunDirError(
            f"{path} does not exist: python -m melanoma_tf.evaluate --workdir {workdir} writes it, once two folds are "
            "finished; without --calibrated and --prevalence the models' own probabilities are written"
        )
    return found


def calibrate(logits: np.ndarray, stored: Stored, prevalence: float | None) -> tuple[np.ndarray, str]:
    """Returns calibrated logits [N], and a line on what was done.

    Args:
      logits: [N], of the models.
      stored: what calibrates them.
      prevalence: share of melanoma among the images, or None for that of the run's data.
    """
    found, flagged = stored(logits, prevalence)
    where = "" if prevalence is None else f" and for a prevalence of {prevalence:g} instead of {stored.prevalence:.4g}"
    rule = f"{stored.rule} {stored.value:g}"
    return found, (
        f"calibrated by {stored.calibrator.method} on {stored.images:,} out-of-fold predictions{where} "
        f"(--nocalibrated for the models' own probabilities); at the operating point chosen there ({rule}), "
        f"{flagged.sum():,} of {len(found):,} images are flagged"
    )


def check_finished(run: run_dir.RunDir) -> list[int]:
    """Returns the finished folds of a run.

    Raises:
      run_dir.RunDirError: it has none, or one without its weights.
    """
    folds = run.finished_folds()
    if not folds:
        raise run_dir.RunDirError(f"{run.path} has no finished fold; finish melanoma_tf.train first")
    for k in folds:
        if not (run.fold(k) / run_dir.WEIGHTS).is_file():
            raise run_dir.RunDirError(
                f"{run.fold(k) / run_dir.WEIGHTS} is missing; restore it, or train the fold again: delete "
                f"{run.fold(k) / run_dir.OOF} and run melanoma_tf.train --fold {k}"
            )
    return folds


def in_order(table: pd.DataFrame, build: dataset.DataSet, fill: float | str | None) -> tuple[pd.DataFrame, str]:
    """Puts predictions into the order of the test table.

    Args:
      table: image_name and target of the records.
      build: data set of the records.
      fill: target of images of the test table without a record, or MEAN; None leaves them out.

    Returns:
      The table, and a line on the images without a record; "" if there are none.
    """
    import pandas as pd

    if not (build.test and build.test_names):
        return table, ""
    found = table.set_index("image_name")["target"]
    missing = [name for name in build.test_names if name not in found.index]
    listed = frozenset(build.test_names)
    order = [*(name for name in found.index if name not in listed), *build.test_names]
    value = found.mean() if fill == MEAN else fill
    if value is None:
        kept = [name for name in order if name in found.index]
        found = found.loc[kept]
    else:
        found = found.reindex(order, fill_value=float(value))
    result = pd.DataFrame({"image_name": found.index, "target": found.to_numpy()})
    if not missing:
        return result, ""
    shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    has = verb(len(missing), "has", "have")
    what = f"{len(missing)} of {counted(len(order), 'image')} of the test table {has} no prediction (no record: "
    what += f"quarantined or left out, see {build.path}/quarantine.csv): {shown}"
    if value is None:
        it = verb(len(missing), "it", "them")
        return result, f"warning: {what}. Kaggle refuses a file without {it}: write {it} with --fill mean, or a number"
    return result, f"note: {what}. {verb(len(missing), 'It is', 'They are')} written with --fill {fill}: {value:.8g}"


def predictions(
    run: run_dir.RunDir, build: dataset.DataSet, devices: select.Runtime, batch_size: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Predicts the test records of a data set, or all records if it has none.

    Args:
      run: run with at least one finished fold.
      build: records to predict.
      devices: devices to predict on.
      batch_size: images at a time over all devices.

    Returns:
      image_name of each record, and [N], the means of its logits.

    Raises:
      run_dir.RunDirError: no fold is finished.
      pipeline.DataError: a shard is damaged.
    """
    from melanoma_tf.data import pipeline, sampling
    from melanoma_tf.inference import predictor
    from melanoma_tf.training import checkpoint
    from melanoma_tf.training.build import build_classifier

    folds = check_finished(run)
    seen = run_dir.data_sha256(build.path) in run.evaluation_data
    if seen and run.sources:
        build = sampling.by_source(build, run.sources)
    shards = build.test or build.train
    models = [models_for(shard, folds, seen) for shard in shards]
    _warn(run, build, shards, models)
    sizes = {
        "batch_size": batch_size,
        "image_size": run.config.image_size,
        "metadata": pipeline.metadata_of(run.config.metadata, (*build.train, *build.test)),
    }
    with devices.scope():
        classifier = build_classifier(run.config)
        model = predictor.of_config(classifier, run.config, devices.profile)
    total = [np.zeros(shard.records) for shard in shards]
    work = sum(shard.records * len(used) for shard, used in zip(shards, models, strict=True))
    done, progress = 0, Progress(work, title="predicted: ")
    for k in folds:
        predicted = [i for i, folds_of_shard in enumerate(models) if k in folds_of_shard]
        if not predicted:
            continue
        checkpoint.load_final(run.fold(k) / run_dir.WEIGHTS, classifier)
        # One shard at a time: reading several together interleaves their records.
        for i in predicted:
            total[i] += predictor.predict_outputs(model, [shards[i]], **sizes)[:, 0] / len(models[i])
            done += shards[i].records
            progress.show(done)
    progress.clear()
    names = [pipeline.read_metadata([shard]) for shard in shards]
    import pandas as pd

    return pd.concat(names, ignore_index=True)[["image_name"]], np.concatenate(total)


def _warn(
    run: run_dir.RunDir, build: dataset.DataSet, shards: Sequence[dataset.Shard], models: Sequence[list[int]]
) -> None:
    """Warns of predictions that say nothing about new images. models: folds whose models predict each shard."""
    digest = run_dir.data_sha256(build.path)
    seen = digest in run.evaluation_data
    known = [s for s, m in zip(shards, models, strict=True) if seen and s.fold >= 0 and m != [s.fold]]
    trained_on = dataset.count(shards if digest in run.training_data and not build.test else known)
    if trained_on:
        cli.say(
            f"warning: {trained_on} of {counted(dataset.count(shards), 'record')} {verb(trained_on, 'was', 'were')} "
            "training data of every finished model; "
            "their predictions say nothing about new images. Train with --fold all to have a model for each."
        )
    if not (seen or trained_on or build.test):
        cli.say(
            f"warning: {build.path} has no test records and is not the run's training data. If it holds the same "
            "patients, these predictions say nothing about new images."
        )


def models_for(shard: dataset.Shard, folds: Sequence[int], seen: bool) -> list[int]:
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
