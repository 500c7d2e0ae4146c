"""Experiment trackers of `train --log`: TensorBoard, Weights & Biases, MLflow.

Each fold is a run there. It gets the config and a sheet of augmented images when it starts, and after each epoch the
row of history.csv and the ROC curve of the held-out images. foldK/trackers.json holds what a resumed run has to know.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import ml_collections

from melanoma_tf.core import cli, files
from tfrecord_tools.core import json_file

if TYPE_CHECKING:
    from PIL import Image

STATE = "trackers.json"
_SHOWN, _DRAWS, _WIDEST = 4, 4, 1600  # images of the sheet, augmented versions of each, pixels
_ROC_PX, _SCALE = 360, 2  # side of the plot; drawn larger and reduced, which smooths its lines


class Tracker(Protocol):
    """A run of a tracker.

    Attributes:
      id: identifies the run when it is resumed.
    """

    id: str

    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Image.Image]) -> None:
        """Sends values and images. step: optimizer steps so far."""

    def close(self, failed: bool) -> None:
        """Sends what is left and ends the run. failed: whether training did not reach its end."""


class TensorBoard:
    """Event files in foldK/tensorboard, written by TensorFlow itself."""

    def __init__(self, folder: Path, project: str, name: str, config: ml_collections.ConfigDict, known: str | None):
        import tensorflow as tf

        self.id, self._tf = known or "tensorboard", tf
        self._writer = tf.summary.create_file_writer(str(folder / "tensorboard"))
        if not known:
            plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="text")
            text = "\n".join(f"    {line}" for line in _text(config).splitlines())  # of Markdown: as it is
            with self._writer.as_default():
                tf.summary.write("config", text, 0, tf.compat.v1.SummaryMetadata(plugin_data=plugin))

    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Image.Image]) -> None:
        # In the form of TensorFlow 1, which TensorBoard reads too: tf.summary.scalar and image need its package.
        kind = self._tf.compat.v1.Summary
        values = [kind.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        for name, image in images.items():
            buffer = io.BytesIO()
            image.save(buffer, "png")
            encoded = kind.Image(
                width=image.width, height=image.height, colorspace=3, encoded_image_string=buffer.getvalue()
            )
            values.append(kind.Value(tag=name, image=encoded))
        with self._writer.as_default():
            self._tf.summary.experimental.write_raw_pb(kind(value=values).SerializeToString(), step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; its files are in foldK/wandb. WANDB_MODE=offline sends nothing."""

    def __init__(self, folder: Path, project: str, name: str, config: ml_collections.ConfigDict, known: str | None):
        import wandb

        self.id, self._image = known or uuid.uuid4().hex, wandb.Image
        self._run = wandb.init(
            project=re.sub(r"[/\\#?%:]", "-", project)[:128],  # what the service allows
            name=name,
            dir=folder,
            id=self.id,
            resume="allow",
            config=config.to_dict(),
            allow_val_change=True,  # an extended run has more epochs
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Image.Image]) -> None:
        shown = {name: self._image(image) for name, image in images.items()}
        self._run.log({**scalars, **shown}, step=step, commit=True)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow, in its default store or in MLFLOW_TRACKING_URI."""

    def __init__(self, folder: Path, project: str, name: str, config: ml_collections.ConfigDict, known: str | None):
        import mlflow

        self._mlflow, self._client = mlflow, mlflow.MlflowClient()
        if known:
            self.id = known
            self._client.update_run(known, status="RUNNING")
        else:
            experiment = self._client.get_experiment_by_name(project)
            where = experiment.experiment_id if experiment else self._client.create_experiment(project)
            self.id = self._client.create_run(where, run_name=name).info.run_id
            # A parameter cannot change, as the epochs of an extended run do: config.json has the latest.
            params = [mlflow.entities.Param(key, str(value)) for key, value in _flat(config).items()]
            self._client.log_batch(self.id, params=params)
        self._client.log_text(self.id, _text(config), "config.json")

    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Image.Image]) -> None:
        now = int(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        self._client.log_batch(self.id, [metric(name, value, now, step) for name, value in scalars.items()])
        for name, image in images.items():
            self._client.log_image(self.id, image, key=name, step=step)

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


# Names of --log -> the class, and the package that it needs.
TRACKERS: dict[str, tuple[Callable[..., Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorflow"),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}


def check(names: Sequence[str]) -> None:
    """Checks --log, without importing what it names.

    Raises:
      ValueError: an unknown name.
      RuntimeError: a package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"unknown --log {name!r}; expected some of: {', '.join(TRACKERS)}")
        package = TRACKERS[name][1]
        if name == package and importlib.util.find_spec(package) is None:  # TensorFlow is asked for elsewhere
            raise RuntimeError(
                f"--log {name}: {package} is not installed; pip install {package}, or 'melanoma-tf[tracking]' for all"
            )


class Log:
    """The trackers of a fold. One that fails is given up with a warning, and training goes on.

    Args:
      names: of `TRACKERS`; none on hosts other than the primary.
      folder: the fold's folder.
      project: name under which the folds of a run are grouped.
      name: of the fold there.
      config: of the run.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        folder: Path = Path(),
        project: str = "",
        name: str = "",
        config: ml_collections.ConfigDict | None = None,
    ) -> None:
        self._waiting, self._folder = list(dict.fromkeys(names)), folder
        self._open = lambda kind, known: kind(folder, project, name, config, known)
        self._trackers: dict[str, Tracker] = {}
        self._state: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.close, kind is not None)

    def begin(self, history: Sequence[Mapping[str, float]], draw: Callable[[], Image.Image]) -> None:
        """Starts or resumes the trackers.

        Args:
          history: rows of the epochs before; those that a tracker lacks are sent.
          draw: draws the sheet of augmented images, for a tracker that is new.
        """
        if not self._waiting:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if history and (file := self._folder / STATE).is_file():  # without an epoch there is nothing to continue
            self._state = json_file.read(file)
        once = functools.cache(draw)
        for name in self._waiting:
            self._try(name, self._begin, name, history, once)

    def _begin(self, name: str, history: Sequence[Mapping[str, float]], draw: Callable[[], Image.Image]) -> None:
        known = self._state.get(name)
        tracker = self._trackers[name] = self._open(TRACKERS[name][0], known["id"] if known else None)
        if not known:
            tracker.log(0, {}, {"augmented": draw()})
            self._note(name, 0)
        for row in history:
            self._send(name, row, {})

    def epoch(self, row: Mapping[str, float], labels: Any, scores: Any) -> None:
        """Sends an epoch.

        Args:
          row: of history.csv.
          labels: [N] in {0, 1}, of the held-out images.
          scores: [N].
        """
        if self._trackers:
            images = {"roc": roc_image(labels, scores, f"epoch {row['epoch']:.0f}")}
            for name in list(self._trackers):
                self._try(name, self._send, name, row, images)

    def _send(self, name: str, row: Mapping[str, float], images: Mapping[str, Image.Image]) -> None:
        step = int(row["step"])
        if step > self._state[name]["step"]:  # else an earlier process has sent it
            self._trackers[name].log(step, {key: float(value) for key, value in row.items()}, images)
            self._note(name, step)

    def _note(self, name: str, step: int) -> None:
        self._state[name] = {"id": self._trackers[name].id, "step": step}
        files.write_text(self._folder / STATE, json.dumps(self._state, indent=1) + "\n")

    def _try(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # of a network, a disk or the tracker's library
            self._trackers.pop(name, None)
            what = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            cli.say(f"warning: {name}: {what}; training goes on without it")


def augmented_images(trainer: Any, shards: Sequence[Any], config: ml_collections.ConfigDict) -> Image.Image:
    """Draws training images before and after the augmentation of a trained model.

    Args:
      trainer: from `build.build_trainer`.
      shards: to train on.
      config: of the run.
    """
    import numpy as np

    from melanoma_tf.augment import preview
    from melanoma_tf.data import pipeline

    count = min(_SHOWN, pipeline.count(shards))
    batch = next(iter(pipeline.eval_batches(shards, batch_size=count, image_size=config.image_size)))
    rows = [preview.Row(f"training image {i + 1}", trainer.get_layer("augment"), i) for i in range(count)]
    sheet = preview.render(np.asarray(batch["image"]), f"Augmentation: {config.augment}", rows, _DRAWS, config.seed)
    sheet.thumbnail((_WIDEST, _WIDEST))
    return sheet


def roc_image(labels: Any, scores: Any, title: str) -> Image.Image:
    """Draws a ROC curve.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive.
      title: text before the AUC.

    Returns:
      An RGB image of 360 px.
    """
    from PIL import Image, ImageDraw, ImageFont

    from melanoma_tf.evaluation import metrics

    curve = metrics.Ranking(labels, scores).curve()
    corners = zip(curve.false_positive_rate[0], curve.sensitivity[0], strict=True)
    side, margin, font = _ROC_PX * _SCALE, 48 * _SCALE, ImageFont.load_default(13 * _SCALE)
    plot = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(plot)

    def at(x: float, y: float) -> tuple[float, float]:
        return margin + x * (side - 2 * margin), side - margin - y * (side - 2 * margin)

    for tick in (0.0, 0.5, 1.0):
        pen.line([at(tick, 0), at(tick, 1)], "#d8dde3", _SCALE)
        pen.line([at(0, tick), at(1, tick)], "#d8dde3", _SCALE)
        pen.text(at(tick, -0.02), f"{tick:g}", "#56606c", font, anchor="mt")
        pen.text(at(-0.02, tick), f"{tick:g}", "#56606c", font, anchor="rm")
    pen.line([at(0, 0), at(1, 1)], "#9aa4b0", _SCALE)
    pen.line([at(x, y) for x, y in corners], "#0b62c4", 2 * _SCALE, joint="curve")
    pen.text(at(0.5, 1.08), f"{title}: AUC {metrics.area(curve)[0]:.4f}", "#1c2127", font, anchor="ms")
    pen.text(at(0.5, -0.1), "1 - specificity", "#1c2127", font, anchor="mt")
    pen.text(at(0, 1.03), "sensitivity", "#1c2127", font, anchor="ls")
    return plot.resize((_ROC_PX, _ROC_PX), Image.Resampling.LANCZOS)


def _flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Settings by name, those of a group as tpu.warp."""
    found: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        found |= {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _text(config: ml_collections.ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)
