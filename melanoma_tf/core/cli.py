"""What the commands share: flags, a log on standard error, and errors of the user's making told in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

# What a user can cause and mend. Anything else is a defect of ours and keeps its traceback.
USERS_ERRORS = (ValueError, OSError, RuntimeError)
leave: Callable[[int], object] = sys.exit  # how a command that failed ends


def run(main: Callable[[list[str]], None], define_flags: Callable[[], None], doc: str | None) -> None:
    """Runs a command: exit code 0, or 1 after `error: ...` on standard error.

    doc: what --help shows above the flags. MELANOMA_TRACEBACK=1 shows where an error came from.
    """
    _log_to_stderr()
    sys.modules["__main__"].__doc__ = doc  # --help shows this one, also of a console script

    def parse(argv: list[str]) -> list[str]:
        try:
            before = set(flags.FLAGS)
            define_flags()
            for name in set(flags.FLAGS) - before:
                flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[name])
            return app.parse_flags_with_usage(argv)
        except AttributeError as error:  # ml_collections' way to say that a config has no such setting
            cause = error.args[0]
            name = cause.args[0] if isinstance(cause, KeyError) else cause
            sys.exit(f"error: --config has no such setting: {name}")

    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}; this command takes --flags only, see --help")
            main(argv)
        except USERS_ERRORS as error:
            if os.environ.get("MELANOMA_TRACEBACK"):
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)
            leave(1)

    try:
        app.run(guarded, flags_parser=parse)
    except SystemExit:
        try:
            sys.stdout.flush()  # where it fails when the interpreter ends, that is a traceback
        except OSError as error:
            sys.exit(f"error: {_give_up_output(error)}")
        raise
    except OSError as error:  # of --help; what a command raises is told above
        sys.exit(f"error: {_give_up_output(error)}")


def local_folder(flag: str, value: str) -> Path:
    """The folder that a flag names. ValueError if it is a URL, which would become a folder `gs:` here."""
    if "://" in value:
        raise ValueError(f"--{flag} {value}: it has to be a folder of this machine; copy it elsewhere afterwards")
    return Path(value)


def say(text: str) -> None:
    """A line for the user, at once even when the output is a file. RuntimeError if it cannot be written."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise RuntimeError(_give_up_output(error)) from error


def _give_up_output(error: OSError) -> str:
    """What to say; what is still in buffers goes nowhere when it is flushed at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"standard output cannot be written: {error.strerror}"


def _log_to_stderr() -> None:
    log, handler = logging.getLogger("melanoma_tf"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
