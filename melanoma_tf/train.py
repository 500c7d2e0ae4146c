"""Train the models of one fold or all folds.

    python -m melanoma_tf.train --strategy tpu
    python -m melanoma_tf.train --config configs/smoke.py --data DIR --workdir RUN --strategy cpu --fold all

Writes checkpoints, history.csv, the final weights and the predictions of the held-out images of each fold to
--workdir; oof.csv holds the predictions of all folds. The same command resumes an interrupted run. Flags override any
setting of the config: --config.lr=1e-3
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from melanoma_tf.core import cli
from melanoma_tf.core.config import CONFIGS, check, find_in_arguments
from melanoma_tf.devices import select

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    find_in_arguments(sys.argv)
    config_flags.DEFINE_config_file("config", str(CONFIGS / "default.py"), "Config file; see configs/.")
    flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build. Default: tfrecords/SIZE.")
    flags.DEFINE_list("external", [], "More builds to train every fold on, as A,B; see tfrecord_tools.build --against.")
    flags.DEFINE_bool("validate_external", False, "Hold out and evaluate the folds of --external too.")
    flags.DEFINE_string("workdir", None, "Output folder of the run. Default: runs/NAME-OF-CONFIG.")
    flags.DEFINE_string("fold", "0", "Fold to hold out: 0, 1, ... or 'all'.")
    flags.DEFINE_bool("overwrite", False, "Remove an earlier run from --workdir and start again.")
    select.define_flags(several_hosts=True)


def main(argv: list[str]) -> None:
    """Trains the folds of --fold and reports the AUC of all finished folds."""
    config = FLAGS.config
    check(config)
    name = Path(flags.FLAGS["config"].config_filename).stem
    folder = cli.local_folder("workdir", FLAGS.workdir or f"runs/{name}")
    data = FLAGS.data or os.path.join("tfrecords", str(config.image_size))
    if FLAGS.data and FLAGS.strategy != "multihost":  # there all hosts have to connect before one may refuse
        cli.existing_folder("data", data, expected="the output folder of tfrecord_tools.build")

    # ------------------------------------------------------------------ devices
    devices = select.start_as_asked()  # before Keras, which reads its backend on import
    import keras

    from melanoma_tf import evaluate
    from melanoma_tf.augment import policy
    from melanoma_tf.data import integrity, pipeline
    from melanoma_tf.models import backbones
    from melanoma_tf.training import fold, run_dir

    devices.hosts.check_agreement({"config": config.to_dict(), "--fold": FLAGS.fold})
    backbones.backbone(config.model)
    policy.parse(config.augment)
    if config.batch_size % devices.replicas:
        raise ValueError(
            f"config.batch_size={config.batch_size} is global; expected a multiple of {devices.replicas} replicas"
        )
    precision = devices.precision(config.precision)
    keras.config.set_dtype_policy(precision)
    cli.say(devices.describe(config.batch_size, precision))

    # --------------------------------------------------------------------- data
    dataset = pipeline.open_data(data)
    folds = parse_folds(FLAGS.fold, dataset.folds)
    if FLAGS.validate_external and not FLAGS.external:
        raise ValueError("--validate_external needs --external")
    if FLAGS.external:
        dataset = pipeline.add_external(dataset, FLAGS.external, held_out=FLAGS.validate_external)
    cli.say(integrity.check(dataset.train))
    if dataset.size != config.image_size:
        cli.say(f"data: images of {dataset.size} px are resampled to {config.image_size} px on the host")

    # -------------------------------------------------------------------- folds
    evaluation_data, training_data = (dataset.path,), tuple(FLAGS.external)
    if FLAGS.validate_external:
        evaluation_data, training_data = evaluation_data + training_data, ()
    digests = [run_dir.data_sha256(path) for path in (*evaluation_data, *training_data)]
    devices.hosts.check_agreement({"the data": digests})
    devices.hosts.run_on_primary(lambda: run_dir.lock_until_exit(folder))
    # None on other hosts, which write nothing.
    run = devices.hosts.run_on_primary(
        lambda: run_dir.claim(folder, config, evaluation_data, training_data, overwrite=FLAGS.overwrite)
    )
    finished = devices.hosts.broadcast(run.finished_folds() if run else [])
    for k in folds:
        if k in finished:
            cli.say(f"fold {k}: already finished")
            continue
        with explain_out_of_memory(config.batch_size):
            predictions = fold.train(config, dataset, k, run.fold(k) if run else None, devices)
        if run:
            run.finish(k, predictions)
        devices.forget_models()

    # ------------------------------------------------------------------ metrics
    if run:
        cli.say(evaluate.report(run.path))
    devices.hosts.barrier()


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
      value: a fold or "all".
      folds: number of folds of the data.

    Raises:
      ValueError: the data has no such fold.
    """
    if value == "all":
        return list(range(folds))
    if not value.isdecimal() or int(value) >= folds:
        raise ValueError(f"unknown --fold {value!r}; expected one of: 0 to {folds - 1}, all")
    return [int(value)]


def run() -> None:
    """Runs the command; console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
