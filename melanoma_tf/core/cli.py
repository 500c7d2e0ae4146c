"""Command line behavior that only melanoma_tf needs, on top of `tfrecord_tools.core.cli`.

A log on standard error, unknown config settings, flags that name folders, and the end of one of several hosts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from tfrecord_tools.core import cli

leave: Callable[[int], object] = sys.exit  # ends a command that failed; set by hosts that cannot end in order


def run(main: Callable[[list[str]], object], define_flags: Callable[[], object], doc: str | None) -> None:
    """Runs a command, see `tfrecord_tools.core.cli.run`, with the package's log on standard error."""

    def logged_main(argv: list[str]) -> None:
        _log_to_stderr()
        main(argv)

    # Config flags look at the command line while they are defined and while they are parsed.
    define, parse = _naming_settings()(define_flags), _naming_settings()(flags.FLAGS)
    cli.run(logged_main, define, doc, parse=parse, leave=lambda code: leave(code))


def say(text: str) -> None:
    """Prints a line at once, even into a file or pipe."""
    print(text, flush=True)


def local_folder(flag: str, value: str) -> Path:
    """Returns the folder that a flag names.

    Raises:
      ValueError: it is a URL, which would become a local folder `gs:`.
    """
    if "://" in value:
        raise ValueError(f"--{flag} {value}: expected a folder of this machine; copy it elsewhere afterwards")
    return Path(value)


def existing_folder(flag: str, value: str, expected: str) -> str:
    """Returns the value of a flag that names a folder to read, before devices are started for it.

    Raises:
      ValueError: there is no such folder on this machine. URLs are looked at when they are read.
    """
    if "://" not in value and not os.path.isdir(value):
        raise ValueError(f"--{flag} {value}: no such folder; expected {expected}")
    return value


def output_file(flag: str, value: str) -> Path:
    """Returns the file that a flag names for writing.

    Raises:
      ValueError: its folder does not exist.
    """
    path = Path(value)
    if not path.resolve().parent.is_dir():
        raise ValueError(f"--{flag} {path}: there is no folder {path.resolve().parent}; make it first")
    return path


@contextlib.contextmanager
def _naming_settings() -> Iterator[None]:
    """Turns ml_collections' AttributeError for a setting that the config does not have into a ValueError."""
    try:
        yield
    except AttributeError as error:
        cause = error.args[0]
        name = cause.args[0] if isinstance(cause, KeyError) else cause
        raise ValueError(f"--config has no such setting: {name}") from error


def _log_to_stderr() -> None:
    log, handler = logging.getLogger("melanoma_tf"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
