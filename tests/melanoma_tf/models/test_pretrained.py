"""Pretrained weights: the graph against two reference implementations, and what is said when a file is not right.

Every file is written here with random weights; nothing is downloaded.
"""

import hashlib
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import convnext, mobilenet_v3
from keras.src.applications import efficientnet as keras_v1
from keras.src.utils import file_utils

from melanoma_tf.models import backbones as models
from melanoma_tf.models import pretrained, registry
from tests.support.networks import agree, calibrate, features, pixels, randomize
from tests.support.process import JAX_ON_CPU, run_command

pytestmark = pytest.mark.integration

FETCHED = [name for name in registry.BACKBONES if "lite" not in name]  # the others come in wheels
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # as published, not read from our code


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(url, *_):
        raise OSError(f"no network in tests, asked for {url}")

    monkeypatch.setattr(file_utils, "urlretrieve", refuse)


def write_legacy(path: Path, model: keras.Model) -> None:
    """The weights-only layout and the tensor names of the published files (tf.keras 2: "kernel:0", no Keras 3 code)."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            names = [f"{layer.name}/{'depthwise_' if depthwise else ''}{v.name}:0" for v in layer.weights]
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, variable in zip(names, layer.weights, strict=True):
                group[name] = keras.ops.convert_to_numpy(variable)


def publish_imagenet(donor: keras.Model, variance: np.ndarray, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put `donor` where Keras caches its B0 file, with this Normalization, and make its checksum the one expected."""
    normalization = next(layer for layer in donor.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([MEAN, variance, np.array(0)])
    path = cache / "models" / "efficientnetb0_notop.h5"
    path.parent.mkdir()
    write_legacy(path, donor)
    monkeypatch.setitem(keras_v1.WEIGHTS_HASHES, "b0", ("", hashlib.md5(path.read_bytes()).hexdigest()))
    return path


@pytest.fixture(scope="module")
def donor() -> keras.Model:
    """B0 as keras.applications builds it, random."""
    model = keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=(32, 32, 3))
    randomize(model)
    calibrate(model, ((pixels(32, 64) / 255 - MEAN) / STD * 255).astype("float32"))  # it divides by 255 itself
    return model


@pytest.fixture
def legacy(donor, tmp_path) -> Path:
    path = tmp_path / "donor.h5"
    write_legacy(path, donor)
    return path


@pytest.fixture(scope="module")
def b0() -> keras.Model:
    """Ours; tests load into it, so none may rely on what it holds."""
    return models.build_classifier("efficientnet-b0", 32)


# ---- agreement with reference implementations -----------------------------------------------------------------------


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="efficientnet 1.1.1 builds on TensorFlow only")
@pytest.mark.parametrize(("variant", "size"), [("B0", 65), pytest.param("B3", 64, marks=pytest.mark.slow)])
def test_the_efficientnet_package_gives_the_same_features(variant, size, tmp_path):
    import efficientnet.tfkeras

    constructor = getattr(efficientnet.tfkeras, f"EfficientNet{variant}")
    reference = constructor(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")
    randomize(reference)
    calibrate(reference, ((pixels(size, 8) / 255 - MEAN) / STD).astype("float32"))
    whole, only = tmp_path / "whole.h5", tmp_path / "only.h5"
    reference.save(whole)
    with h5py.File(whole) as source, h5py.File(only, "w") as target:
        for key in source["model_weights"]:
            source.copy(f"model_weights/{key}", target)
        target.attrs.update(source["model_weights"].attrs)

    expected = keras.ops.convert_to_numpy(reference(((pixels(size) / 255 - MEAN) / STD).astype("float32")))
    name = f"efficientnet-{variant.lower()}"
    model = models.build_classifier(name, size)
    for path in (whole, only):
        randomize(model, seed=9)
        pretrained.load(model, name, str(path))
        agree(features(model, pixels(size) / 255), expected)


def test_imagenet_gives_the_features_of_keras_applications(donor, b0, tmp_path, monkeypatch):
    path = publish_imagenet(donor, STD, tmp_path, monkeypatch)  # the published files hold std as "variance"
    asked = []

    def get_file(*args, **kwargs):
        asked.append((args, kwargs))
        return str(path)

    monkeypatch.setattr(file_utils, "get_file", get_file)
    theirs = keras.applications.EfficientNetB0(include_top=False, input_shape=(32, 32, 3), pooling="avg")

    said = pretrained.load(b0, "efficientnet-b0", "imagenet", tmp_path)
    agree(features(b0, pixels(32) / 255), keras.ops.convert_to_numpy(theirs(pixels(32), training=False)))
    source = pretrained.sources("efficientnet-b0")["imagenet"]
    assert said == (f"efficientnet-b0: imagenet: 309 tensors from {path} (md5 {source.checksum}), head initialized")
    assert asked == [((source.file, source.url), {"cache_subdir": "models", "file_hash": source.checksum})]


def test_imagenet_of_a_backbone_that_is_only_an_entry(tmp_path, monkeypatch):
    name = "mobilenetv3-small"
    theirs, ours = models.published(name, 32), models.build_classifier(name, 32)
    randomize(theirs)
    path = tmp_path / "models" / "small.weights.h5"
    path.parent.mkdir()
    theirs.save_weights(path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(pretrained.catalogue.KERAS, name, (f"folder/{path.name}", checksum))
    assert f"{len(theirs.weights)} tensors from {path}" in pretrained.load(ours, name, "imagenet", tmp_path)
    expected = {named: layer.get_weights() for named, layer in models.named_layers(theirs)}
    for layer in models.backbone_layers(ours):
        for a, b in zip(layer.get_weights(), expected[layer.name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_imagenet_of_another_input_scale_is_refused(donor, b0, tmp_path, monkeypatch):
    publish_imagenet(donor, STD**2, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"efficientnetb0_notop\.h5 was trained on another input scale"):
        pretrained.load(b0, "efficientnet-b0", "imagenet", tmp_path)


@pytest.mark.parametrize(
    "name", ["efficientnetv2-b0", "efficientnetv2-s", "convnext-tiny", "mobilenetv3-small", "resnet50v2"]
)
def test_keras_applications_asks_for_the_file_we_list(name, monkeypatch):
    class AskedError(Exception):
        pass

    def get_file(file, url, cache_subdir, file_hash):
        raise AskedError(file, url, file_hash)

    monkeypatch.setattr(file_utils, "get_file", get_file)
    constructor = getattr(keras.applications, registry.BACKBONES[name].constructor)
    with pytest.raises(AskedError) as asked:
        constructor(include_top=False, input_shape=(32, 32, 3))
    source = pretrained.sources(name)["imagenet"]
    assert asked.value.args == (source.file, source.url, source.checksum)


def test_checksums_of_larger_sizes_are_those_of_keras_applications():
    published = convnext.WEIGHTS_HASHES | mobilenet_v3.WEIGHTS_HASHES
    keys = {
        "convnext-small": "convnext_small",
        "convnext-base": "convnext_base",
        "mobilenetv3-large": "large_224_1.0_float",
    }
    for name, key in keys.items():
        source = pretrained.sources(name)["imagenet"]
        assert source.checksum == published[key][1]
        assert key in source.file


def test_the_other_backend_reads_the_same_weights(b0, legacy, tmp_path):
    """That the same weights give the same steps there is seen in training/test_fold.py."""
    pretrained.load(b0, "efficientnet-b0", str(legacy))
    kernel = np.random.default_rng(2).normal(size=(1280, 1)).astype(np.float32)
    b0.get_layer("logit").set_weights([kernel, np.array([0.5], np.float32)])
    ours = tmp_path / "ours.weights.h5"
    b0.save_weights(ours)
    script = """
import sys
import numpy as np
from melanoma_tf.models import backbones, pretrained
legacy, ours, out = sys.argv[1:]
model = backbones.build_classifier("efficientnet-b0", 32)
pretrained.load(model, "efficientnet-b0", ours)
found = {f"ours {w.path}": np.asarray(w) for w in model.weights}
for layer in backbones.backbone_layers(model):
    layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
pretrained.load(model, "efficientnet-b0", legacy)
np.savez(out, **found, **{f"legacy {w.path}": np.asarray(w) for w in model.weights})
"""
    other = {"tensorflow": JAX_ON_CPU, "jax": {"KERAS_BACKEND": "tensorflow"}}[keras.config.backend()]
    done = run_command("-c", script, str(legacy), str(ours), str(tmp_path / "found.npz"), **other)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "found.npz") as found:
        for weight in b0.weights:
            for source in ("ours", "legacy"):
                np.testing.assert_array_equal(found[f"{source} {weight.path}"], keras.ops.convert_to_numpy(weight))


# ---- files ----------------------------------------------------------------------------------------------------------


def test_our_own_weights_come_with_their_head(b0, tmp_path):
    path = tmp_path / "run.weights.h5"
    randomize(b0, seed=3)
    b0.save_weights(path)
    saved = b0.get_weights()
    randomize(b0, seed=4)
    said = pretrained.load(b0, "efficientnet-b0", str(path))
    assert said.endswith(f"(sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}), head loaded")
    for a, b in zip(saved, b0.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("changed", [True, False])
def test_the_checksum_beside_the_weights_of_a_run_holds(changed, b0, tmp_path):
    path = tmp_path / "model.weights.h5"
    randomize(b0, seed=3)
    b0.save_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("model.weights.h5.sha256").write_text(f"{digest}  {path.name}\n")
    randomize(b0, seed=4)
    before = b0.get_weights()
    if not changed:
        assert f"(sha256 {digest})" in pretrained.load(b0, "efficientnet-b0", str(path))
        return
    with h5py.File(path, "r+") as file:
        key = next(key for key in file["layers"] if "0" in file[f"layers/{key}/vars"])
        file[f"layers/{key}/vars/0"][...] *= 2
    with pytest.raises(ValueError, match=f"was changed or damaged: its SHA-256 is .*{digest}.*; restore both"):
        pretrained.load(b0, "efficientnet-b0", str(path))
    assert all(np.array_equal(a, b) for a, b in zip(before, b0.get_weights(), strict=True))


def test_weights_h5_of_another_keras_model_loads_by_layer_name(donor, b0, tmp_path):
    donor.save_weights(tmp_path / "donor.weights.h5")
    said = pretrained.load(b0, "efficientnet-b0", str(tmp_path / "donor.weights.h5"))
    assert said.endswith("head initialized")
    for layer in models.backbone_layers(b0):
        for a, b in zip(layer.get_weights(), donor.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_names_split_over_several_attributes_are_read(b0, legacy):
    with h5py.File(legacy, "r+") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:100], names[100:]
    assert "309 tensors" in pretrained.load(b0, "efficientnet-b0", str(legacy))


def test_none_changes_nothing(b0):
    before = b0.get_weights()
    assert pretrained.load(b0, "efficientnet-b0", "none").endswith("random initialization")
    assert all(np.array_equal(a, b) for a, b in zip(before, b0.get_weights(), strict=True))


def _drop_layer(file):
    file.attrs["layer_names"] = [n for n in file.attrs["layer_names"] if "top_bn" not in str(n)]


def _reshape(file):
    del file["top_conv/top_conv/kernel:0"]
    file["top_conv/top_conv/kernel:0"] = np.zeros((1, 1, 320, 1279), np.float32)


def _swap(file):
    file["top_bn"].attrs["weight_names"] = file["top_bn"].attrs["weight_names"][[1, 0, 2, 3]]


def _lose_tensor(file):
    file["top_bn"].attrs["weight_names"] = file["top_bn"].attrs["weight_names"][:3]


def _nan(file):
    file["top_bn/top_bn/beta:0"][7] = np.nan


def _strip(file):
    del file.attrs["layer_names"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_layer, r"donor.h5 has no weights for layer 'top_bn'; expected gamma\(1280,\), beta"),
        (
            _reshape,
            r"layer 'top_conv': it has top_conv/kernel:0\(1, 1, 320, 1279\), expected kernel\(1, 1, 320, 1280\)",
        ),
        (_swap, "layer 'top_bn': found top_bn/beta:0, expected gamma"),
        (_lose_tensor, "does not fit layer 'top_bn'"),
        (_nan, r"layer 'top_bn': top_bn/beta:0 \(float32\) is not all finite"),
        (_strip, "neither the legacy Keras layout"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_loaded(damage, message, b0, legacy):
    with h5py.File(legacy, "r+") as file:
        damage(file)
    randomize(b0, seed=5)
    before = b0.get_weights()
    with pytest.raises(ValueError, match=message):
        pretrained.load(b0, "efficientnet-b0", str(legacy))
    assert all(np.array_equal(a, b) for a, b in zip(before, b0.get_weights(), strict=True))


def test_a_file_that_is_not_hdf5_is_named(b0, tmp_path):
    (tmp_path / "x.h5").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"x.h5 is not a readable HDF5 file"):
        pretrained.load(b0, "efficientnet-b0", str(tmp_path / "x.h5"))


def test_a_keras_archive_is_read_and_no_code_in_it_run(donor, b0, tmp_path):
    path = tmp_path / "donor.keras"
    donor.save(path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:  # a config that Keras could not even parse
        archive.writestr("config.json", "{__import__('os').abort()")
        archive.writestr("model.weights.h5", weights)
    randomize(b0, seed=6)
    said = pretrained.load(b0, "efficientnet-b0", str(path))
    assert f"309 tensors from {path}" in said
    for layer in models.backbone_layers(b0):
        for a, b in zip(layer.get_weights(), donor.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_keras_archive_of_ours_comes_with_head_and_optimizer(b0, tmp_path):
    randomize(b0, seed=7)
    trained = keras.models.clone_model(b0)
    trained.set_weights(b0.get_weights())
    trained.compile("adam", "mse")
    trained.optimizer.build(trained.trainable_variables)
    trained.save(tmp_path / "ours.keras")
    randomize(b0, seed=8)
    assert pretrained.load(b0, "efficientnet-b0", str(tmp_path / "ours.keras")).endswith("head loaded")
    for a, b in zip(trained.get_weights(), b0.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def _from_raw_storage(file, secret):
    shape = file["top_bn/top_bn/beta:0"].shape
    np.ones(shape, "f4").tofile(secret)
    del file["top_bn/top_bn/beta:0"]
    file.create_dataset("top_bn/top_bn/beta:0", shape, "f4", external=[(str(secret), 0, 4 * shape[0])])


def _from_another_file(file, secret):
    with h5py.File(secret, "w") as other:
        other["x"] = np.ones(file["top_bn/top_bn/beta:0"].shape, "f4")
    del file["top_bn/top_bn/beta:0"]
    file["top_bn/top_bn/beta:0"] = h5py.ExternalLink(str(secret), "/x")


def _from_a_virtual_dataset(file, secret):
    shape = file["top_bn/top_bn/beta:0"].shape
    with h5py.File(secret, "w") as other:
        other["x"] = np.ones(shape, "f4")
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", shape)
    del file["top_bn/top_bn/beta:0"]
    file.create_virtual_dataset("top_bn/top_bn/beta:0", layout)


@pytest.mark.parametrize("write", [_from_raw_storage, _from_another_file, _from_a_virtual_dataset])
def test_no_other_local_file_gets_into_the_weights(write, b0, legacy, tmp_path):
    with h5py.File(legacy, "r+") as file:
        write(file, tmp_path / "secret")
    before = b0.get_weights()
    with pytest.raises(ValueError, match="donor.h5: .*another file; expected the values"):
        pretrained.load(b0, "efficientnet-b0", str(legacy))
    assert all(np.array_equal(a, b) for a, b in zip(before, b0.get_weights(), strict=True))


def test_layers_behind_soft_links_are_read_and_cycles_named(donor, b0, legacy):
    with h5py.File(legacy, "r+") as file:
        file.move("top_bn", "elsewhere")
        file["top_bn"] = h5py.SoftLink("/elsewhere")
    assert "309 tensors" in pretrained.load(b0, "efficientnet-b0", str(legacy))
    with h5py.File(legacy, "r+") as file:
        del file["top_bn"]
        file["top_bn"], file["round"] = h5py.SoftLink("/round"), h5py.SoftLink("/top_bn")
    with pytest.raises(ValueError, match="donor.h5 is damaged: .*too many links"):
        pretrained.load(b0, "efficientnet-b0", str(legacy))


def test_a_tensor_that_does_not_fit_is_not_read(b0, legacy):
    with h5py.File(legacy, "r+") as file:
        del file["top_bn/top_bn/beta:0"]
        file.create_dataset("top_bn/top_bn/beta:0", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(ValueError, match="donor.h5 declares more than 4,194,3.. MiB of values"):
        pretrained.load(b0, "efficientnet-b0", str(legacy))


# ---- names and fetching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FETCHED)
def test_every_backbone_has_its_files_and_checksums(name):
    published = pretrained.sources(name)
    has_more = name.startswith("efficientnet-b")
    assert list(published) == (["imagenet", "noisy-student", "autoaugment"] if has_more else ["imagenet"])
    for source in published.values():
        assert source.url.startswith("https://")
        assert source.file.endswith(("_notop.h5", "_no_top_v2.h5"))
        assert len(bytes.fromhex(source.checksum)) in (16, 32)


@pytest.mark.parametrize("name", list(pretrained.catalogue.NOISY_STUDENT_MD5))
def test_the_catalogue_is_the_one_of_the_efficientnet_package(name):
    import efficientnet.weights as theirs

    found = pretrained.sources(name)
    student, augmented = found["noisy-student"], found["autoaugment"]
    assert student.url == f"{theirs.NS_WEIGHTS_PATH}{name}_noisy-student_notop.h5"
    assert student.checksum == theirs.NS_WEIGHTS_HASHES[name][1]
    file = f"{name}_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5"
    assert augmented.url == theirs.IMAGENET_WEIGHTS_PATH + file
    assert augmented.checksum == theirs.IMAGENET_WEIGHTS_HASHES[name][1]


def test_weights_not_published_for_a_backbone_list_what_there_is(b0):
    message = "no 'noisy-student' weights are published for efficientnetv2-s; expected one of: none, imagenet"
    with pytest.raises(ValueError, match=message):
        pretrained.load(b0, "efficientnetv2-s", "noisy-student")


def test_an_unknown_name_lists_the_names(b0):
    with pytest.raises(FileNotFoundError, match="'noisy_student' is neither one of none, imagenet, noisy-student"):
        pretrained.load(b0, "efficientnet-b0", "noisy_student")


@pytest.mark.parametrize("kind", ["imagenet", "noisy-student", "autoaugment"])
def test_offline_says_which_file_and_where_to_put_it(kind, b0, tmp_path):
    with pytest.raises(pretrained.WeightsUnavailableError) as caught:
        pretrained.load(b0, "efficientnet-b0", kind, tmp_path)
    source = pretrained.sources("efficientnet-b0")[kind]
    message = str(caught.value)
    for part in (source.file, source.url, source.checksum, str(tmp_path / "models" / source.file), "no network"):
        assert part in message
    assert "--config.weights=PATH" in message
    assert list((tmp_path / "models").iterdir()) == []


def test_a_cached_file_with_a_wrong_checksum_is_named_and_kept(b0, tmp_path):
    source = pretrained.sources("efficientnet-b0")["noisy-student"]
    path = tmp_path / "models" / source.file
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    found = hashlib.md5(b"half a file").hexdigest()
    message = f"{source.file} has the wrong checksum: md5 {found}, expected {source.checksum}; delete it"
    with pytest.raises(ValueError, match=message):
        pretrained.load(b0, "efficientnet-b0", "noisy-student", tmp_path)
    assert path.exists()


@pytest.mark.parametrize("intact", [True, False])
def test_a_fetched_file_is_kept_only_if_its_checksum_is_right(intact, donor, b0, legacy, tmp_path, monkeypatch):
    content = legacy.read_bytes()
    served = content if intact else content[:-1]
    monkeypatch.setattr(file_utils, "urlretrieve", lambda url, target, *_: Path(target).write_bytes(served))
    monkeypatch.setitem(pretrained.catalogue.AUTOAUGMENT_SHA256, "efficientnet-b0", hashlib.sha256(content).hexdigest())
    source = pretrained.sources("efficientnet-b0")["autoaugment"]
    if intact:
        assert "309 tensors" in pretrained.load(b0, "efficientnet-b0", "autoaugment", tmp_path)
        expected = donor.get_layer("top_conv").get_weights()[0]
        np.testing.assert_array_equal(b0.get_layer("top_conv").get_weights()[0], expected)
    else:
        with pytest.raises(ValueError, match=f"wrong checksum: sha256 .*it was fetched from {source.url}"):
            pretrained.load(b0, "efficientnet-b0", "autoaugment", tmp_path)
    assert [p.name for p in (tmp_path / "models").iterdir()] == ([source.file] if intact else [])
