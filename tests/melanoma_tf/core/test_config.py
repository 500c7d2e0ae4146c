"""Settings of a run: their checks, and configs of earlier versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from melanoma_tf.core import config
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
