"""Config files and their checks; configs/default.py lists the settings."""

from __future__ import annotations

import functools
import importlib.util
import operator
from pathlib import Path
from typing import Any

import ml_collections

# In a checkout configs/ lies beside this package, in an installed wheel inside it.
_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE / "configs")


# Allowed values of settings: smallest and largest, or words. Settings not listed are checked where they are used.
RANGES: dict[str, tuple[float, float]] = {
    "accumulate_steps": (1, 2**20),
    "batch_size": (1, 2**20),
    "class_balanced_beta": (0, 0.9999999),
    "checkpoint_every": (1, 2**31),
    "epochs": (1, 10_000),
    "diagnosis_weight": (0, 1000),
    "dropout_samples": (1, 64),
    "ema": (0, 0.999999),
    "final_lr_fraction": (0, 1),
    "focal_alpha": (0, 0.999999),
    "focal_gamma": (0, 100),
    "freeze_epochs": (0, 10_000),
    "freeze_lr": (0, 1000),
    "image_size": (32, 4096),
    "label_smoothing": (0, 0.999999),
    "layer_decay": (0.001, 1),
    "lookahead": (0, 2**20),
    "lr": (0, 1000),
    "max_bad_steps": (1, 2**31),
    "oversample": (1, 1000),
    "patience": (0, 10_000),
    "pos_weight": (1e-6, 1e6),
    "positive_share": (0, 0.999999),
    "shuffle_buffer": (1, 2**31),
    "tpu.spatial_splits": (0, 128),
    "tta_random": (0, 1024),
    "warmup_epochs": (0, 10_000),
    "weight_decay": (0, 1000),
}
WORDS: dict[str, tuple[str, ...]] = {
    "head": ("target", "target+diagnosis", "diagnosis"),
    "loss": ("focal", "class_balanced", "bce"),
    "optimizer": ("adam", "adamw", "radam"),
    "pooling": ("avg", "max", "gem"),
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    "tpu.warp": ("matmul", "shears"),
}
# Values of `weights` that are no path.
PUBLISHED_WEIGHTS = ("none", "imagenet", "noisy-student", "autoaugment")
# Settings of earlier versions -> what to use instead.
RENAMED = {"strips": "tpu.spatial_splits"}


def check(config: ml_collections.ConfigDict) -> None:
    """Checks that a config has the settings of configs/default.py, and the values of those in `RANGES` and `WORDS`.

    Raises:
      ValueError: a setting is missing, unknown or renamed, or its value is not allowed.
    """
    given, known = _names(config.to_dict()), _names(default().to_dict())
    for old, new in RENAMED.items():
        if old in given:
            raise ValueError(f"config.{old} is now config.{new}; rename it in the config file")
    if given != known:
        name = min(given ^ known)
        problem = "has no" if name in known else "has an unknown"
        raise ValueError(
            f"the config {problem} setting {name!r}; start config files from melanoma_tf.core.config.default()"
        )
    for name, (least, most) in RANGES.items():
        if not least <= _get(config, name) <= most:
            raise ValueError(f"config.{name}={_get(config, name)} must lie between {least:g} and {most:g}")
    if config.warmup_epochs >= config.epochs:
        raise ValueError(
            f"config.warmup_epochs={config.warmup_epochs} must be fewer than config.epochs={config.epochs}"
        )
    for name, words in WORDS.items():
        if _get(config, name) not in words:
            raise ValueError(f"unknown config.{name}={_get(config, name)!r}; expected one of: {', '.join(words)}")


def _get(config: ml_collections.ConfigDict, name: str) -> Any:
    """The value of a setting that may be nested, e.g. "tpu.warp"."""
    return functools.reduce(operator.getitem, name.split("."), config)


def find_in_arguments(argv: list[str]) -> None:
    """Replaces the file of --config by the packaged one of that name if it does not exist.

    So `--config smoke` is enough, and `--config configs/smoke.py` works outside the checkout too.

    Raises:
      AttributeError: a setting that was renamed; `core.cli` reports it as ml_collections' own.
      ValueError: there is no such file.
    """
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if (setting := flag.lstrip("-").removeprefix("config.")) in RENAMED and "config." in flag:
            raise AttributeError(f"{setting}; use --config.{RENAMED[setting]}")
        if flag not in ("--config", "-config"):
            continue
        place, name = (i, value) if equals else (i + 1, argv[i + 1] if i + 1 < len(argv) else "")
        if not name or Path(name).is_file():
            continue
        file, colon, more = name.partition(":")  # what follows is an argument of get_config
        packaged = CONFIGS / f"{Path(file).stem}.py"
        if Path(file).parent.name in ("", "configs") and packaged.is_file():
            name = f"{packaged}{colon}{more}"
            argv[place] = f"{flag}={name}" if equals else name
        elif not Path(file).is_file():
            known = ", ".join(sorted(path.stem for path in CONFIGS.glob("[a-z]*.py")))
            raise ValueError(f"--config {file}: no such file; expected a config file or one of: {known}")


def check_weights(config: ml_collections.ConfigDict) -> None:
    """Checks that config.weights is a published name or a file.

    Raises:
      FileNotFoundError: it is neither.
    """
    if config.weights not in PUBLISHED_WEIGHTS and not Path(config.weights).expanduser().is_file():
        words = ", ".join(PUBLISHED_WEIGHTS)
        raise FileNotFoundError(f"--config.weights={config.weights}: no such file; expected a file or one of: {words}")


def default() -> ml_collections.ConfigDict:
    """The config of configs/default.py, from which other configs start."""
    spec = importlib.util.spec_from_file_location("melanoma_default_config", CONFIGS / "default.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def restore(stored: dict[str, Any], place: Path) -> ml_collections.ConfigDict:
    """The config of a stored run: today's defaults, updated with its values.

    Args:
      stored: settings, nested as in configs/default.py.
      place: file they come from, for messages.

    Raises:
      ValueError: a setting that this version does not know, or a value that is not allowed.
    """
    config = default()
    known, given = _names(config.to_dict()), _names(stored)
    for old, new in RENAMED.items():
        if old in given:
            raise ValueError(
                f"{place} has the setting {old!r} of an earlier version, now config.{new}; it does not change a run's "
                f"results: delete its line from the file, and pass --config.{new} to train on a TPU"
            )
    unknown = sorted(given - known)
    if unknown:
        raise ValueError(f"{place} has the unknown setting {unknown[0]!r}; expected one of: {', '.join(sorted(known))}")
    try:
        config.update(stored)
        check(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: config: {' '.join(str(error).split())}; restore the file from a copy") from error
    return config


def _names(settings: dict[str, Any], prefix: str = "") -> set[str]:
    """Names of all settings, nested ones as "tpu.warp"."""
    names = set()
    for key, value in settings.items():
        names |= _names(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return names
