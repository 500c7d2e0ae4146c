"""Commands as users type them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# JAX programs run once in a test: to optimize them takes longer than it saves.
JAX_ON_CPU = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}
HANG_S = 600  # no wait takes as long, except on a machine that hangs


def run_command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGS` from the repository's root."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *args], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)


def wait_for(condition: Callable[[], object], seconds: float = HANG_S) -> None:
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


def workers_of(pid: int) -> list[int]:
    """The worker processes of a build: grandchildren, of the process they are forked from."""

    def children(of: int) -> list[int]:
        paths = Path(f"/proc/{of}/task").glob("*/children")
        return [int(child) for path in paths for child in path.read_text().split()]

    with contextlib.suppress(OSError):
        return [grandchild for child in children(pid) for grandchild in children(child)]
    return []


def run_forked(cases: Sequence[Sequence[str]], imported: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Runs `python -m MODULE ARGS` for each [MODULE, *ARGS], in forks of one process that has imported the modules.

    Args:
      cases: command lines.
      imported: further modules that the process imports before, so that each fork need not.

    Returns:
      For each case its exit code, stdout, stderr, and whether it imported TensorFlow.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.process"],
        cwd=REPOSITORY,
        input=json.dumps([list(imported), [list(case) for case in cases]]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _fork(module: str, args: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as report:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = [module, *args]
            code: object = 0
            try:
                sys.modules[module].run()
            except SystemExit as end:
                code = end.code or 0
            except BaseException as error:
                code = repr(error)
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os.write(report.fileno(), json.dumps({"code": code, "tensorflow": "tensorflow" in sys.modules}).encode())
            os._exit(0)
        os.waitpid(child, 0)
        texts = []
        for file in (out, err, report):
            file.seek(0)
            texts.append(file.read().decode())
        return {"stdout": texts[0], "stderr": texts[1], **json.loads(texts[2])}


def _main() -> None:
    imported, cases = json.load(sys.stdin)
    for module in (*imported, *(module for module, *_ in cases)):
        importlib.import_module(module)
    print(json.dumps([_fork(module, args) for module, *args in cases]))


if __name__ == "__main__":
    _main()
