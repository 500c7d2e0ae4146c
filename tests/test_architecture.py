"""The order of the layers: a module imports only its own room and what stands below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.process import REPOSITORY, run_command

# From the bottom up. Rooms beside each other do not know each other; a file at a package's top is a command unless it
# is named here.
LAYERS = {
    "tfrecord_tools": [
        {"core"},
        {"records"},
        {"metadata", "imaging"},
        {"foreign", "dedup"},
        {"builder"},
        {"html"},
        {"commands"},
    ],
    "melanoma_tf": [
        {"core"},
        {"devices"},
        {"models", "augment", "data", "evaluation"},
        {"tpu"},
        {"inference"},
        {"training"},
        {"commands"},
    ],
}
ROOMS = {"tfrecord_tools.schema": "records"}  # the record, which shards hold
SHARED = (  # what melanoma_tf may import
    "tfrecord_tools.schema",
    "tfrecord_tools.core",
    "tfrecord_tools.records",
)
# Device code: these may ask which devices there are, or compute under JAX alone.
OF_DEVICES = ("melanoma_tf.devices.", "melanoma_tf.tpu.", "melanoma_tf.preflight", "melanoma_tf.augment.warp.shears")
DEVICE_CALLS = (
    "tf.distribute",
    "keras.distribution",
    "list_physical_devices",
    "set_visible_devices",
    "import jax",
    "from jax",
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


MODULES = {
    module_name(path).removesuffix(".__init__"): path
    for package in LAYERS
    for path in sorted((REPOSITORY / package).rglob("*.py"))
    if path.name != "__init__.py" or (path.parent.name != package and "import" in path.read_text(encoding="utf-8"))
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


def room(module: str) -> str:
    package, first, *_ = module.split(".")
    known = first in set().union(*LAYERS[package])
    return ROOMS.get(module) or (first if known else "commands")


def layer(module: str) -> int:
    layers = LAYERS[module.partition(".")[0]]
    return next(i for i, rooms in enumerate(layers) if room(module) in rooms)


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_only_what_stands_below_them(name):
    package = name.partition(".")[0]
    for used in imports_of(MODULES[name]) & set(MODULES):
        if used.startswith(package):
            assert room(used) == room(name) or layer(used) < layer(name), f"{name} imports {used}"
        else:
            assert package == "melanoma_tf", f"{name} imports {used}"
            assert used.startswith(SHARED), f"{name} imports {used}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("tfrecord_tools")])
def test_tfrecord_tools_do_without_keras(name):
    assert not {used for used in imports_of(MODULES[name]) if used.partition(".")[0] == "keras"}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(OF_DEVICES)])
def test_only_device_code_knows_about_devices(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert not [call for call in DEVICE_CALLS if call in text]


@pytest.mark.parametrize("name", MODULES)
def test_modules_fit_on_a_few_screens(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 60 and f.name != "main"]
    assert not long


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_ours_keep_their_names(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(tuple(LAYERS)):
            assert not [alias.name for alias in node.names if alias.asname]


def test_commands_start_without_what_they_do_not_need():
    # TensorFlow takes seconds to import, and worker processes would each pay for it.
    code = "import sys, tfrecord_tools.build, tfrecord_tools.verify; print('tensorflow' in sys.modules)"
    assert run_command("-c", code).stdout.strip() == "False"
    # Keras reads its backend when it is imported, so no command may import it before the runtime has chosen.
    code = "import sys, melanoma_tf.train, melanoma_tf.predict, melanoma_tf.evaluate; print('keras' in sys.modules)"
    assert run_command("-c", code).stdout.strip() == "False"
