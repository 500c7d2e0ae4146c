"""Commands as users type them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def run_command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGS` from the repository's root."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *args], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)


def run_forked(cases: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Runs `python -m MODULE ARGS` for each [MODULE, *ARGS], in forks of one process that has imported the modules.

    Returns:
      For each case its exit code, stdout, stderr, and whether it imported TensorFlow.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.process"],
        cwd=REPOSITORY,
        input=json.dumps([list(case) for case in cases]),
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
    cases = json.load(sys.stdin)
    for module, *_ in cases:
        importlib.import_module(module)
    print(json.dumps([_fork(module, args) for module, *args in cases]))


if __name__ == "__main__":
    _main()
