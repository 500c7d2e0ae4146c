"""Train the models of one fold or all folds.

    python -m melanoma_tf.train --strategy tpu
    python -m melanoma_tf.train --config configs/smoke.py --data DIR --workdir RUN --strategy cpu --fold all

Writes checkpoints, history.csv, the final weights and the predictions of the held-out images of each fold to
--workdir; oof.csv holds the predictions of all folds. The same command resumes an interrupted run, and with more
--config.epochs a finished run goes on from its end. Flags override any setting of the config: --config.lr=1e-3

--seeds 3 trains every fold with three seeds, each in a run of its own, and compares them. --log tensorboard,wandb
follows the epochs of each fold in these trackers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from melanoma_tf.augment import policies
from melanoma_tf.core import cli, provenance
from melanoma_tf.core.config import CONFIGS, check, check_weights, default, find_in_arguments
from melanoma_tf.data import dataset, metadata, targets
from melanoma_tf.devices import select
from melanoma_tf.models import registry
from melanoma_tf.training import run_dir, seeds, stages, trackers
from tfrecord_tools.core import paths

FLAGS = flags.FLAGS
# Settings that a softmax over the diagnoses does not read.
_OF_TARGET = ("loss", "focal_gamma", "focal_alpha", "pos_weight", "label_smoothing", "soft_labels")
_MOST_FOLDS = 100  # of whose soft labels the content identifies a run


def define_flags() -> None:
    """Defines the flags of this command."""
    find_in_arguments(sys.argv)
    config_flags.DEFINE_config_file("config", str(CONFIGS / "default.py"), "Config file, or name of one in configs/.")
    flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build. Default: tfrecords/SIZE.")
    flags.DEFINE_list("external", [], "More builds to train every fold on, as A,B; see tfrecord_tools.build --against.")
    flags.DEFINE_bool("validate_external", False, "Hold out and evaluate the folds of --external too.")
    flags.DEFINE_bool("hold_out_source", False, "Folds are the sources of the records, to leave out one at a time.")
    flags.DEFINE_string("workdir", None, "Output folder of the run. Default: runs/NAME-OF-CONFIG.")
    flags.DEFINE_string("fold", "0", "Fold to hold out: 0, 1, ..., several as 0,2, or 'all'.")
    flags.DEFINE_integer("seeds", 1, "Train with config.seed and the seeds after it, each in --workdir/seedN.", 1)
    flags.DEFINE_list("log", [], f"Trackers that follow each fold, as A,B: {', '.join(trackers.TRACKERS)}.")
    flags.DEFINE_bool("overwrite", False, "Remove an earlier run from --workdir and start again.")
    select.define_flags(several_hosts=True)


def main(argv: list[str]) -> None:
    """Trains the folds of --fold and reports the AUC of all finished folds."""
    config = FLAGS.config
    check(config)
    check_recipe(config)
    name = Path(flags.FLAGS["config"].config_filename).stem
    folder = cli.local_folder("workdir", FLAGS.workdir or f"runs/{name}")
    data = FLAGS.data or os.path.join("tfrecords", str(config.image_size))
    if FLAGS.validate_external and not FLAGS.external:
        raise ValueError("--validate_external needs --external")
    select.check_flags()
    runs = {folder: config} if FLAGS.seeds == 1 else seeds.configs(config, folder, FLAGS.seeds)
    if FLAGS.strategy != "multihost":  # there all hosts have to connect before one may refuse
        check_input(runs, data)
    try:
        train(runs, folder, data)
    except KeyboardInterrupt:
        sys.exit(f"error: {describe_interrupt(folder, runs)}")


def check_recipe(config: ml_collections.ConfigDict) -> None:
    """Checks the settings that are names or texts of a form of their own.

    Raises:
      ValueError: one is unknown, or two do not go together.
    """
    policies.parse(config.augment)
    registry.backbone(config.model)
    targets.parse(config.target)
    metadata.parse(config.metadata)
    stages.check(config)
    if config.positive_share:
        dataset.balanced(config.positive_share, config.batch_size)
    unused = [name for name in _OF_TARGET if config.head == "diagnosis" and config[name] != default()[name]]
    unused += ["pos_weight"] * (config.pos_weight != 1 and config.loss != "bce")
    if unused:
        raise ValueError(
            f"config.{unused[0]}={config[unused[0]]!r} has no effect with config.head={config.head!r} and config.loss="
            f"{config.loss!r}; expected head=target or target+diagnosis for the settings of the loss, loss=bce for "
            "pos_weight"
        )
    if config.tta_random and not [each for each in policies.parse(config.augment) if each.name not in policies.MIXES]:
        raise ValueError(
            f"config.tta_random={config.tta_random} views would be the same: config.augment={config.augment!r} changes "
            "no image alone"
        )
    if config.positive_share and config.oversample > 1:
        raise ValueError(
            f"config.oversample={config.oversample} and config.positive_share={config.positive_share:g}; expected one "
            "of them: batches of a given share repeat positive images as often as they need"
        )


def check_input(runs: Mapping[Path, ml_collections.ConfigDict], data: str) -> None:
    """Checks the files that the flags name before TensorFlow starts, which takes long; URLs are read after that.

    Raises:
      ValueError: --data, --external, --fold, --log or --workdir cannot be used, or there are no such weights.
      RuntimeError: a package of --log is not installed.
      FileNotFoundError: config.weights is no file.
      WeightsUnavailableError: config.weights are in a package that is not installed.
    """
    trackers.check(FLAGS.log)
    config = next(iter(runs.values()))  # they differ in their seeds
    for flag, path in (("data", data), *(("external", each) for each in FLAGS.external)):
        cli.existing_folder(flag, path, expected="the output folder of tfrecord_tools.build")
    if any(paths.is_remote(path) for path in (data, *FLAGS.external)):
        begun = all((folder / run_dir.RUN).exists() for folder in runs)
        if not begun:  # else there may be checkpoints, which need none
            registry.check_weights(config.model, config.weights)
        return
    opened = [dataset.open_data(path) for path in (data, *FLAGS.external)]
    if FLAGS.hold_out_source:
        folds = []  # known when the records are read
    else:
        folds = parse_folds(FLAGS.fold, opened[0].folds)
        # External data may have the class that a fold lacks, and another rule finds other positives.
        if not FLAGS.external and config.target == targets.MELANOMA:
            dataset.check_folds(opened[0], folds, config.batch_size, config.patience)
    sources = None if FLAGS.hold_out_source else ()
    found = [
        run_dir.check(path, each, *data_of_run(config, data), overwrite=FLAGS.overwrite, sources=sources)
        for path, each in runs.items()
    ]
    trained = all(before and (run.is_trained(k) or run.has_checkpoint(k)) for run, before in found for k in folds)
    if FLAGS.hold_out_source or not trained:
        check_weights(config)
        registry.check_weights(config.model, config.weights)


def data_of_run(config: ml_collections.ConfigDict, data: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The builds whose folds are held out; and those that only train, with the files of soft labels."""
    external, soft = tuple(FLAGS.external), tuple(map(str, soft_label_files(config)))
    return ((data, *external), soft) if FLAGS.validate_external else ((data,), (*external, *soft))


def soft_label_files(config: ml_collections.ConfigDict, folds: Iterable[int] = ()) -> list[Path]:
    """The files of soft labels, those of given folds, or all that there are.

    Raises:
      FileNotFoundError: there is none, or none of a fold.
    """
    if not config.soft_labels:
        return []
    name, number = config.soft_labels, range(_MOST_FOLDS)
    every = [Path(name.replace("{fold}", str(k))).expanduser() for k in folds or number]
    found = sorted({path for path in every if path.is_file()})
    if missing := [path for path in every if not path.is_file()] if folds else every[:1] * (not found):
        raise FileNotFoundError(f"config.soft_labels={name}: {missing[0]} is no file; predict writes such tables")
    return found


def check_soft_labels(config: ml_collections.ConfigDict, builds: dataset.DataSet, folds: list[int]) -> None:
    """Checks the soft labels of each fold before the first is trained.

    Raises:
      FileNotFoundError: a fold has none.
      DataError: they cannot be read, or are of none of the images.
    """
    from melanoma_tf.data import pipeline

    names = set(pipeline.read_metadata([*builds.train, *builds.test])["image_name"])
    for path in soft_label_files(config, folds):
        labels = targets.read_soft(path)
        if not names & labels.keys():
            raise dataset.DataError(f"{path} has soft labels of {len(labels):,} images, none of which is in the data")
    if "{fold}" not in config.soft_labels:
        cli.say(
            "warning: the same soft labels train every fold. If their teacher was trained on images that are held out "
            "here, the AUC is flattered; {fold} in config.soft_labels takes a file for each fold, see docs/training.md"
        )


def train(runs: Mapping[Path, ml_collections.ConfigDict], folder: Path, data: str) -> None:
    """Starts the devices, trains the folds that are not finished and reports the AUC of all that are.

    Args:
      runs: config of each run by its folder; they differ in their seeds.
      folder: --workdir, which is the folder of a single run.
      data: --data.
    """
    devices = select.start_as_asked()  # before Keras, which reads its backend on import
    import keras

    from melanoma_tf.augment import policy

    config = next(iter(runs.values()))
    devices.hosts.check_agreement({"config": config.to_dict(), "--fold": FLAGS.fold, "--seeds": FLAGS.seeds})
    devices.hosts.run_on_primary(lambda: trackers.check(FLAGS.log))
    policy.parse(config.augment)
    if config.batch_size % devices.replicas:
        raise ValueError(
            f"config.batch_size={config.batch_size} is global; expected a multiple of {devices.replicas} replicas"
        )
    precision = devices.precision(config.precision)
    keras.config.set_dtype_policy(precision)
    cli.say(devices.describe(config.batch_size, precision))
    builds, folds = open_builds(config, data)
    opened = [(open_run(each, path, data, devices, builds.sources), each) for path, each in runs.items()]
    for run, each in opened:
        train_folds(run, each, builds, folds, devices, folder.resolve().name)
    if len(opened) > 1 and devices.hosts.index == 0:
        cli.say(seeds.report(folder, {each.seed: run.path for run, each in opened if run}, folds))
    devices.hosts.barrier()


def train_folds(
    run: run_dir.RunDir | None,
    config: ml_collections.ConfigDict,
    builds: dataset.DataSet,
    folds: Iterable[int],
    devices: select.Runtime,
    project: str,
) -> None:
    """Trains the folds of a run that are not finished.

    Args:
      run: None on other hosts than the first.
      config: of the run.
      builds: from `open_builds`.
      folds: to hold out.
      devices: to train on.
      project: name of the run for trackers.
    """
    from melanoma_tf import evaluate
    from melanoma_tf.training import fold

    finished = devices.hosts.broadcast([k for k in folds if run.is_trained(k)] if run else [])
    left = [k for k in folds if k not in finished]
    if FLAGS.seeds > 1:
        cli.say(f"seed {config.seed}:")
    if run and left:
        names = list(devices.devices)
        used = {"backend": devices.backend, "kind": devices.kind, "number": len(names), "names": names}
        run.record(provenance.session(devices=used, precision=devices.precision(config.precision)))
    epochs_before = devices.hosts.broadcast(run.epochs_before if run else ())
    for k in finished:
        cli.say(f"fold {k}: already finished")
    for k in left:
        if run:
            run.reopen(k)
        started = time.perf_counter()
        name = f"fold{k}" if FLAGS.seeds == 1 else f"seed{config.seed} fold{k}"
        log = trackers.Log(FLAGS.log, run.fold(k), project, name, config) if run else trackers.Log()
        with explain_out_of_memory(config.batch_size), log:
            predictions = fold.train(config, builds, k, run.fold(k) if run else None, devices, epochs_before, log)
        if run:
            run.finish(k, predictions)
            run.record_seconds(k, time.perf_counter() - started)
        devices.forget_models()
    if run:
        cli.say(evaluate.report(run.path))
        if shorter := [k for k in run.finished_folds() if not run.is_trained(k)]:
            cli.say(f"note: folds {shorter} were trained for fewer than {config.epochs} epochs; --fold all goes on")


def open_builds(config: ml_collections.ConfigDict, data: str) -> tuple[dataset.DataSet, list[int]]:
    """Opens the builds to train on, and the folds to hold out of them; their shards are checked before any is read."""
    from melanoma_tf.data import integrity, sampling
    from melanoma_tf.data.external import add_external, check_sources

    builds = dataset.open_data(data)
    read = list(builds.train)
    if config.soft_labels:
        read += builds.test
    if FLAGS.external:  # whose records are compared with those of the test set too
        read += [
            *(() if config.soft_labels else builds.test),
            *(shard for path in FLAGS.external for shard in dataset.open_data(path).train),
        ]
    cli.say(integrity.check(read))
    if FLAGS.external:
        builds = add_external(builds, FLAGS.external, held_out=FLAGS.validate_external)
    if FLAGS.hold_out_source:
        builds = sampling.by_source(builds)
        check_sources(builds)
        cli.say("folds: " + ", ".join(f"{k} holds out {source}" for k, source in enumerate(builds.sources)))
    rule = targets.Targets(targets.parse(config.target))
    builds = dataclasses.replace(builds, train=sampling.relabelled(builds.train, rule))
    folds = parse_folds(FLAGS.fold, builds.folds)
    dataset.check_folds(builds, folds, config.batch_size, config.patience)
    if config.soft_labels:
        check_soft_labels(config, builds, folds)
    if builds.size != config.image_size:
        cli.say(f"data: images of {builds.size} px are resampled to {config.image_size} px on the host")
    return builds, folds


def open_run(
    config: ml_collections.ConfigDict, folder: Path, data: str, devices: select.Runtime, sources: tuple[str, ...]
) -> run_dir.RunDir | None:
    """Locks and opens the run's folder; None on other hosts than the first, which write nothing."""
    evaluation_data, training_data = data_of_run(config, data)
    digests = [run_dir.data_sha256(path) for path in (*evaluation_data, *training_data)]
    devices.hosts.check_agreement({"the data": digests})
    devices.hosts.run_on_primary(lambda: run_dir.lock_until_exit(folder))
    run = devices.hosts.run_on_primary(
        lambda: run_dir.claim(
            folder, config, evaluation_data, training_data, overwrite=FLAGS.overwrite, sources=sources
        )
    )
    if run and run.epochs_before:
        cli.say(
            f"run extended from {run.epochs_before[-1]} to {config.epochs} epochs; after epoch {run.epochs_before[-1]} "
            f"the learning rate is that of a run of {config.epochs}"
        )
    return run


def describe_interrupt(folder: Path, runs: Iterable[Path]) -> str:
    """The line for a user who interrupts training. runs: folders of the runs in --workdir, or --workdir itself."""
    found = sorted(path.parent.parent for run in runs for path in run.glob("fold*/checkpoints/LAST"))
    where = ", ".join(str(path.relative_to(folder)) for path in found)
    from_where = f"goes on from the last checkpoint in {folder} ({where})" if where else "starts again"
    return f"interrupted; the same command {from_where}"


@contextlib.contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Re-raises backend out-of-memory errors with advice.

    Raises:
      RuntimeError: a device ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error):
            raise RuntimeError(
                f"out of device memory with a batch of {batch_size}; try a lower --config.batch_size, "
                f"--config.image_size or a smaller --config.model ({str(error).strip().splitlines()[0][:200]})"
            ) from error
        raise


def parse_folds(value: str, folds: int) -> list[int]:
    """Parses --fold.

    Args:
      value: a fold, several as "0,2", or "all".
      folds: number of folds of the data.

    Raises:
      ValueError: the data has no such fold.
    """
    if value == "all":
        return list(range(folds))
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if not (name.isascii() and name.isdecimal()) or int(name) >= folds:
            raise ValueError(f"unknown --fold {name!r}; expected one of: 0 to {folds - 1}, all")
    return list(dict.fromkeys(map(int, names)))


def run() -> None:
    """Runs the command; console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
