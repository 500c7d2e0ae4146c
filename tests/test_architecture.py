"""The import rule: one direction, leaves apart, devices in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, run_command

PACKAGES = ("tfrecord_tools", "melanoma_tf")
MODULES = sorted(p for package in PACKAGES for p in (REPOSITORY / package).rglob("*.py") if p.name != "__init__.py")

# Who composes others. Everything else is a leaf and imports none of ours, but for what stands in USES.
COMPOSERS = {
    "melanoma_tf": {"train", "predict", "evaluate", "fold", "inference", "addons", "preflight", "sheet", "doctor"},
    "tfrecord_tools": {
        "build",
        "settings",
        "inputs",
        "plan",
        "report",
        "against",
        "resume",
        "shards",
        "synthetic",
        "verify",
    }
    | {"show", "survey"},
}
# What a leaf may use: definitions and files, which compose nothing themselves.
FOUNDATIONS = {
    "tfrecord_tools.schema",
    "tfrecord_tools.paths",
    "tfrecord_tools.words",
    "tfrecord_tools.sources",
    "tfrecord_tools.command",
    "tfrecord_tools.csvlines",
    "tfrecord_tools.wording",
    "tfrecord_tools.jpegs",
    "melanoma_tf.config",
    "melanoma_tf.files",
    "melanoma_tf.command",
    "melanoma_tf.hosts",
}
ARITHMETIC = ("color", "counter", "geometry", "mixing", "occlusion", "shears")  # of augmentation
USES = {
    "tfrecord_tools.duplicates": {"tfrecord_tools.pairs", "tfrecord_tools.table"},  # what it finds, and in which images
    "tfrecord_tools.foreign": {"tfrecord_tools.channels", "tfrecord_tools.dialects"},  # how others write records
    # arithmetic on arrays, and what is in a file; no more
    "tfrecord_tools.image": {"tfrecord_tools.resample", "tfrecord_tools.plain", "tfrecord_tools._jpeg"},
    "tfrecord_tools.resample": {"tfrecord_tools._resample"},  # the same in C
    "melanoma_tf.decoder": {"tfrecord_tools._jpeg"},  # the one codec in C serves both packages
    "melanoma_tf.data": {"melanoma_tf.decoder"},  # the last step of its pipelines
    "melanoma_tf.model": {f"melanoma_tf.{layers}" for layers in ("batch_norm", "widening", "depthwise", "strips")},
    "melanoma_tf.strips": {"melanoma_tf.depthwise"},  # one that knows of strips
    "melanoma_tf.widening": {"melanoma_tf.batch_norm"},  # of which it is a kind
    "melanoma_tf.weights": {"melanoma_tf.model"},  # it fills what the other builds
    "melanoma_tf.augment.geometry": {f"melanoma_tf.augment.{leaf}" for leaf in ("occlusion", "shears")},  # blur; a way
    "melanoma_tf.augment.color": {"melanoma_tf.augment.geometry"},  # matrices
    "melanoma_tf.augment.occlusion": {"melanoma_tf.augment.counter"},
    "melanoma_tf.augment.mixing": {"melanoma_tf.augment.occlusion"},
    "melanoma_tf.augment.operations": {f"melanoma_tf.augment.{leaf}" for leaf in ARITHMETIC},
    "melanoma_tf.augment.policy": {f"melanoma_tf.augment.{leaf}" for leaf in (*ARITHMETIC, "operations")},
}


def imports_of(path: Path) -> set[str]:
    """Names of all modules a file imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


COMPILED = sorted((REPOSITORY / "tfrecord_tools").glob("_*.c"))
OURS = {module_name(path) for path in (*MODULES, *COMPILED)}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path):
    name, used = module_name(path), imports_of(path) & OURS
    package = name.split(".")[0]
    if package == "tfrecord_tools":
        assert not {u for u in used if u.startswith("melanoma_tf")}
        assert not {i for i in imports_of(path) if i.split(".")[0] == "keras"}
    else:
        assert {u for u in used if u.startswith("tfrecord_tools")} <= {"tfrecord_tools.schema", "tfrecord_tools._jpeg"}
    if name.split(".")[-1] not in COMPOSERS[package]:
        assert used <= FOUNDATIONS | USES.get(name, set())


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_runtime_knows_about_devices(path):
    # The last four compute under JAX alone, for devices that are not here.
    if path.stem in ("runtime", "hosts", "preflight", "shears", "widening", "depthwise"):
        return
    text = path.read_text(encoding="utf-8")
    for word in (
        "tf.distribute",
        "keras.distribution",
        "list_physical_devices",
        "set_visible_devices",
        "import jax",
        "from jax",
    ):
        assert word not in text


def test_commands_start_without_what_they_do_not_need():
    # TensorFlow takes seconds to import, and worker processes would each pay for it.
    code = "import sys, tfrecord_tools.build, tfrecord_tools.verify; print('tensorflow' in sys.modules)"
    assert run_command("-c", code).stdout.strip() == "False"
    # Keras reads its backend when it is imported, so no command may import it before the runtime has chosen.
    code = "import sys, melanoma_tf.train, melanoma_tf.predict, melanoma_tf.evaluate; print('keras' in sys.modules)"
    assert run_command("-c", code).stdout.strip() == "False"
