"""What the commands share: flags and --help, an output that nobody may be reading, and how they are stopped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO, cast

from absl import app, flags


def run(main: Callable[[list[str]], None], define_flags: Callable[[], None], doc: str | None) -> None:
    """Runs a command. doc: what --help shows above the flags.

    SIGTERM stops it as Ctrl-C does. `main` may catch KeyboardInterrupt to say what is left; else one line says it.
    An output that cannot be written (a full disk) stops nothing, but is told at the end, with exit code 1.
    """
    out, errors = _Unbroken(sys.stdout), _Unbroken(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, errors)
    # --help shows this one, also of a console script. absl fills in what looks like a place in it: "15 % as".
    sys.modules["__main__"].__doc__ = (doc or "").replace("%", "%%")
    signal.signal(signal.SIGTERM, _interrupt)

    def parse(argv: list[str]) -> list[str]:
        before = set(flags.FLAGS)
        define_flags()
        for name in set(flags.FLAGS) - before:  # so that --help shows them under a console script's name too
            flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[name])
        return app.parse_flags_with_usage(argv)

    def guarded(argv: list[str]) -> None:
        try:
            main(argv)
        except KeyboardInterrupt:
            sys.exit("error: interrupted")

    try:
        app.run(guarded, flags_parser=parse)
    except SystemExit as end:
        out.flush()  # where it fails when the interpreter ends, that is a traceback
        if out.failure is None:
            raise
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        sys.exit(f"error: standard output cannot be written: {out.failure}")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


class _Unbroken:
    """A stream whose reader may go away, as that of `build ... | head`: the rest is for nobody, and no failure.

    failure: why it could not be written, for any other reason; None if it could. The rest then goes nowhere too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: str | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.failure = error.strerror or str(error)
        # What is still in buffers, here and in the interpreter, goes nowhere when it is flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
