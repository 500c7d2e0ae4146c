"""Run by test_fold on each backend: training steps from the same weights, augmentation included, as JSON.

Arguments: a folder for the weights, and `all` for the whole B0 and the graphs rewritten for TPUs as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from melanoma_tf.devices import profile, select

select.start("cpu")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from melanoma_tf.models import backbones  # noqa: E402
from melanoma_tf.tpu.rewrite import Rewrite  # noqa: E402
from melanoma_tf.training import build  # noqa: E402
from tests.support import optimizers, tiny  # noqa: E402

rng = np.random.default_rng(0)
features: dict[str, Any] = {
    "image": rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8),
    "seed": np.arange(8, dtype=np.uint32),
}
target = (np.arange(8) % 2).astype(np.float32)


ON_CPU = profile.DeviceProfile("jax", "cpu")


def three_steps(name: str, graph: Any = None, **changes: Any) -> dict[str, list[float]]:
    """The losses of three steps on the same batch, and the means of batch norm's statistics after them."""
    keras.utils.set_random_seed(0)
    config = tiny.config(dropout=0.0, drop_connect=0.0, warmup_epochs=0.0, **changes)
    build.rewrite.choose = lambda *args: graph
    trainer, classifier = build.build_trainer(config, 0.3, 10, ON_CPU)
    weights = Path(sys.argv[1]) / f"{name}.weights.h5"
    if weights.exists():
        classifier.load_weights(weights)
    else:
        classifier.save_weights(weights)
    batches = tf.data.Dataset.from_tensors((features, target))
    losses = [trainer.fit(batches, verbose=0, shuffle=False).history["loss"][0] for _ in range(3)]
    statistics = [float(np.mean(v)) for v in classifier.non_trainable_variables if "moving" in v.path]
    return {"losses": losses, "statistics": statistics}


def fast_layers(classifier: keras.Model) -> list[int]:
    """Numbers of batch norm layers with a joint gradient and of full depthwise convolutions."""
    joint = sum("bn" in layer.name and isinstance(layer.input, list) for layer in classifier.layers)
    return [joint, sum(getattr(layer, "full", "never") != "never" for layer in classifier.layers)]


choose = build.rewrite.choose
found: dict[str, Any] = {"backend": keras.backend.backend()}
if found["backend"] == "jax":  # test_optimizers has TensorFlow
    names = ("ranger", "accumulated")  # which have all of the others
    found["optimizers"] = {name: optimizers.trajectory(optimizers.CASES[name]) for name in names}
everything = sys.argv[2:] == ["all"]
if everything:
    # Batch norm frozen: over eight images of one pixel, as in the last blocks, it would blow up last digits.
    found["b0"] = three_steps("b0", freeze_batch_norm=True, lr=1e-3)
augment = build.policy.Augment(tiny.config().augment, dtype="float32")
augmented = augment(features["image"], features["seed"], training=True)
found["augmented"] = keras.ops.convert_to_numpy(augmented).ravel().tolist()
backbones.build_classifier = tiny.build_classifier  # type: ignore[assignment]
tiny.LAST_LAYER = "block2a_project_bn"  # where splits of 32 px end
found["two_blocks"] = three_steps("two_blocks", lr=1e-3)
if everything:
    found["two_blocks_split"] = three_steps("two_blocks", Rewrite(2), lr=1e-3)
if everything and found["backend"] == "jax":
    build.rewrite.choose = choose
    found |= {"float32": {}, "mixed_bfloat16": {}}
    # tests of DeviceProfile have the other combinations
    for policy, kind, rewrites in (
        ("float32", "tpu", True),
        ("mixed_bfloat16", "gpu", True),
        ("mixed_bfloat16", "tpu", False),
        ("mixed_bfloat16", "tpu", True),
    ):
        keras.config.set_dtype_policy(policy)
        config = tiny.config()
        config.tpu.rewrites = rewrites
        classifier = build.build_trainer(config, 0.3, 10, profile.DeviceProfile("jax", kind))[1]
        found[policy][f"{kind}, {rewrites}"] = fast_layers(classifier)
    found["half"] = [three_steps("two_blocks", graph, lr=1e-3) for graph in (None, Rewrite(1, True))]
    keras.config.set_dtype_policy("float32")
    found["two_blocks_fast"] = three_steps("two_blocks", Rewrite(1, True), lr=1e-3)
    found["two_blocks_split_fast"] = three_steps("two_blocks", Rewrite(2, True), lr=1e-3)
    # Built again from its description it still is what it was.
    built = build.build_classifier(tiny.config(dropout=0.0), graph=Rewrite(2, True))
    found["rebuilt"] = []
    for copy in (built, keras.models.clone_model(built), keras.models.model_from_json(built.to_json())):
        copy.set_weights(built.get_weights())
        copy.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
        found["rebuilt"].append([fast_layers(copy), copy.train_on_batch(features["image"] / 255.0, target)])
    # Of 64 px the third stage cannot be split.
    shapes = {"whole": (64, 1), "split": (96, 2), "split in part": (64, 2)}
    found["b0_fast"] = {
        name: fast_layers(
            tiny.build_real_classifier("efficientnet-b0", size, dropout=0.0, rewrite=Rewrite(splits, True))
        )
        for name, (size, splits) in shapes.items()
    }
print(json.dumps(found))
