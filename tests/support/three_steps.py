"""Run by test_fold on each backend: training steps from the same weights, augmentation included, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from melanoma_tf.devices import select

select.start("cpu")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from melanoma_tf.models import backbones  # noqa: E402
from melanoma_tf.training import build  # noqa: E402
from tests.support import tiny  # noqa: E402

rng = np.random.default_rng(0)
features: dict[str, Any] = {
    "image": rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8),
    "seed": np.arange(8, dtype=np.uint32),
}
target = (np.arange(8) % 2).astype(np.float32)


def three_steps(name: str, strips: int = 1, **changes: Any) -> dict[str, list[float]]:
    """The losses of three steps on the same batch, and the means of batch norm's statistics after them."""
    keras.utils.set_random_seed(0)
    config = tiny.config(dropout=0.0, drop_connect=0.0, warmup_epochs=0.0, **changes)
    trainer, classifier = build.build_trainer(config, 0.3, 10, strips=strips)
    weights = Path(sys.argv[1]) / f"{name}.weights.h5"
    if weights.exists():
        classifier.load_weights(weights)
    else:
        classifier.save_weights(weights)
    batches = tf.data.Dataset.from_tensors((features, target))
    losses = [trainer.fit(batches, verbose=0, shuffle=False).history["loss"][0] for _ in range(3)]
    statistics = [float(np.mean(v)) for v in classifier.non_trainable_variables if "moving" in v.path]
    return {"losses": losses, "statistics": statistics}


def for_tpu(classifier: keras.Model) -> list[int]:
    """Layers of batch norm that take the inputs of the convolution they are behind; depthwise ones that are full."""
    joint = sum("bn" in layer.name and isinstance(layer.input, list) for layer in classifier.layers)
    return [joint, sum(getattr(layer, "full", "never") != "never" for layer in classifier.layers)]


found: dict[str, Any] = {"backend": keras.backend.backend()}
# Batch norm frozen: over eight images of one pixel, as in the last blocks, its statistics would blow up last digits.
found["b0"] = three_steps("b0", freeze_batch_norm=True, lr=1e-3)
backbones.build_classifier = tiny.build_classifier  # type: ignore[assignment]
tiny.LAST_LAYER = "block2a_project_bn"  # where strips of 32 px end
found["two_blocks"] = three_steps("two_blocks", lr=1e-3)
found["two_blocks_in_strips"] = three_steps("two_blocks", strips=2, lr=1e-3)
if found["backend"] == "jax":
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        ways = {
            way: build.build_trainer(tiny.config(), 0.3, 10, resampling=way)[1]
            for way in ("gather", "matmul", "shears")
        }
        found[policy] = {way: for_tpu(classifier) for way, classifier in ways.items()}
    found["half"] = [three_steps("two_blocks", lr=1e-3)]
    backbones.build_classifier = lambda *args, **options: tiny.build_classifier(*args, **{**options, "for_tpu": True})
    found["half"].append(three_steps("two_blocks", lr=1e-3))
    keras.config.set_dtype_policy("float32")
    found["two_blocks_for_tpu"] = three_steps("two_blocks", lr=1e-3)
    found["two_blocks_in_strips_for_tpu"] = three_steps("two_blocks", strips=2, lr=1e-3)
    # Built again from its description it still is what it was.
    built = build.build_classifier(tiny.config(dropout=0.0), strips=2)
    found["rebuilt"] = []
    for copy in (built, keras.models.clone_model(built), keras.models.model_from_json(built.to_json())):
        copy.set_weights(built.get_weights())
        copy.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
        found["rebuilt"].append([for_tpu(copy), copy.train_on_batch(features["image"] / 255.0, target)])
    # Of 64 px the third stage cannot be cut.
    shapes = {"whole": (64, 1), "cut": (96, 2), "cut in part": (64, 2)}
    found["b0_for_tpu"] = {
        name: for_tpu(tiny.build_real_classifier("efficientnet-b0", size, strips=strips, for_tpu=True))
        for name, (size, strips) in shapes.items()
    }
augment = build.policy.Augment(tiny.config().augment, dtype="float32")
augmented = augment(features["image"], features["seed"], training=True)
found["augmented"] = keras.ops.convert_to_numpy(augmented).ravel().tolist()
print(json.dumps(found))
