"""Behavior that all commands share: flags, exit codes, one-line errors, interrupts, unwritable output.

Exit codes: 0 success, `--help` and `--version`; 1 a failure, after one line `error: ...` on standard error; 2 a command
line that cannot be understood. MELANOMA_TRACEBACK=1 in the environment shows the traceback of every error.
"""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from absl import app, flags

import tfrecord_tools
from tfrecord_tools.core import interrupt

DISTRIBUTION = "melanoma-tf"
# The extras of this distribution that bring a package which a plain installation leaves out.
EXTRAS = {"tensorflow": "[tensorflow], [cpu], [gpu] or [tpu]", "jax": "[tpu]"}
# What users can cause and fix. Any other exception is a defect of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError, RuntimeError)


class UsageError(ValueError):
    """A command line that cannot be understood: exit code 2 instead of 1."""


def run(
    main: Callable[[list[str]], object],
    define_flags: Callable[[], object],
    doc: str | None,
    positional: bool = False,
    parse: Callable[[list[str]], list[str]] = flags.FLAGS,
    leave: Callable[[int], object] = sys.exit,
) -> None:
    """Runs a command and ends the process.

    SIGTERM interrupts as Ctrl-C does. A reader of standard output that goes away (`... | head`) is no failure. An
    output that cannot be written for another reason (a full disk) does not stop the command, but fails it at its end.

    Args:
      main: the command; gets the program's name and the arguments that are no flags. It may catch KeyboardInterrupt
        to report what is left, and end with `sys.exit("error: ...")`.
      define_flags: called before the command line is parsed.
      doc: text that --help shows above the flags.
      positional: whether `main` takes arguments that are no flags.
      parse: parses the flags and returns the other arguments; its errors are usage errors.
      leave: ends the process after a failure, given the exit code.
    """
    out, errors = _SafeStream(sys.stdout), _SafeStream(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, errors)
    # --help shows this docstring, also for a console script. absl fills in what looks like a placeholder: "15 % as".
    sys.modules["__main__"].__doc__ = (doc or "").replace("%", "%%")
    interrupt.raise_again()
    signal.signal(signal.SIGTERM, _interrupt)

    def checked_main(argv: list[str]) -> None:
        if len(argv) > 1 and not positional:
            raise UsageError(f"unexpected argument {argv[1]!r}; see --help")
        main(argv)

    code = _exit_code(lambda: app.run(checked_main, flags_parser=lambda argv: _parse(argv, define_flags, parse)))
    out.flush()  # the interpreter's own flush at exit would end in a traceback
    if out.failure is not None:
        _report(f"standard output cannot be written: {out.failure}", None)
        code = code or 1
    if code:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C would end the orderly end with a traceback
        leave(code)
    sys.exit(code)


def run_package(package: str) -> None:
    """Runs `python -m PACKAGE`, which lists the package's commands."""
    text = describe_commands(package)
    run(lambda argv: print(text), lambda: None, text)


def describe_commands(package: str) -> str:
    """Lists the commands of a package with the first line of their docstrings, without importing them."""
    purposes = {}
    for path in sorted(Path(str(sys.modules[package].__file__)).parent.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in module.body):
            purposes[f"python -m {package}.{path.stem}"] = (ast.get_docstring(module) or "").partition("\n")[0]
    width = max(map(len, purposes))
    lines = [f"{command:{width}}  {purpose}" for command, purpose in purposes.items()]
    return "\n".join([f"Commands of {package}; each explains its flags with --help.", "", *lines])


def version() -> str:
    """Version of the installed distribution, or of the source where none is installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return tfrecord_tools.__version__


# ------------------------------------------------------------------------------------------------ flags


class _VersionFlag(flags.BooleanFlag):
    """--version, which prints and exits while it is parsed, so that no other flag is missed."""

    def __init__(self) -> None:
        super().__init__("version", False, "Print the version and exit.")

    def parse(self, argument: Any) -> None:
        if self._parse(argument):
            print(DISTRIBUTION, version())
            sys.exit(0)


def _parse(argv: list[str], define_flags: Callable[[], object], parse: Callable[[list[str]], list[str]]) -> list[str]:
    before = set(flags.FLAGS)
    try:
        define_flags()
        flags.DEFINE_flag(_VersionFlag())
        for name in set(flags.FLAGS) - before:  # so that --help shows them under a console script's name too
            flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[name])
        return parse(argv)
    except SystemExit as end:  # of a help flag, which absl ends with 1
        raise SystemExit(0) from end
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), 1, cutoff=0.75)
        hint = f"did you mean --{near[0]}? See --help" if near else "see --help"
        raise UsageError(f"unknown flag --{error.flagname}; {hint}") from error
    except (flags.Error, ValueError) as error:
        raise UsageError(f"{_flag_error(error)}; see --help") from error


def _flag_error(error: Exception) -> str:
    text = " ".join(str(error).split())
    missing = re.search(r"[Ff]lag --(\w+) must have a value other than None", text)
    return f"--{missing[1]} is required" if missing else text


# ----------------------------------------------------------------------------------------------- errors


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _exit_code(command: Callable[[], object]) -> int:
    """Runs a command to its end and reports its error."""
    try:
        command()
    except SystemExit as end:
        if isinstance(end.code, str):
            _report(end.code.removeprefix("error: "), end.__context__)
            return 1
        return end.code or 0
    except UsageError as error:
        _report(str(error), error)
        return 2
    except KeyboardInterrupt as error:
        _report(interrupt.INTERRUPTED, error)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        _report(_describe_missing(error.name), error)
        return 1
    except USER_ERRORS as error:
        _report(_describe(error), error)
        return 1
    return 0


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _describe_missing(package: str) -> str:
    extras = EXTRAS[package]
    first = extras.split(",")[0]
    return f"{package} is not installed; pip install '{DISTRIBUTION}{first}' (an extra that brings it: {extras})"


def _report(message: str, cause: BaseException | None) -> None:
    if cause is not None and os.environ.get("MELANOMA_TRACEBACK"):
        traceback.print_exception(cause)
    print(f"error: {message}", file=sys.stderr, flush=True)


class _SafeStream:
    """A stream that drops text which cannot be written instead of raising.

    Attributes:
      failure: reason why text was dropped; None if there is none, or the reader only went away.
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

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

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
        # Text still in buffers, here and in the interpreter, is dropped when it is flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
