"""Ctrl-C while a command still imports its modules, which takes a second or more."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = "interrupted; run the same command again"


_PACKAGES = ("tfrecord_tools", "melanoma_tf")
_SCRIPTS = "melanoma-"  # how the names of the console scripts begin


def is_command() -> bool:
    """Whether this process was started as one of our commands and still imports its modules."""
    if "--multiprocessing-fork" in sys.orig_argv:  # a worker, which has the arguments of its parent
        return False
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    if program == "-m":  # what runpy puts there until the module is found
        return any(argument.partition(".")[0] in _PACKAGES for argument in sys.orig_argv)
    return program.startswith(_SCRIPTS)


def end_quietly() -> None:
    """Lets Ctrl-C end the process with one line instead of a traceback, until `raise_again`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt, as Python does by itself."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    os.write(2, f"error: {INTERRUPTED}\n".encode())
    os._exit(1)
