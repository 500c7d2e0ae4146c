"""Commands as users type them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run_command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python ARGS` from the repository's root, as a user types it."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *args], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
