"""Commands as users type them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run_command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python ARGS` from the repository's root, as a user types it."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *args], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Waits for an event; only a hang reaches the limit."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still waiting"
        time.sleep(0.001)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie, which an orphan stays where nobody reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """The processes below a process, down to any depth."""
    found: list[int] = []
    try:
        paths = list(Path(f"/proc/{pid}/task").glob("*/children"))
        children = [int(child) for path in paths for child in path.read_text().split()]
    except OSError:  # it has ended
        return []
    for child in children:
        found += [child, *descendants(child)]
    return found
