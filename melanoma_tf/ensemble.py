"""Make one prediction out of those of several runs.

    python -m melanoma_tf.ensemble --runs A,B,C --out DIR
    python -m melanoma_tf.ensemble --runs A,B,others.csv --method rank --out DIR
    python -m melanoma_tf.ensemble --runs A,B --method stack --out DIR --test a.csv,b.csv --data BUILD

Writes DIR/oof.csv, which `evaluate --predictions DIR/oof.csv` reads, and prints the AUC of each run, of the ensemble,
and the difference to the best run. Runs are folders of melanoma_tf.train, or CSVs of out-of-fold predictions as
evaluate reads them, of the same images in the same folds.

mean averages logits, mean_probability probabilities, rank the ranks within run and fold. weights fits weights of the
logits, >= 0 and of sum 1. stack fits a logistic regression (--stacker boosting: gradient boosting) on the logits, age,
sex and site, and on how an image stands out among those of its patient; it also takes a single run. What is fitted
predicts each fold by the others.

--test has a CSV for each run, in their order, as `predict --nocalibrated` writes it, and DIR/submission.csv is the
prediction of the ensemble that is fitted to all folds. A stack needs --data, the build that was predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from melanoma_tf import evaluate
from melanoma_tf.core import cli, files
from melanoma_tf.training import run_dir
from tfrecord_tools.core.cli import UsageError
from tfrecord_tools.core.text import counted

if TYPE_CHECKING:
    import pandas as pd

    from melanoma_tf.evaluation import ensemble

FLAGS = flags.FLAGS
SUBMISSION = "submission.csv"
METHODS = ("mean", "mean_probability", "rank", "weights", "stack")
STACKERS = ("logistic", "boosting")
# Columns of a run's oof.csv, as far as they are known, before logit and probability.
COLUMNS = (
    "image_name", "patient_id", "source", "fold", "target", "width", "height", "age_approx", "sex",
    "anatom_site_general_challenge", "diagnosis",
)  # fmt: skip


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_list("runs", None, "Runs: folders of melanoma_tf.train, or CSVs of predictions.", required=True)
    flags.DEFINE_string("out", None, "Folder for oof.csv and submission.csv; not that of a run.", required=True)
    flags.DEFINE_enum("method", "mean", METHODS, "How predictions become one, see above.")
    flags.DEFINE_enum("stacker", "logistic", STACKERS, "What --method stack fits.")
    flags.DEFINE_list("test", None, "CSVs of predict --nocalibrated: image_name, target; one for each of --runs.")
    flags.DEFINE_string("data", None, "Build that --test predicts, for --method stack.")
    flags.DEFINE_integer("replicates", 2000, "Resamples of each interval.", 100)
    flags.DEFINE_bool("allow_leakage", False, "Go on although folds share patients; every figure is too good then.")


def main(argv: list[str]) -> None:
    """Writes the ensemble's predictions, and prints what it gains."""
    check_flags()
    out = cli.local_folder("out", FLAGS.out)
    check_out(out, FLAGS.runs)
    tables = [read(run) for run in FLAGS.runs]
    from melanoma_tf.evaluation import analysis, ensemble, intervals, progress

    ensemble.check_scales(FLAGS.method, tables, FLAGS.runs)
    table, logits = ensemble.join(tables, FLAGS.runs)
    shared = analysis.check_leakage(table, FLAGS.allow_leakage)
    test = read_test(tables) if FLAGS.test else None  # before what takes long
    shown = progress.Shown()
    shown.part(FLAGS.method)
    scores, coefficients = ensemble.out_of_fold(FLAGS.method, table, logits, FLAGS.stacker)
    shown.part("intervals")
    with intervals.watched(shown.resampled):
        gain = ensemble.gain(table, logits, scores, FLAGS.replicates)
    cli.say("\n".join([*notes(table, shared), *lines(name(), gain, coefficients)]))
    out.mkdir(parents=True, exist_ok=True)
    write_out_of_fold(out / run_dir.OOF, table, scores)
    if test:
        write_submission(out / SUBMISSION, (table, logits), test)


def name() -> str:
    """The method, and what a stack fits."""
    return f"stack ({FLAGS.stacker})" if FLAGS.method == "stack" else FLAGS.method


def check_flags() -> None:
    """Checks what needs no file.

    Raises:
      UsageError: flags that do not go together.
    """
    runs, stack = FLAGS.runs, FLAGS.method == "stack"
    if twice := sorted({run for run in runs if runs.count(run) > 1}):
        raise UsageError(f"--runs names {', '.join(twice)} twice; expected different runs")
    if len(runs) < (1 if stack else 2):
        raise UsageError(
            f"--method {FLAGS.method} needs at least two --runs, got {len(runs)}; --method stack takes a single one"
        )
    if FLAGS.test and len(FLAGS.test) != len(runs):
        raise UsageError(f"--test has {counted(len(FLAGS.test), 'file')}, expected one for each of {len(runs)} --runs")
    if FLAGS.data and not (FLAGS.test and stack):
        raise UsageError("--data goes with --test and --method stack; leave it out, see --help")
    if FLAGS.test and stack and not FLAGS.data:
        raise UsageError("--method stack with --test needs --data, the build that was predicted; see --help")
    if FLAGS["stacker"].present and not stack:
        raise UsageError(f"--stacker goes with --method stack; got --method {FLAGS.method}")


def check_out(out: Path, runs: Sequence[str]) -> None:
    """Checks that no run's predictions would be overwritten.

    Raises:
      ValueError: `out` is the folder of a run, or that of a CSV named oof.csv among `runs`.
    """
    own = {(Path(run) / run_dir.OOF if Path(run).is_dir() else Path(run)).resolve() for run in runs}
    if (out / run_dir.RUN).exists() or (out / run_dir.OOF).resolve() in own:
        raise ValueError(f"--out {out}: its {run_dir.OOF} is that of a run; pass another folder, or a new one")


def read(run: str) -> pd.DataFrame:
    """Reads out-of-fold predictions as a checked table.

    Args:
      run: folder of a run, or a CSV.

    Raises:
      ValueError: there is neither, or the predictions cannot be read.
    """
    from melanoma_tf.evaluation import predictions

    path = Path(run)
    if path.is_dir():
        return evaluate.read_run(path)
    if not path.is_file():
        raise ValueError(f"--runs {run}: no such folder or file; expected a --workdir of melanoma_tf.train, or a CSV")
    return predictions.read(path)


def read_test(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads --test, with the metadata of --data.

    Args:
      tables: the runs' out-of-fold predictions.

    Returns:
      Table and logits as `ensemble.join` returns them.

    Raises:
      PredictionsError: they differ in images, or in scale from the runs.
    """
    from melanoma_tf.evaluation import build_images, ensemble, predictions

    tests = [predictions.read_unlabelled(Path(path)) for path in FLAGS.test]
    for run, path, table, test in zip(FLAGS.runs, FLAGS.test, tables, tests, strict=True):
        if table["probability"].isna().any() != test["probability"].isna().any():
            raise predictions.PredictionsError(
                f"only one of {run} and {path} has probabilities; expected predictions of the same model on one scale"
            )
    found, logits = ensemble.join(tests, FLAGS.test)
    if not FLAGS.data:
        return found, logits
    known = build_images.predicted(cli.existing_folder("data", FLAGS.data, "the build that was predicted"))
    absent = found.loc[~found["image_name"].isin(known["image_name"]), "image_name"]
    if len(absent) == len(found):
        raise predictions.PredictionsError(
            f"--data {FLAGS.data} has none of the images of {FLAGS.test[0]}, e.g. {absent.iloc[0]!r}; expected the "
            "build that was predicted"
        )
    if len(absent):
        cli.say(
            f"warning: {counted(len(absent), 'image')} of --test without a record in {FLAGS.data}, e.g. "
            f"{absent.iloc[0]!r}: patient and metadata are taken as missing"
        )
    known = known.set_index("image_name").reindex(found["image_name"]).reset_index(drop=True)
    return found.drop(columns="patient_id").join(known), logits


def notes(table: pd.DataFrame, shared: Sequence[str]) -> list[str]:
    """What to know before the figures."""
    found = []
    if shared:
        found.append(f"warning: {len(shared):,} patients have images in two folds: every figure is too good")
    if unknown := int(table["patient_id"].isna().sum()):
        found.append(f"warning: {unknown:,} images are of unknown patients: intervals take them as independent")
    if FLAGS.method == "rank":
        found.append("note: mean ranks are no probabilities of melanoma; they order the images only")
    return found


def lines(method: str, gain: ensemble.Gain, coefficients: pd.DataFrame) -> list[str]:
    """Returns AUCs and coefficients as text.

    Args:
      method: name of the ensemble.
      gain: its AUC and those of the runs.
      coefficients: a row for each fold.
    """
    width = max(len(each) for each in (*gain.runs, method, *coefficients))
    found = ["AUC, out of fold, with intervals that resample patients:"]
    found += [f"  {run:{width}}  {auc}" for run, auc in gain.runs.items()]
    found.append(f"  {method:{width}}  {gain.ensemble}")
    best = ", the best run on these images" if len(gain.runs) > 1 else ""
    found.append(f"{method} less {gain.best}{best}: {gain.difference}")
    if len(coefficients.columns):
        what = "weights of the logits" if method == "weights" else "log-odds per standard deviation or word"
        found.append(f"{what}, mean over folds (smallest to largest):")
        for each, values in coefficients.items():
            found.append(f"  {each:{width}}  {values.mean():7.4f} ({values.min():.4f} to {values.max():.4f})")
    return found


def write_out_of_fold(path: Path, table: pd.DataFrame, scores: ensemble.Floats) -> None:
    """Writes predictions [N], logits, in the columns of a run's oof.csv."""
    from scipy import special

    known = table[[column for column in COLUMNS if column in table]]
    files.write_csv(path, known.assign(logit=scores, probability=special.expit(scores)))
    cli.say(f"predictions: {path} (python -m melanoma_tf.evaluate --predictions {path} --out REPORT)")


def write_submission(
    path: Path, known: tuple[pd.DataFrame, pd.DataFrame], test: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    """Writes predictions of new images.

    Args:
      path: the CSV.
      known: table and logits of the runs, to which the ensemble is fitted.
      test: those of the new images.
    """
    from scipy import special

    from melanoma_tf.evaluation import ensemble

    scores = ensemble.of_new_images(FLAGS.method, known, test, FLAGS.stacker)
    submission = test[0][["image_name"]].assign(target=special.expit(scores))
    files.write_csv(path, submission, float_format="%.8g")
    cli.say(
        "--test is taken for uncalibrated predictions (predict --nocalibrated), as those in the runs' oof.csv are\n"
        f"{counted(len(submission), 'prediction')}: {path}"
    )


def run() -> None:
    """Runs the command; console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
