"""What the commands share: a log on standard error, and errors of the user's making told in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from absl import app

# What a user can cause and mend. Anything else is a defect of ours and keeps its traceback.
USERS_ERRORS = (ValueError, OSError, RuntimeError)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a command's `main`: exit code 0, or 1 after `error: ...` on standard error.

    MELANOMA_TRACEBACK=1 shows where the error came from.
    """
    _log_to_stderr()

    def guarded(argv: list[str]) -> None:
        try:
            main(argv)
        except USERS_ERRORS as error:
            if os.environ.get("MELANOMA_TRACEBACK"):
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded)


def _log_to_stderr() -> None:
    log, handler = logging.getLogger("melanoma_tf"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def say(text: str) -> None:
    """A line for the user, at once even when the output is a file."""
    print(text, flush=True)


def no_arguments(argv: list[str]) -> None:
    """UsageError if there are arguments besides flags."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; this command takes --flags only")
