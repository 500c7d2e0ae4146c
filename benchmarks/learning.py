"""AUC and speed of this pipeline and of a plain Keras recipe, trained on the same real images.

    python benchmarks/learning.py --ham10000 DIR --out /tmp/learning

Data: HAM10000 in Kaggle's format (lesion_id as patient_id, target = melanoma), images of 96 px, lesion-grouped fold 0
held out. Model: EfficientNet-B0 from random weights, 10 epochs of batch 64. The two recipes alternate by epoch, so
that other load on the machine affects both.

Prints the AUC of the last epoch with its lesion-clustered interval, the difference of the two with a paired interval,
and the median training speed in images/s, without the first epoch, which compiles.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("ham10000", None, "Folder with HAM10000_metadata.csv and jpeg/.", required=True)
flags.DEFINE_string("out", None, "Output folder for records and results.", required=True)
flags.DEFINE_integer("epochs", 10, "Epochs of each recipe.")
flags.DEFINE_integer("fold", 0, "Fold to hold out, of 5.")

SIZE, BATCH = 96, 64
SITES = {
    "head/neck": ("face", "scalp", "neck", "ear"),
    "upper extremity": ("upper extremity", "hand"),
    "lower extremity": ("lower extremity", "foot"),
    "torso": ("abdomen", "back", "chest", "trunk"),
    "palms/soles": ("acral",),
    "oral/genital": ("genital",),
}


def main(argv: list[str]) -> None:
    """Trains both recipes and prints the summary."""
    del argv
    out = Path(FLAGS.out)
    records = build_records(Path(FLAGS.ham10000), out)

    from melanoma_tf.devices import select

    devices = select.start("cpu")
    from melanoma_tf.data import pipeline
    from melanoma_tf.data.dataset import open_data
    from melanoma_tf.evaluation import metrics

    dataset = open_data(str(records))
    table = pipeline.read_metadata(dataset.fold(FLAGS.fold))
    recipes: list[Any] = [Ours(dataset, devices), Plain(dataset)]
    rows = []
    for epoch in range(FLAGS.epochs):
        for recipe in recipes if epoch % 2 == 0 else recipes[::-1]:
            started = time.perf_counter()
            recipe.train(epoch)
            images_per_s = recipe.images / (time.perf_counter() - started)
            value = metrics.auc(table["target"], recipe.logits())
            rows.append({"recipe": recipe.name, "epoch": epoch + 1, "images_per_s": images_per_s, "auc": value})
            print(f"{recipe.name:6} epoch {epoch + 1:2}: {images_per_s:5.1f} images/s, AUC {value:.4f}", flush=True)
            pd.DataFrame(rows).to_csv(out / "epochs.csv", index=False)
    logits = {recipe.name: recipe.final_logits() for recipe in recipes}
    logits["ours, one view"] = recipes[0].logits()
    print(summary(rows, table, logits, out))


# ----------------------------------------------------------------------------------------------------------- records


def build_records(ham: Path, out: Path) -> Path:
    """Builds HAM10000 as 96 px records with lesion-grouped folds, once per --out."""
    out.mkdir(parents=True, exist_ok=True)
    to_kaggle_format(pd.read_csv(ham / "HAM10000_metadata.csv")).to_csv(out / "train.csv", index=False)
    folders = ["--csv", str(out / "train.csv"), "--images", str(ham / "jpeg"), "--out", str(out / "records")]
    options = ["--size", str(SIZE), "--source", "ham10000", "--resume"]
    subprocess.run([sys.executable, "-m", "tfrecord_tools.build", *folders, *options], check=True)
    return out / "records"


def to_kaggle_format(ham: pd.DataFrame) -> pd.DataFrame:
    """Converts HAM10000's metadata to the columns and vocabulary of SIIM-ISIC 2020."""
    site = {word: kaggle for kaggle, words in SITES.items() for word in words}
    malignant = ham["dx"] == "mel"
    return pd.DataFrame(
        {
            "image_name": ham["image_id"],
            "patient_id": ham["lesion_id"],
            "sex": ham["sex"].where(ham["sex"] != "unknown"),
            "age_approx": ham["age"],
            "anatom_site_general_challenge": ham["localization"].map(site),
            "diagnosis": malignant.map({True: "melanoma", False: "unknown"}),
            "benign_malignant": malignant.map({True: "malignant", False: "benign"}),
            "target": malignant.astype(int),
        }
    )


# ----------------------------------------------------------------------------------------------------------- recipes


class Ours:
    """This pipeline: configs/default.py scaled to the task, random weights, eight views in evaluation."""

    name = "ours"

    def __init__(self, dataset: Any, devices: Any) -> None:
        from melanoma_tf.core import config
        from melanoma_tf.data import pipeline
        from melanoma_tf.inference import predictor
        from melanoma_tf.training import build

        c = config.default()
        c.update(model="efficientnet-b0", weights="none", image_size=SIZE, batch_size=BATCH, epochs=FLAGS.epochs)
        c.update(loss="bce", lr=2e-3, warmup_epochs=0.5, dropout=0.2, ema=0.99)
        self.config, self.shards, self.held_out = c, dataset.others(FLAGS.fold), dataset.fold(FLAGS.fold)
        images, positives = pipeline.count(self.shards), sum(s.positives for s in self.shards)
        self.images = images // BATCH * BATCH
        with devices.scope():
            self.trainer, self.classifier = build.build_trainer(c, positives / images, images // BATCH, devices.profile)
            self.one_view = predictor.predictor(self.classifier, tta=False)
            self.eight_views = predictor.predictor(self.classifier, tta=True)

    def train(self, epoch: int) -> None:
        """Trains one epoch. epoch: from 0."""
        from melanoma_tf.data import pipeline

        c = self.config
        batches = pipeline.train_batches(
            self.shards,
            batch_size=BATCH,
            image_size=SIZE,
            seed=c.seed,
            epoch=epoch,
            skip_steps=0,
            buffer=c.shuffle_buffer,
        )
        self.trainer.fit(batches, shuffle=False, verbose=0)

    def logits(self) -> Any:
        """Predicts the held-out fold from one view."""
        return self._logits(self.one_view, BATCH)

    def final_logits(self) -> Any:
        """Predicts the held-out fold from eight views."""
        return self._logits(self.eight_views, BATCH // 8)

    def _logits(self, model: Any, batch_size: int) -> Any:
        from melanoma_tf.inference import predictor
        from melanoma_tf.training import checkpoint

        with checkpoint.averaged(self.classifier, self.trainer.optimizer):
            return predictor.predict_outputs(model, self.held_out, batch_size=batch_size, image_size=SIZE)[:, 0]


class Plain:
    """Keras as in its guides: preprocessing layers, Adam with cosine decay, BCE, `fit`."""

    name = "plain"

    def __init__(self, dataset: Any) -> None:
        import keras
        import tensorflow as tf

        self.train_set = self._dataset([s.path for s in dataset.others(FLAGS.fold)]).shuffle(2048).batch(BATCH)
        self.held_out = dataset.fold(FLAGS.fold)
        self.train_set = self.train_set.prefetch(tf.data.AUTOTUNE)
        self.images = sum(s.records for s in dataset.others(FLAGS.fold))
        layers = keras.layers
        self.model = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                layers.RandomFlip("horizontal_and_vertical"),
                layers.RandomRotation(0.5),
                layers.RandomZoom(0.1),
                layers.RandomContrast(0.1),
                keras.applications.EfficientNetB0(include_top=False, weights=None, pooling="avg"),
                layers.Dropout(0.2),
                layers.Dense(1, activation="sigmoid"),
            ]
        )
        steps = -(-self.images // BATCH) * FLAGS.epochs
        self.model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps)), "binary_crossentropy"
        )

    @staticmethod
    def _dataset(paths: list[str]) -> Any:
        import tensorflow as tf

        def parse(serialized: Any) -> Any:
            spec = {"image": tf.io.FixedLenFeature([], tf.string), "target": tf.io.FixedLenFeature([], tf.int64)}
            record = tf.io.parse_single_example(serialized, spec)
            return tf.ensure_shape(tf.io.decode_jpeg(record["image"], channels=3), [SIZE, SIZE, 3]), record["target"]

        return tf.data.TFRecordDataset(paths, num_parallel_reads=4).map(parse, num_parallel_calls=tf.data.AUTOTUNE)

    def train(self, epoch: int) -> None:
        """Trains one epoch. epoch: from 0."""
        self.model.fit(self.train_set, verbose=0, initial_epoch=epoch, epochs=epoch + 1)

    def logits(self) -> Any:
        """Predicts the held-out fold."""
        return self.final_logits()

    def final_logits(self) -> Any:
        """Predicts the held-out fold, in the order of `pipeline.read_metadata`."""
        from melanoma_tf.data import pipeline

        images = pipeline.eval_batches(self.held_out, batch_size=BATCH, image_size=SIZE).map(lambda x: x["image"])
        return self.model.predict(images, verbose=0)[: pipeline.count(self.held_out), 0]


# ----------------------------------------------------------------------------------------------------------- results


def summary(rows: list[dict[str, Any]], table: pd.DataFrame, logits: dict[str, Any], out: Path) -> str:
    """Writes results.json and returns the results as text."""
    from melanoma_tf.evaluation import intervals

    results: dict[str, Any] = {"machine": machine(), "epochs": FLAGS.epochs, "held_out": len(table)}
    lines = [f"machine: {machine()}; {len(table)} images held out, {int(table['target'].sum())} malignant"]
    for name, values in logits.items():
        interval = intervals.clustered_auc_interval(table["target"], values, table["patient_id"])
        results[name] = {"auc": [interval.value, interval.low, interval.high]}
        lines.append(f"{name:15} AUC {interval}")
    speeds = {
        name: statistics.median([r["images_per_s"] for r in rows if r["recipe"] == name and r["epoch"] > 1] or [0.0])
        for name in ("ours", "plain")
    }
    low, high = paired_interval(table, logits["ours"], logits["plain"])
    results |= {"images_per_s": speeds, "auc_difference_interval": [low, high]}
    lines.append(f"ours - plain: 95% interval of the AUC difference, lesions resampled: {low:+.4f} to {high:+.4f}")
    lines.append(f"images/s in training, median: {speeds}, ratio {speeds['ours'] / max(speeds['plain'], 1e-9):.2f}")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return "\n".join(lines)


def paired_interval(table: pd.DataFrame, ours: Any, plain: Any, replicates: int = 1000) -> tuple[float, float]:
    """Returns the 95 % percentile interval of AUC(ours) - AUC(plain) over resampled lesions."""
    from melanoma_tf.evaluation import metrics

    rng = np.random.default_rng(0)
    _, lesion = np.unique(table["patient_id"], return_inverse=True)
    differences = []
    for _ in range(replicates):
        weights = np.bincount(rng.integers(lesion.max() + 1, size=lesion.max() + 1), minlength=lesion.max() + 1)[lesion]
        a, b = (metrics.auc(table["target"], logits, weights) for logits in (ours, plain))
        differences.append(a - b)
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def machine() -> str:
    """Describes the processor, its cores and the library versions."""
    import keras
    import tensorflow as tf

    model, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, tensorflow {tf.__version__}, keras {keras.__version__}"


if __name__ == "__main__":
    app.run(main)
