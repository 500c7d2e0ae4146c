"""Settings of a run: their checks, and configs of earlier versions."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from melanoma_tf.core import config
from melanoma_tf.models import registry
from tests.support.process import run_command

RUN = Path("run.json")


def test_the_default_config_passes_its_checks():
    config.check(config.default())


def test_a_nested_word_that_is_unknown_is_named():
    settings = config.default()
    settings.tpu.warp = "gather"
    with pytest.raises(ValueError, match=r"unknown config\.tpu\.warp='gather'; expected one of: matmul, shears"):
        config.check(settings)


def test_a_stored_config_is_laid_over_the_defaults():
    restored = config.restore({"lr": 0.5, "tpu": {"rewrites": True}}, RUN)
    assert (restored.lr, restored.tpu.rewrites, restored.tpu.warp) == (0.5, True, "matmul")


@pytest.mark.parametrize(("stored", "name"), [({"lrr": 1}, "lrr"), ({"tpu": {"splits": 1}}, r"tpu\.splits")])
def test_a_stored_setting_that_is_unknown_is_named(stored, name):
    with pytest.raises(ValueError, match=rf"run\.json has the unknown setting '{name}'; expected one of: .*tpu\.warp"):
        config.restore(stored, RUN)


def test_a_run_of_an_earlier_version_names_the_new_setting():
    with pytest.raises(ValueError, match=r"setting 'strips' of an earlier version, now config\.tpu\.spatial_splits;"):
        config.restore({"lr": 0.5, "strips": 2}, RUN)


@pytest.mark.parametrize("argument", ["--config.strips=2", "--config.strips"])
def test_the_command_line_names_the_new_setting(argument):
    done = run_command("-m", "melanoma_tf.train", argument)
    assert done.returncode == 2
    assert done.stderr == "error: --config has no such setting: strips; use --config.tpu.spatial_splits; see --help\n"


def test_config_files_of_earlier_versions_name_what_to_change():
    old = config.default()
    with old.unlocked():
        old.strips = 4
    with pytest.raises(ValueError, match=r"config\.strips is now config\.tpu\.spatial_splits"):
        config.check(old)
    with old.unlocked():
        del old.strips, old.tpu
    with pytest.raises(ValueError, match=r"the config has no setting 'tpu\.\w+'; start config files from"):
        config.check(old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "float17"}, "config.precision='float17'.* auto, float32, mixed_bfloat16, mixed_float16"),
        ({"optimizer": "sgdx"}, "config.optimizer='sgdx'.* adam, adamw, radam"),
        ({"layer_decay": 1.5}, "config.layer_decay=1.5 must lie between 0.001 and 1"),
        ({"accumulate_steps": 0}, "config.accumulate_steps=0 must lie between 1 and"),
        ({"warmup_epochs": 12}, "config.warmup_epochs=12.* must be fewer than config.epochs=12"),
    ],
)
def test_settings_out_of_range_are_reported(change, message):
    settings = config.default()
    settings.update(change)
    with pytest.raises(ValueError, match=message):
        config.check(settings)


@pytest.mark.parametrize("path", sorted(config.CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_each_config_is_valid_and_documented(path):
    module = runpy.run_path(str(path))
    settings = module["get_config"]()
    config.check(settings)
    registry.backbone(settings.model)
    assert settings.keys() == config.default().keys()
    for word in ("python -m melanoma_tf.train", "Hardware:", "easured"):
        assert word in module["__doc__"]
    changed = [key for key in settings if settings[key] != config.default()[key]]
    assert bool(changed) == (path.stem != "default")
