"""Reference implementations that need an environment of their own, which `make parity` makes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.process import REPOSITORY


def python(environment: str) -> Path:
    """The Python of an environment, e.g. ".venv-addons"."""
    return REPOSITORY / environment / "bin" / "python"


def results(environment: str, script: str, given: Mapping[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """Runs `PYTHON tests/support/SCRIPT IN.npz OUT.npz` on the arrays given; skips where there is no environment."""
    if not python(environment).exists():
        pytest.skip(f"no {environment}: `make parity` makes it")
    np.savez(folder / "in.npz", **given)  # type: ignore[arg-type]
    paths = [str(REPOSITORY / "tests/support" / script), str(folder / "in.npz"), str(folder / "out.npz")]
    done = subprocess.run([str(python(environment)), *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(folder / "out.npz"))
