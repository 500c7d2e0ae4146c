"""Evaluate a run's out-of-fold predictions, or anybody's.

    python -m melanoma_tf.evaluate --workdir RUN
    python -m melanoma_tf.evaluate --predictions oof.csv --data DIR --out REPORT
    python -m melanoma_tf.evaluate --predictions oof.csv --metadata train.csv --folds_from tfrecord --out REPORT
    python -m melanoma_tf.evaluate --predictions a.csv --against b.csv --out REPORT

Writes metrics.json, report.html, model_card.md and tripod_ai.md: AUC and other metrics with intervals that resample
patients, what can be predicted without looking at the lesion, calibration, an operating point, and subgroups; and
calibration.json, by which predict calibrates. Predictions of others are a CSV with image_name, patient_id, target,
prediction, and fold if they are out of fold; those of several diagnoses one with image_name, patient_id, diagnosis, and
prediction_X for each diagnosis X.

With --data the report shows the most confident errors, of a run with Grad-CAM beside them: its models are loaded for
that, which takes half a minute and more; --nograd_cam leaves it out.

--stress scores the held-out images of a run again under blur, brightness, color cast, hair, ink, ruler marks, dark
corners, JPEG compression and zoom, each by the model of its fold.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from melanoma_tf.core import cli, files
from melanoma_tf.data.targets import MELANOMA
from melanoma_tf.devices import select
from melanoma_tf.training.run_dir import CALIBRATION, METRICS, OOF, REPORTS, RUN, RunDirError, read_predictions
from tfrecord_tools.core import json_file
from tfrecord_tools.core.cli import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from melanoma_tf.evaluation import analysis
    from melanoma_tf.evaluation.build_images import Build
    from melanoma_tf.evaluation.report.overlay import Overlay

FLAGS = flags.FLAGS
REPORT, CARD, CHECKLIST = REPORTS
COMPARISON = "comparison.json"


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "Run folder: the --workdir of melanoma_tf.train.")
    flags.DEFINE_string("predictions", None, "CSV of predictions instead: image_name, patient_id, target, prediction.")
    flags.DEFINE_string("against", None, "CSV of another model's predictions of the same images, to compare with.")
    flags.DEFINE_string(
        "metadata", None, "CSV with more columns by image_name: patient_id, sex, age_approx, width, ..."
    )
    flags.DEFINE_string("data", None, "Build of tfrecord_tools.build that has the images: pixels, a gallery, metadata.")
    flags.DEFINE_bool("grad_cam", True, "With --workdir and --data: Grad-CAM of the images in the gallery.")
    flags.DEFINE_string("folds_from", None, "Column with the fold of each image; default: fold.")
    flags.DEFINE_string("out", None, "Folder for the report; default: --workdir.")
    flags.DEFINE_enum("rule", "sensitivity", ["sensitivity", "specificity", "cost"], "How the threshold is chosen.")
    flags.DEFINE_float("value", None, "Of --rule: least rate (0.9), or false alarms that a missed melanoma costs (20).")
    flags.DEFINE_enum("calibration", "platt", ["temperature", "platt", "isotonic"], "How probabilities are calibrated.")
    flags.DEFINE_float(
        "prevalence", None, "Share of melanoma where the model is to be used, for decisions and predictive values."
    )
    flags.DEFINE_integer("replicates", 2000, "Resamples of each interval.", 100)
    flags.DEFINE_bool("stress", False, "With --workdir and --data: score the images again under corruptions.")
    flags.DEFINE_integer("stress_images", 2000, "Images of --stress at most, melanomas first; 0: all.", 0)
    flags.DEFINE_bool("allow_leakage", False, "Report although folds share patients; the page says so.")
    select.define_flags()


def main(argv: list[str]) -> None:
    """Prints and writes what the flags ask for."""
    if (FLAGS.workdir is None) == (FLAGS.predictions is None):
        raise UsageError("pass --workdir RUN or --predictions CSV; see --help")
    if FLAGS.predictions and not FLAGS.out:
        raise UsageError("--predictions needs --out, the folder for the report; see --help")
    if FLAGS.workdir and (FLAGS.metadata or FLAGS.folds_from):
        raise UsageError("--metadata and --folds_from go with --predictions; a run has its own folds; see --help")
    if FLAGS.stress and (FLAGS.against or not (FLAGS.workdir and FLAGS.data)):
        raise UsageError("--stress needs --workdir RUN and --data, the build that it was trained on; see --help")
    if FLAGS.value is not None and not (FLAGS.value > 0 if FLAGS.rule == "cost" else 0 <= FLAGS.value <= 1):
        raise UsageError(f"--value {FLAGS.value}: expected {'a positive number' if FLAGS.rule == 'cost' else '0 to 1'}")
    if FLAGS.stress_images == 1:
        raise UsageError("--stress_images 1: expected at least 2, one of each class, or 0 for all")
    if FLAGS.against:
        _refuse_unused("--against", "rule", "value", "calibration", "prevalence")
    if FLAGS.prevalence is not None and not 0 < FLAGS.prevalence < 1:
        raise UsageError(f"--prevalence {FLAGS.prevalence:g}: expected a share between 0 and 1")
    select.check_flags()
    data = None
    if FLAGS.workdir:
        folder = cli.local_folder("workdir", FLAGS.workdir)
        cli.existing_folder("workdir", FLAGS.workdir, expected="the --workdir of melanoma_tf.train")
        path, table = folder / OOF, read_run(folder)
        if not FLAGS.against:
            table, data = _with_build(table)
        out = cli.local_folder("out", FLAGS.out) if FLAGS.out else folder
    else:
        path, out = Path(FLAGS.predictions), cli.local_folder("out", FLAGS.out)
        if _has_classes(path):
            cli.say(write_classes(path, out))
            return
        table, data = _of_file(path)
    if FLAGS.against:
        cli.say(write_comparison(table, Path(FLAGS.against), out))
    else:
        run = Path(FLAGS.workdir) if FLAGS.workdir and FLAGS.grad_cam else None
        stressed = _stressed(folder) if FLAGS.stress else None
        cli.say(write(table, path, out, _options(), data, run, stressed))


def _options() -> analysis.Options:
    from melanoma_tf.evaluation import analysis

    default = 20.0 if FLAGS.rule == "cost" else 0.9
    return analysis.Options(
        rule=FLAGS.rule,
        value=default if FLAGS.value is None else FLAGS.value,
        method=FLAGS.calibration,
        prevalence=FLAGS.prevalence,
        replicates=FLAGS.replicates,
        allow_leakage=FLAGS.allow_leakage,
    )


def _stressed(folder: Path) -> Callable[..., dict[str, Any]]:
    """Checks what --stress needs; returns what measures it, given a table, its figures and options."""
    from melanoma_tf import stress

    data = cli.existing_folder("data", FLAGS.data, expected="the output folder of tfrecord_tools.build")
    return functools.partial(stress.measure, stress.open_run(folder, data), most=FLAGS.stress_images)


def read_run(folder: Path) -> pd.DataFrame:
    """Reads a run's out-of-fold predictions as a checked table.

    Raises:
      RunDirError: no fold is finished.
    """
    from melanoma_tf.evaluation import predictions

    if not (folder / OOF).is_file():
        raise RunDirError(f"{folder / OOF} does not exist; melanoma_tf.train writes it when it finishes a fold")
    return predictions.check(read_predictions(folder / OOF), str(folder / OOF))


def _has_classes(path: Path) -> bool:
    from melanoma_tf.evaluation import multiclass

    found = multiclass.has_classes(path)
    if found:
        for_one = ("against", "data", "folds_from", "rule", "value", "calibration", "prevalence", "allow_leakage")
        _refuse_unused(f"{path}, which has several classes,", *for_one)
    return found


def _refuse_unused(what: str, *names: str) -> None:
    """Raises UsageError for flags that were given and would do nothing."""
    if unused := [f"--{name}" for name in names if FLAGS[name].present]:
        raise UsageError(f"{what} does not use {', '.join(unused)}; leave out what is not used, see --help")


def _with_build(table: pd.DataFrame) -> tuple[pd.DataFrame, Build | None]:
    """Reads --data, with the images that the gallery will show, and adds what it knows of the images to a table."""
    from melanoma_tf.evaluation import build_images, predictions, progress
    from melanoma_tf.evaluation.report import gallery

    if not FLAGS.data:
        return table, None
    progress.say("images")
    shown = gallery.most_confident(table).values()
    data = build_images.Build(FLAGS.data, table, [name for names in shown for name in names])
    known = data.metadata
    if FLAGS.workdir and _rule(Path(FLAGS.workdir) / OOF) != MELANOMA and "target" in known:
        known = known.drop(columns="target")  # that of the records, whose rule is another
    if FLAGS.workdir and not data.has(table).all():  # a run's table has most of it already
        return table, data
    return predictions.with_metadata(table, known, FLAGS.data), data


def _of_file(path: Path) -> tuple[pd.DataFrame, Build | None]:
    """Reads --predictions, with --metadata or --data beside it."""
    from melanoma_tf.evaluation import predictions

    in_metadata = FLAGS.folds_from if FLAGS.metadata else None
    table = predictions.read(path, None if in_metadata else FLAGS.folds_from)
    if FLAGS.metadata:
        known = predictions.read_metadata(Path(FLAGS.metadata))
        table = predictions.with_metadata(table, known, FLAGS.metadata, in_metadata)
    return _with_build(table)


def report(folder: Path) -> str:
    """Evaluates a run, see `write`, and returns the main figures as text.

    Raises:
      RunDirError: no fold is finished.
      ValueError: the predictions cannot be evaluated, e.g. they have only one class.
    """
    return write(read_run(folder), folder / OOF, folder)


def write(
    table: pd.DataFrame,
    path: Path,
    out: Path,
    options: analysis.Options | None = None,
    data: Build | None = None,
    run: Path | None = None,
    stressed: Callable[..., dict[str, Any]] | None = None,
) -> str:
    """Writes metrics.json, REPORTS and calibration.json of a checked table of predictions to a folder.

    Args:
      table: a checked table of predictions.
      path: where it was read.
      out: the folder.
      options: what is asked for.
      data: a build that has the images.
      run: folder of the run whose models explain the images of the gallery; None explains none.
      stressed: `stress.measure` of an opened run; None for no stress test.

    Returns:
      The main figures as text.
    """
    from melanoma_tf.evaluation import analysis, intervals, multiclass, progress, stored, summary
    from melanoma_tf.evaluation.report import checklist, classes, gallery, model_card, page

    options = options or analysis.Options()
    shown, sha256, training = progress.Shown(), files.sha256(path), _of_training(path)
    if data:
        table = table.assign(skin_tone=data.skin_tones(table))
    with intervals.watched(shown.resampled):
        results = analysis.analyze(table, options, shown.part)
    _warn_of_rule(results, path)
    if stressed:
        shown.part("stress")
        results["stress"] = stressed(table, results, options)
    errors = gallery.most_confident(table) if data else {}
    images = data.images([name for names in errors.values() for name in names]) if data else {}
    if data:
        _add_pixels(results, data, table)
    if path.name == OOF and (found := multiclass.analyze_run(path, options.replicates, shown)):
        results["diagnoses"] = found
    results = analysis.to_json(results)
    name = path.parent.resolve().name if path.name == OOF else path.name
    title = f"Evaluation of {name}"
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / METRICS, json.dumps(results, indent=1) + "\n")
    overlays = _grad_cam(run, table, images, stressed is not None)
    sheets = gallery.section(table, errors, images, overlays) if data else None
    diagnoses = classes.section(results["diagnoses"]) if "diagnoses" in results else None
    files.write_text(out / REPORT, page.make(title, results, sheets, _choices(table, images), diagnoses))
    files.write_text(out / CARD, model_card.make(title, results))
    files.write_text(out / CHECKLIST, checklist.make(title, results, training))
    kept = stored.of_results(results, sha256)
    stored.write(out / CALIBRATION, kept)
    why = "not stored; that takes two folds, and a model better than chance"
    written: dict[str, Path | str] = {"predictions": path, "metrics": out / METRICS, "report": out / REPORT}
    written["calibration"] = out / CALIBRATION if kept else why
    return "\n".join([*summary.lines(results), *(f"{name}: {where}" for name, where in written.items())])


def _warn_of_rule(results: dict[str, Any], predictions: Path) -> None:
    if (rule := _rule(predictions)) != MELANOMA:
        results["warnings"].append(f"this run's positives are {rule!r}: read melanoma and malignant here as that")


def _rule(predictions: Path) -> str:
    """The config.target of the run that made predictions."""
    return ((_of_training(predictions) or {}).get("config") or {}).get("target", MELANOMA)


def _add_pixels(results: dict[str, Any], data: Build, table: pd.DataFrame) -> None:
    """Adds what a build's pixels say without the model, and a warning of images that it lacks."""
    if pixels := data.pixel_floor(table):
        results.setdefault("floor", {})["pixels"] = pixels
    if absent := int((~data.has(table)).sum()):
        results["warnings"].append(f"--data lacks {absent:,} of the images, which pixels say nothing of")


def _choices(table: pd.DataFrame, images: Collection[str]) -> dict[str, list[str]]:
    """Returns the sites and sources of some images, by which the gallery is filtered."""
    shown = table[table["image_name"].isin(images)]
    columns = {"site": "anatom_site_general_challenge", "source": "source"}
    return {name: shown[column].dropna().tolist() for name, column in columns.items() if column in shown}


def _of_training(predictions: Path) -> dict[str, Any] | None:
    """Returns the contents of the run.json beside a run's predictions. Raises RunDirError if it is damaged."""
    run = predictions.parent / RUN
    if predictions.name != OOF or not run.is_file():
        return None
    try:
        found = json_file.read(run)
        if not isinstance(found, dict):
            raise ValueError("expected an object")
        return found
    except ValueError as error:
        raise RunDirError(f"{run}: {error}; expected what melanoma_tf.train wrote; restore it or remove it") from error


def write_classes(path: Path, out: Path) -> str:
    """Writes metrics.json and report.html of predictions of several diagnoses.

    Args:
      path: the CSV.
      out: folder to write to.

    Returns:
      The main figures as text.
    """
    from melanoma_tf.evaluation import analysis, intervals, multiclass, progress
    from melanoma_tf.evaluation.report import classes

    found = multiclass.read(path, Path(FLAGS.metadata) if FLAGS.metadata else None)
    shown = progress.Shown()
    shown.part("classes")
    with intervals.watched(shown.resampled):
        results = analysis.to_json(multiclass.analyze(found, FLAGS.replicates))
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / METRICS, json.dumps(results, indent=1) + "\n")
    files.write_text(out / REPORT, classes.make(f"Evaluation of {path.name}", results))
    return "\n".join([*multiclass.summary(results), f"metrics: {out / METRICS}", f"report: {out / REPORT}"])


def _grad_cam(
    run: Path | None, table: pd.DataFrame, images: Mapping[str, bytes], started: bool = False
) -> dict[str, list[Overlay]]:
    """What made each image an error: what lowered the prediction of a melanoma, and raised that of another.

    Returns:
      Overlays by name; none, after a note, where the run's models cannot be had.
    """
    if run is None or not images:
        return {}
    from melanoma_tf import explain
    from melanoma_tf.evaluation import progress

    progress.say("Grad-CAM, by the models of the run (--nograd_cam leaves it out)")
    try:
        opened = explain.open_run(run)
        if not started:
            select.start_as_asked()
        drawn = explain.overlays(opened, table, images)
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        cli.say(f"note: no Grad-CAM in the gallery: {error}")
        return {}
    is_melanoma = dict(zip(table["image_name"], table["target"] == 1, strict=True))
    return {name: [lowered if is_melanoma[name] else raised] for name, (raised, lowered) in drawn.items()}


def write_comparison(table: pd.DataFrame, against: Path, out: Path) -> str:
    """Writes comparison.json: every metric of two models of the same images, and the interval of its difference.

    Args:
      table: a checked table of predictions.
      against: CSV of the other model's predictions.
      out: folder to write to.

    Returns:
      The differences as text.
    """
    from melanoma_tf.evaluation import analysis, compare, predictions

    analysis.check_leakage(table, FLAGS.allow_leakage)
    other = predictions.same_images(table, predictions.read(against), ("--predictions", str(against)))
    scores = table["logit"], other["logit"]
    found = compare.paired(table["target"], *scores, predictions.patients(table), replicates=FLAGS.replicates)
    independent, p = compare.delong(table["target"], scores).difference()
    results = {
        "differences": {name: dataclasses.asdict(each) for name, each in found.items()},
        "delong": {**dataclasses.asdict(independent), "p_value": p, "assumes": "independent images"},
    }
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / COMPARISON, json.dumps(analysis.to_json(results), indent=1) + "\n")
    lines = [
        f"{name.replace('_', ' ')}: {each.first:.4f} against {each.second:.4f}, difference {each.interval}, "
        f"p = {each.p_value:.3g}"
        for name, each in found.items()
    ]
    lines.append(f"AUC by DeLong, which takes images as independent: {independent}, p = {p:.3g}")
    lines.append(f"data of this size show a difference in AUC from {found['auc'].detectable:.4f} (80% power)")
    return "\n".join([*lines, f"comparison: {out / COMPARISON}"])


def run() -> None:
    """Runs the command; console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
