"""What the recipes learn from ImageNet weights: AUC and time on HAM10000, fold by fold, on two CPU cores.

    python benchmarks/learning.py --ham10000 DIR --out DIR
    python benchmarks/learning.py --ham10000 DIR --out DIR --recipes ablations --folds 0,1
    python benchmarks/learning.py --ham10000 DIR --out DIR --transfer ISIC2020   # and on images of elsewhere
    python benchmarks/learning.py --ham10000 DIR --out DIR --summary             # of what is finished

Melanoma or not; five folds grouped by lesion; EfficientNet-Lite0 for all. `recipes` lists the recipes: this pipeline's,
keras.io's (keras_io.py), Chris Deotte's, a linear probe of the frozen base as the floor, and changes of ours, one at a
time. Every fold is a process of its own and leaves OUT/RECIPE/foldK.csv; the same command goes on where it was killed.
Ends with OUT/results.json and OUT/results.md.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import app, flags

from melanoma_tf.core import files, provenance
from melanoma_tf.evaluation import calibration, compare, intervals, metrics

FLAGS = flags.FLAGS
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "lite0_224.py"
KERAS_IO = Path(__file__).with_name("keras_io.py")
PROBE_SIZE = 224  # at which the base was trained
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)  # C of the linear probe
REFERENCES = ("keras_io", "keras_io_tuned", "ours")  # what every recipe is compared with
DEFAULTS = ["floor", "keras_io", "keras_io_tuned", "deotte", "ours"]
Row = dict[str, Any]

# ----------------------------------------------------------------------------------------------------------- recipes

# What ours changes of CONFIG, besides image_size and epochs.
OURS: dict[str, Any] = {"head": "diagnosis", "lr": 5e-4, "ema": 0.99}
# Name -> (description, what it changes of ours).
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "no_pretraining": ("random initial weights", {"weights": "none"}),
    "no_augmentation": ("no augmentation", {"augment": "none"}),
    "no_ema": ("the last weights, not their moving average", {"ema": 0.0}),
    "one_view": ("prediction from one view instead of eight", {"tta": False}),
    "both_heads": ("melanoma and the diagnoses each with a loss", {"head": "target+diagnosis"}),
    "focal": ("melanoma alone, by focal loss", {"head": "target"}),
    "class_balanced": ("melanoma alone, by class-balanced focal loss", {"head": "target", "loss": "class_balanced"}),
    "bce": ("melanoma alone, by cross-entropy", {"head": "target", "loss": "bce"}),
    "metadata": ("with age, sex and site", {"metadata": "sex, age, site"}),
    "oversample": ("each melanoma four times an epoch", {"oversample": 4}),
    "balanced_batches": ("a quarter of each batch melanomas", {"positive_share": 0.25}),
    "gem": ("generalized-mean pooling", {"pooling": "gem"}),
    "layer_decay": ("learning rates that fall by 0.8 a stage from the head down", {"layer_decay": 0.8, "lr": 1e-3}),
    "larger": ("160 px", {"image_size": 160}),
}
FLOOR = {
    "probe": "logistic regression on the features of the frozen base",
    "probe_metadata": "the same with age, sex and site",
    "metadata": "age, sex and site alone",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How predictions of a fold are made."""

    kind: str  # pipeline (melanoma_tf.train), keras_io, one_view (of the models of ours) or floor
    about: str
    settings: dict[str, Any]  # of melanoma_tf's config, or flags of keras_io.py

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.settings["size" if "size" in self.settings else "image_size"]


def recipes(size: int, epochs: int) -> dict[str, Recipe]:
    """Returns all recipes by name."""
    budget = {"image_size": size, "epochs": epochs}
    # kaggle.com/cdeotte/triple-stratified-kfold-with-tfrecords: the peak rate that he used, warm-up in 5 of 12 epochs,
    # no dropout. The rate then falls by a cosine instead of 0.8 an epoch, and eight symmetries are averaged instead of
    # eleven random views.
    deotte = {"augment": "deotte", "loss": "bce", "label_smoothing": 0.05, "optimizer": "adam", "lr": 3.2e-4}
    deotte |= {"warmup_epochs": round(5 / 12 * epochs, 3), "dropout": 0.0, "ema": 0.0}
    # The guide trains the head for 20 epochs and the whole for 10.
    guide = {"head_epochs": max(1, 2 * epochs // 3), "epochs": epochs, "size": size, "learning_rate": 1e-5}
    tuned = {**guide, "head_epochs": max(1, epochs // 3), "learning_rate": 1e-4}
    found = {name: Recipe("floor", about, {"size": size}) for name, about in FLOOR.items()}
    found["keras_io"] = Recipe("keras_io", "keras.io's guide to transfer learning, as published", guide)
    found["keras_io_tuned"] = Recipe("keras_io", "the same, more and faster fine-tuning: 1e-4 for two thirds", tuned)
    live = {**guide, "live_batch_norm": True}
    found["keras_io_live"] = Recipe("keras_io", "the guide's code as Keras 3 runs it: batch norm not frozen", live)
    found["deotte"] = Recipe("pipeline", "C. Deotte's augmentation, loss and rates in this pipeline", budget | deotte)
    found["ours"] = Recipe("pipeline", f"configs/{CONFIG.name}, {OURS}", budget | OURS)
    for name, (about, changes) in ABLATIONS.items():
        kind = "one_view" if name == "one_view" else "pipeline"
        found[name] = Recipe(kind, f"ours, but {about}", budget | OURS | changes)
    return found


def expand(names: Sequence[str], known: dict[str, Recipe]) -> list[str]:
    """Returns the names of recipes, with those of the groups floor and ablations instead of the groups."""
    groups = {"floor": list(FLOOR), "ablations": list(ABLATIONS)}
    found = [each for name in names for each in groups.get(name, [name])]
    for name in found:
        if name not in known:
            raise ValueError(f"unknown recipe {name!r}; expected one of: {', '.join([*groups, *known])}")
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------------------------------------------------ running


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("ham10000", None, "Folder with HAM10000_metadata.csv and jpeg/.", required=True)
    flags.DEFINE_string("out", None, "Output folder for records, runs and results.", required=True)
    flags.DEFINE_list("recipes", DEFAULTS, "Recipes; floor and ablations are several.")
    flags.DEFINE_list("folds", ["0", "1", "2", "3", "4"], "Folds to hold out in turn.")
    flags.DEFINE_integer("size", 128, "Side of the images in pixels.")
    flags.DEFINE_integer("epochs", 6, "Epochs of every recipe.")
    flags.DEFINE_string("transfer", None, "Folder with train.csv and jpeg/ of SIIM-ISIC 2020, to predict as well.")
    flags.DEFINE_bool("summary", False, "Only write the results of what is finished.")
    flags.DEFINE_list("one_view", None, "Internal: RECORDS,RUN,FOLD,CSV to predict a fold without averaging views.")


def main(argv: list[str]) -> None:
    """Runs what is not finished of the asked recipes and writes the results."""
    del argv
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by which `python` ends the process that it waits for
    if FLAGS.one_view:
        predict_one_view(*FLAGS.one_view)
        return
    out, known = Path(FLAGS.out), recipes(FLAGS.size, FLAGS.epochs)
    asked = expand(FLAGS.recipes, known)
    if not FLAGS.summary:
        for fold in map(int, FLAGS.folds):
            for name in asked:
                run_fold(name, known[name], fold, out)
        if FLAGS.transfer:
            transfer(Path(FLAGS.transfer), known, out)
    write_results(out, known)


def python(*arguments: object) -> None:
    """Runs Python to its end; its output goes to ours."""
    print("+ python", shlex.join(map(str, arguments)), flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def flag_list(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns settings as flags."""
    return [f"--{prefix}{name}={value}" for name, value in settings.items()]


@functools.cache
def records(out: Path, size: int, source: Path | None = None) -> Path:
    """Builds records of HAM10000, or of `source`, once for each size."""
    csv, images = Path(FLAGS.ham10000) / "HAM10000_metadata.csv", Path(FLAGS.ham10000) / "jpeg"
    folder = out / "records" / str(size)
    if source:
        csv, images, folder = source / "train.csv", source / "jpeg", out / "records" / f"transfer_{size}"
    python("-m", "tfrecord_tools.build", "--csv", csv, "--images", images, "--size", size, "--out", folder, "--resume")
    return folder


def run_fold(name: str, recipe: Recipe, fold: int, out: Path) -> None:
    """Trains a recipe without a fold and predicts the fold, unless that is done."""
    folder = out / name
    csv, settings = folder / f"fold{fold}.csv", json.dumps(recipe.settings, indent=1)
    kept = out / "settings" / f"{name}.json"  # not in the folder, which has to be empty for melanoma_tf.train
    kept.parent.mkdir(parents=True, exist_ok=True)
    if kept.is_file() and kept.read_text() != settings:
        raise ValueError(f"{kept} differs from the settings of {name}, {recipe.settings}; pass another --out")
    files.write_text(kept, settings)
    if csv.is_file():
        print(f"{name}, fold {fold}: already finished", flush=True)
        return
    folder.mkdir(exist_ok=True)
    if recipe.kind == "floor":
        table = probe(name, fold, out)
    elif recipe.kind == "one_view":
        predicted = folder / "predicted.csv"
        view = f"--one_view={records(out, recipe.size)},{out / 'ours'},{fold},{predicted}"
        python(__file__, "--ham10000", FLAGS.ham10000, "--out", out, view)
        table = pd.read_csv(predicted)
    else:
        where = ["--data", records(out, recipe.size), "--fold", fold]
        if recipe.kind == "keras_io":
            python(KERAS_IO, *where, "--out", folder, *flag_list(recipe.settings))
        else:
            overrides = flag_list(recipe.settings, "config.")
            program = ["-m", "melanoma_tf.train", "--config", CONFIG, "--strategy", "cpu"]
            python(*program, *where, "--workdir", folder, *overrides)
        table = pd.read_csv(folder / f"fold{fold}" / "oof.csv")
    timing = measured(folder, fold) if recipe.kind in ("keras_io", "pipeline") else {}
    files.write_text(folder / f"fold{fold}.json", json.dumps(timing, indent=1))
    ham = pd.read_csv(Path(FLAGS.ham10000) / "HAM10000_metadata.csv")
    table["lesion_id"] = table["image_name"].map(ham.set_index("image_id")["lesion_id"])
    files.write_csv(csv, table[["image_name", "lesion_id", "target", "fold", "logit"]])


def measured(folder: Path, fold: int) -> Row:
    """Returns the images that a fold was trained on, repeats included, and the seconds of that without evaluation."""
    history = pd.read_csv(folder / f"fold{fold}" / "history.csv")
    if "images" not in history:
        batch = json.loads((folder / "run.json").read_text())["config"]["batch_size"]
        history["images"] = history["step"].diff().fillna(history["step"]) * batch
        # That of an epoch that was resumed near its end is mostly the start of the process.
        history["images_per_s"] = history["images_per_s"].median()
    seconds = history["images"] / history["images_per_s"]
    return {"images": int(history["images"].sum()), "seconds": float(seconds.sum())}


def predict_one_view(data: str, workdir: str, fold: str, csv: str) -> None:
    """Predicts a fold with its finished model from each image as it is."""
    from melanoma_tf.devices import select

    select.start("cpu")
    from melanoma_tf.data import dataset, pipeline
    from melanoma_tf.inference import predictor
    from melanoma_tf.training import build, checkpoint, run_dir

    run = run_dir.open_workdir(Path(workdir))
    classifier = build.build_classifier(run.config)
    checkpoint.load_final(run.fold(int(fold)) / run_dir.WEIGHTS, classifier)
    shards = dataset.open_data(data).fold(int(fold))
    sizes = {"batch_size": run.config.batch_size, "image_size": run.config.image_size}
    outputs = predictor.predict_outputs(predictor.predictor(classifier, tta=False), shards, **sizes)
    files.write_csv(Path(csv), pipeline.read_metadata(shards).assign(logit=outputs[:, 0]))


def probe(name: str, fold: int, out: Path) -> pd.DataFrame:
    """Predicts a fold by logistic regression on the others; C is chosen by leaving out each of those in turn."""
    from sklearn import linear_model, model_selection, preprocessing

    npz = out / "features" / "features.npz"
    if not npz.is_file():
        data = records(out, PROBE_SIZE)
        python(KERAS_IO, "--data", data, "--out", out, "--features", npz, "--size", PROBE_SIZE)
    table = pd.read_csv(npz.with_suffix(".csv"))
    known = pd.get_dummies(table[["sex", "anatom_site_general_challenge"]]).astype(float)
    known["age"] = table["age_approx"].fillna(table["age_approx"].median())
    features = {"probe": [np.load(npz)["features"]], "metadata": [known]}
    features["probe_metadata"] = [*features["probe"], known]
    x, y, held_out = np.column_stack(features[name]), table["target"], table["fold"] == fold
    x = preprocessing.StandardScaler().fit(x[~held_out]).transform(x)
    model = model_selection.GridSearchCV(
        linear_model.LogisticRegression(max_iter=1000),
        {"C": PENALTIES},
        scoring="roc_auc",
        cv=model_selection.LeaveOneGroupOut(),
    )
    model.fit(x[~held_out], y[~held_out], groups=table["fold"][~held_out])
    return table[held_out].assign(logit=model.decision_function(x[held_out]))


def transfer(source: Path, known: dict[str, Recipe], out: Path) -> None:
    """Predicts other images with the finished models of the references, the mean of the folds."""
    labels = pd.read_csv(source / "train.csv")[["image_name", "patient_id", "target"]].assign(fold=-1)
    (out / "transfer").mkdir(exist_ok=True)
    for name in REFERENCES:
        if not list((out / name).glob("fold*/oof.csv")):
            continue
        recipe, predicted = known[name], out / "transfer" / f"{name}_predicted.csv"
        data = records(out, recipe.size, source)
        if recipe.kind == "pipeline":
            program = ["-m", "melanoma_tf.predict", "--nocalibrated", "--strategy", "cpu"]
            python(*program, "--workdir", out / name, "--data", data, "--out", predicted)
            table = pd.read_csv(predicted)
            table["logit"] = calibration.logit(table["target"])
        else:
            python(KERAS_IO, "--data", data, "--out", out / name, "--predict", predicted, *flag_list(recipe.settings))
            table = pd.read_csv(predicted)
        table = labels.merge(table[["image_name", "logit"]], on="image_name")
        files.write_csv(out / "transfer" / f"{name}.csv", table)


# ------------------------------------------------------------------------------------------------------------ results


def write_results(out: Path, known: dict[str, Recipe]) -> None:
    """Writes results.json and results.md, and prints the latter."""
    tables = read(out, {name: f"{name}/fold*.csv" for name in known})
    rows = [summary(name, tables) | speed(out / name) | dataclasses.asdict(known[name]) for name in tables]
    moved = read(out, {name: f"transfer/{name}.csv" for name in known})
    about = {
        "command": shlex.join(sys.orig_argv),
        "machine": machine(),
        "git": provenance.git_state(CONFIG.parents[1] / "melanoma_tf"),
        "data": describe(tables, "lesions"),
        "recipes": rows,
        "data of transfer": describe(moved, "patients"),
        "transfer": [summary(name, moved) for name in moved],
    }
    files.write_text(out / "results.json", json.dumps(about, indent=1))
    text = markdown(about)
    files.write_text(out / "results.md", text)
    print(text)


def read(out: Path, patterns: dict[str, str]) -> dict[str, pd.DataFrame]:
    """Returns the predictions of each recipe that has any; lesions and patients are the column cluster."""
    paths = {name: sorted(out.glob(pattern)) for name, pattern in patterns.items()}
    tables = {name: pd.concat(map(pd.read_csv, found), ignore_index=True) for name, found in paths.items() if found}
    return {n: table.rename(columns={"lesion_id": "cluster", "patient_id": "cluster"}) for n, table in tables.items()}


def describe(tables: dict[str, pd.DataFrame], clusters: str) -> str:
    """Returns the numbers of images, clusters and melanomas of the recipe with the most images."""
    if not tables:
        return ""
    table = max(tables.values(), key=len)
    numbers = f"{len(table):,} images of {table['cluster'].nunique():,} {clusters}, {table['target'].sum():,} melanomas"
    return f"{numbers}; 95 % intervals, {clusters} resampled"


def summary(name: str, tables: dict[str, pd.DataFrame]) -> Row:
    """Returns a recipe's AUC over all its folds and in each, and its differences to the references on common images.

    Args:
      name: recipe.
      tables: image_name, cluster (lesion or patient), target, fold and logit of each recipe.
    """
    table = tables[name]
    parts = {fold: table[table["fold"] == fold] for fold in sorted(set(table["fold"]))}
    of_fold = {int(fold): float(metrics.auc(part["target"], part["logit"])) for fold, part in parts.items()}
    pooled = intervals.clustered_auc_interval(table["target"], table["logit"], table["cluster"])
    row: Row = {"recipe": name, "folds": list(of_fold), "auc": dataclasses.asdict(pooled), "auc_of_folds": of_fold}
    row["mean_auc_of_folds"] = float(np.mean(list(of_fold.values())))
    for reference in REFERENCES:
        if reference in tables and reference != name:
            both = table.merge(tables[reference][["image_name", "logit"]], on="image_name", suffixes=("", "_other"))
            if len(both):
                found = compare.paired(both["target"], both["logit"], both["logit_other"], both["cluster"])["auc"]
                row[f"minus {reference}"] = dataclasses.asdict(found.interval) | {"images": len(both)}
    return row


def speed(folder: Path) -> Row:
    """Returns the mean seconds of training of a fold and the images per second; nothing where nothing is trained."""
    timings = [json.loads(path.read_text()) for path in folder.glob("fold*.json")]
    if not all(timings):
        return {}
    images, seconds = (sum(timing[key] for timing in timings) for key in ("images", "seconds"))
    return {"images": images, "seconds_per_fold": seconds / len(timings), "images_per_s": images / seconds}


def machine() -> str:
    """Describes the processor, its cores and the library versions."""
    model, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0] if names else model
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "scikit-learn")]
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}"


def markdown(about: Row) -> str:
    """Returns the results as Markdown."""
    lines = [
        f"`{about['command']}`",
        "",
        about["machine"],
        "",
        about["data"],
        "",
        *markdown_table(about["recipes"]),
        "",
    ]
    lines += [f"- {row['recipe']}: {row['about']}" for row in about["recipes"]]
    if about["transfer"]:
        lines += ["", f"Other images: {about['data of transfer']}", "", *markdown_table(about["transfer"])]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """Returns the lines of a table of `summary`."""

    def between(value: Row | None, form: str) -> str:
        return f"{value['value']:{form}} ({value['low']:{form}} to {value['high']:{form}})" if value else ""

    headings = ["recipe", "folds", "AUC", "mean of folds", *(f"minus {n}" for n in REFERENCES), "s a fold", "images/s"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for row in rows:
        folds = ",".join(str(fold) for fold in row["folds"] if fold >= 0)
        cells = [row["recipe"], folds, between(row["auc"], ".4f"), f"{row['mean_auc_of_folds']:.4f}"]
        cells += [between(row.get(f"minus {name}"), "+.4f") for name in REFERENCES]
        cells += [f"{row[key]:,.0f}" if key in row else "" for key in ("seconds_per_fold", "images_per_s")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    define_flags()
    app.run(main)
