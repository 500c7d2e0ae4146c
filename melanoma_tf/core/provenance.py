"""When and with what a session trains, for run.json."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tfrecord_tools.core import cli

_PACKAGE = Path(__file__).resolve().parents[1]
_VERSIONED = ("jax", "keras", "numpy", "tensorflow")
_GIT_SECONDS = 10


def session(**more: Any) -> dict[str, Any]:
    """Describes this process.

    Args:
      more: further entries, such as its devices.

    Returns:
      date (UTC), command, versions, git (None outside a checkout), processor, cores and `more`.
    """
    loaded = {name: sys.modules[name].__version__ for name in _VERSIONED if name in sys.modules}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "versions": {cli.DISTRIBUTION: cli.version(), "python": platform.python_version(), **loaded},
        "git": git_state(_PACKAGE),
        "processor": processor(),
        "cores": os.cpu_count(),
        **more,
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the CPU, or of its architecture. cpuinfo: where Linux has it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_state(package: Path) -> dict[str, Any] | None:
    """Commit of the checkout that a package lies in, and whether files differ from it; None if it lies in none."""
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != package.parent:  # such as site-packages in someone else's repository
        return None
    commit, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
