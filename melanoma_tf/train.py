"""Train folds.

    python -m melanoma_tf.train --strategy tpu
    python -m melanoma_tf.train --config configs/smoke.py --data DIR --workdir RUN --strategy cpu --fold all

Writes into --workdir, for each fold, checkpoints, history.csv, the final weights and the predictions of the images
that this fold's model has not seen; oof.csv holds those of all folds. Started again with the same settings it goes on
where it was. Any setting of the config can be given on the command line: --config.lr=1e-3
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
from melanoma_tf.core import config as configs
from melanoma_tf.devices import select

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags of this command."""
    configs.find_in_arguments(sys.argv)
    config_flags.DEFINE_config_file("config", str(configs.CONFIGS / "default.py"), "What to train; see configs/.")
    flags.DEFINE_string("data", None, "Folder that tfrecord_tools.build wrote. Default: tfrecords/SIZE.")
    flags.DEFINE_list("external", [], "Further builds, as A,B: they train every fold; see build --against.")
    flags.DEFINE_bool("validate_external", False, "Hold out and judge the folds of --external too.")
    flags.DEFINE_string("workdir", None, "Folder for all that this run writes. Default: runs/NAME-OF-CONFIG.")
    flags.DEFINE_string("fold", "0", "Fold to hold out: 0, 1, ... or 'all'.")
    flags.DEFINE_bool("overwrite", False, "Remove what an earlier run left in --workdir and start anew.")
    select.define_flags(several_hosts=True)


def main(argv: list[str]) -> None:
    config = FLAGS.config
    configs.check(config)
    name = Path(flags.FLAGS["config"].config_filename).stem
    folder = cli.local_folder("workdir", FLAGS.workdir or f"runs/{name}")
    data = FLAGS.data or os.path.join("tfrecords", str(config.image_size))
    cli.existing_folder("data", data, expected="the output folder of tfrecord_tools.build")

    # ------------------------------------------------------------------ devices
    devices = select.start_as_asked()  # before Keras, which reads its backend when it is imported
    import keras

    from melanoma_tf import evaluate
    from melanoma_tf.augment import policy
    from melanoma_tf.data import pipeline
    from melanoma_tf.models import backbones
    from melanoma_tf.training import fold, run_dir

    devices.hosts.check_agreement({"config": config.to_dict(), "--fold": FLAGS.fold})
    backbones.backbone(config.model)
    policy.parse(config.augment)
    if config.batch_size % devices.replicas:
        raise ValueError(
            f"config.batch_size={config.batch_size} is global; {devices.replicas} replicas do not divide it"
        )
    precision = devices.precision(config.precision)
    keras.config.set_dtype_policy(precision)
    cli.say(devices.describe(config.batch_size, precision))

    # --------------------------------------------------------------------- data
    dataset = pipeline.open_data(data)
    folds = chosen_folds(FLAGS.fold, dataset.folds)
    if FLAGS.validate_external and not FLAGS.external:
        raise ValueError("--validate_external is about --external, which is not given")
    if FLAGS.external:
        dataset = pipeline.add_external(dataset, FLAGS.external, held_out=FLAGS.validate_external)
    if dataset.size != config.image_size:
        cli.say(f"data: records of {dataset.size} px are resampled to {config.image_size} px on the host")

    # -------------------------------------------------------------------- folds
    judged, trained = (dataset.path,), tuple(FLAGS.external)
    if FLAGS.validate_external:
        judged, trained = judged + trained, ()
    digests = {path: run_dir.data_sha256(path) for path in (*judged, *trained)}
    devices.hosts.check_agreement({"the data": list(digests.values())})
    # On the first host only, which alone writes; None on others.
    run = devices.hosts.run_on_primary(
        lambda: run_dir.claim(folder, config, judged, trained, overwrite=FLAGS.overwrite)
    )
    finished = devices.hosts.broadcast(run.finished_folds() if run else [])
    for k in folds:
        if k in finished:
            cli.say(f"fold {k}: finished already")
            continue
        with naming_memory(config.batch_size):
            predictions = fold.train(config, dataset, k, run.fold(k) if run else None, devices)
        if run:
            run.finish(k, predictions)
        devices.forget_models()

    # ------------------------------------------------------------------ figures
    if run:
        cli.say(evaluate.report(run.path))
    devices.hosts.barrier()


@contextlib.contextmanager
def naming_memory(batch_size: int) -> Iterator[None]:
    """Tells of a device that is out of memory what can be done; backends say it in their own long ways."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error):
            raise RuntimeError(
                f"a batch of {batch_size} needs more memory than the devices have; try a lower --config.batch_size, "
                f"--config.image_size or a smaller --config.model ({str(error).strip().splitlines()[0][:200]})"
            ) from error
        raise


def chosen_folds(asked: str, folds: int) -> list[int]:
    """[0, ..., folds - 1] for "all", else the one fold that was named. ValueError if there is no such fold."""
    if asked == "all":
        return list(range(folds))
    if not asked.isdecimal() or int(asked) >= folds:
        raise ValueError(f"--fold {asked!r} is not among the folds of this data: 0 to {folds - 1}, or all")
    return [int(asked)]


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
