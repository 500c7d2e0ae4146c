"""Where configs lie, and a run's config on disk. What there is to configure stands in configs/default.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import ml_collections

# In a checkout configs/ lies beside this package, in an installed wheel inside it.
_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE / "configs")


# What a setting may be: the least and the most, or the words. What is not here is checked where it is used.
RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, 2**20),
    "checkpoint_every": (1, 2**31),
    "epochs": (1, 10_000),
    "ema": (0, 0.999999),
    "final_lr_fraction": (0, 1),
    "focal_alpha": (0, 0.999999),
    "focal_gamma": (0, 100),
    "image_size": (32, 4096),
    "label_smoothing": (0, 0.999999),
    "lr": (0, 1000),
    "max_bad_steps": (1, 2**31),
    "shuffle_buffer": (1, 2**31),
    "strips": (0, 128),
    "warmup_epochs": (0, 10_000),
    "weight_decay": (0, 1000),
}
WORDS: dict[str, tuple[str, ...]] = {
    "loss": ("focal", "bce"),
    "optimizer": ("adam", "adamw"),
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
}


def check(config: ml_collections.ConfigDict) -> None:
    """ValueError naming the first setting whose value is not allowed, and what is."""
    for name, (least, most) in RANGES.items():
        if not least <= config[name] <= most:
            raise ValueError(f"config.{name}={config[name]} must lie between {least:g} and {most:g}")
    if config.warmup_epochs >= config.epochs:
        raise ValueError(
            f"config.warmup_epochs={config.warmup_epochs} must be fewer than config.epochs={config.epochs}"
        )
    for name, words in WORDS.items():
        if config[name] not in words:
            raise ValueError(f"config.{name}={config[name]!r} is unknown; there is: {', '.join(words)}")


def find_in_arguments(argv: list[str]) -> None:
    """Replaces the file of --config in a command line by the one that comes with the package, if it is not here.

    So `--config configs/smoke.py` works away from the checkout too.
    """
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        place, name = (i, value) if equals else (i + 1, argv[i + 1] if i + 1 < len(argv) else "")
        packaged = CONFIGS / Path(name).name
        if name and not Path(name).exists() and Path(name).parent.name in ("", "configs") and packaged.is_file():
            argv[place] = f"{flag}={packaged}" if equals else str(packaged)


def default() -> ml_collections.ConfigDict:
    """What configs/default.py sets; other configs start from it."""
    spec = importlib.util.spec_from_file_location("melanoma_default_config", CONFIGS / "default.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def restore(stored: dict[str, Any], place: Path) -> ml_collections.ConfigDict:
    """A stored run's config: today's defaults, overlaid with its values. place: the file, for messages.

    Raises:
      ValueError: a setting that this version does not know.
    """
    config = default()
    unknown = sorted(set(stored) - set(config))
    if unknown:
        raise ValueError(f"{place} has the unknown setting {unknown[0]!r}; known: {', '.join(sorted(config))}")
    config.update(stored)
    return config
