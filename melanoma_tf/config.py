"""Where configs lie, and a run's config on disk. What there is to configure stands in configs/default.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import ml_collections

# In a checkout configs/ lies beside this package, in an installed wheel inside it.
_PACKAGE = Path(__file__).resolve().parent
CONFIGS = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE / "configs")


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
