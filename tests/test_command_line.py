"""Exit codes and first lines of every command: --help, --version, and command lines that cannot be understood."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys

import pytest

from tests.support.process import REPOSITORY, run_command, run_forked
from tfrecord_tools.core import cli

PACKAGES = ("tfrecord_tools", "melanoma_tf")
COMMANDS = [
    f"{package}.{path.stem}"
    for package in PACKAGES
    for path in sorted((REPOSITORY / package).glob("*.py"))
    if "\ndef run() -> None:" in path.read_text(encoding="utf-8")
]
REQUIRED = {"tfrecord_tools.build": "size", "tfrecord_tools.duplicates": "images", "melanoma_tf.sheet": "data"}
REQUIRED |= dict.fromkeys(("melanoma_tf.evaluate", "melanoma_tf.predict"), "workdir")
VALUES = {"tfrecord_tools.verify": "workers", "tfrecord_tools.show": "samples", "tfrecord_tools.synthetic": "images"}
VALUES |= {"tfrecord_tools.build": "folds", "melanoma_tf.preflight": "batch", "melanoma_tf.predict": "batch_size"}


@pytest.fixture(scope="module")
def outcomes():
    """Results of all command lines below, by command line, from one process per package."""
    cases: list[tuple[str, ...]] = [
        (name, argument) for name in COMMANDS for argument in ("--help", "--version", "--zzz")
    ]
    cases += [(name, f"--{flag}=x") for name, flag in VALUES.items()]
    cases += [(name, "somewhere") for name in REQUIRED] + [(name,) for name in REQUIRED]
    cases.append(("tfrecord_tools.synthetic", "somewhere"))
    cases.append(("melanoma_tf.train", "--config.learning_rate=1"))
    cases.append(("melanoma_tf.train", "--strateg=cpu"))
    cases.append(("melanoma_tf.train", "--data=nowhere"))
    cases.append(("melanoma_tf.train", "--config.lr=fast"))
    found: dict[tuple[str, ...], dict[str, object]] = {}
    for package in PACKAGES:
        own = [case for case in cases if case[0].startswith(package)]
        found |= dict(zip(own, run_forked(own), strict=True))
    return found


def test_the_commands_are_known():
    assert {"tfrecord_tools.build", "tfrecord_tools.verify", "melanoma_tf.train", "melanoma_tf.predict"} < set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_docstring_and_the_flags(outcomes, name):
    done = outcomes[name, "--help"]
    assert (done["code"], done["stderr"], done["tensorflow"]) == (0, "", False)
    assert done["stdout"].strip().startswith(str(importlib.import_module(name).__doc__).strip())
    assert "--[no]version: Print the version and exit." in done["stdout"]


@pytest.mark.parametrize("name", COMMANDS)
def test_version_is_that_of_the_distribution(outcomes, name):
    done = outcomes[name, "--version"]
    assert (done["code"], done["stdout"], done["stderr"]) == (0, f"melanoma-tf {cli.version()}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_a_usage_error(outcomes, name):
    done = outcomes[name, "--zzz"]
    assert (done["code"], done["stdout"], done["tensorflow"]) == (2, "", False)
    assert done["stderr"] == "error: unknown flag --zzz; see --help\n"


@pytest.mark.parametrize(("name", "flag"), VALUES.items())
def test_a_bad_value_is_a_usage_error(outcomes, name, flag):
    done = outcomes[name, f"--{flag}=x"]
    message = f"error: flag --{flag}=x: invalid literal for int() with base 10: 'x'; see --help\n"
    assert (done["code"], done["stderr"]) == (2, message)


@pytest.mark.parametrize(("name", "flag"), REQUIRED.items())
def test_a_missing_flag_is_a_usage_error(outcomes, name, flag):
    done = outcomes[(name,)]
    assert (done["code"], done["stderr"]) == (2, f"error: --{flag} is required; see --help\n")


def test_an_unexpected_argument_is_a_usage_error(outcomes):
    done = outcomes["tfrecord_tools.synthetic", "somewhere"]
    assert (done["code"], done["stderr"]) == (2, "error: unexpected argument 'somewhere'; see --help\n")


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("--config.learning_rate=1", 2, "error: --config has no such setting: 'learning_rate'; see --help\n"),
        ("--strateg=cpu", 2, "error: unknown flag --strateg; did you mean --strategy? See --help\n"),
        ("--data=nowhere", 1, "error: --data nowhere: no such folder; expected the output folder of tfrecord_tools."),
        ("--config.lr=fast", 2, "error: flag --config.lr=fast: "),
    ],
)
def test_training_refuses_bad_flags_before_tensorflow_is_imported(outcomes, argument, code, message):
    done = outcomes["melanoma_tf.train", argument]
    assert (done["code"], done["tensorflow"]) == (code, False)
    assert done["stderr"].startswith(message)
    assert done["stderr"].count("\n") == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_its_commands(package):
    done = run_command("-m", package)
    assert (done.returncode, done.stderr) == (0, "")
    listed = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("python -m")]
    assert listed == [name for name in COMMANDS if name.startswith(package)]


def test_the_version_of_a_source_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(cli, "DISTRIBUTION", "no-such-distribution")
    assert cli.version() == "0.1.0"


# Commands of a few lines, run by both packages' `cli.run`.
SCRIPT = "import sys, {0} as cli; sys.argv = ['command', *sys.argv[1:]]; {1}; cli.run(main, lambda: None, 'Doc.')"
RUNNERS = ("tfrecord_tools.core.cli", "melanoma_tf.core.cli")
FAIL = "exec('def main(argv): raise {}')"


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        ("ValueError('why')", 1, "error: why\n"),
        ("FileNotFoundError(2, 'No such file or directory', 'a.csv')", 1, "error: a.csv: No such file or directory\n"),
        ("KeyboardInterrupt", 1, "error: interrupted; run the same command again\n"),
        ("SystemExit('error: why')", 1, "error: why\n"),
        ("SystemExit(3)", 3, ""),
    ],
)
def test_failures_are_one_message(runner, raised, code, message):
    done = run_command("-c", SCRIPT.format(runner, FAIL.format(raised.replace("'", '"'))))
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize("runner", RUNNERS)
def test_tracebacks_are_shown_on_demand(runner):
    code = SCRIPT.format(runner, FAIL.format('ValueError("why")'))
    done = run_command("-c", code, MELANOMA_TRACEBACK="1")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: why\nerror: why\n")


def test_a_defect_keeps_its_traceback():
    done = run_command("-c", SCRIPT.format(RUNNERS[0], FAIL.format('KeyError("x")')))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def start(code: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, text=True, stdin=pipe, stdout=pipe, stderr=pipe
    )


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_one_line(runner, number):
    wait = "exec('def main(argv): print(1, flush=True); sys.stdin.read()')"
    code = f"import signal; signal.signal(2, signal.default_int_handler); {SCRIPT.format(runner, wait)}"
    with start(code) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, message = process.communicate()
    assert (process.returncode, message) == (1, "error: interrupted; run the same command again\n")


FULL = "error: standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_fails_at_the_end(runner, unbuffered):
    say = "exec('def main(argv): print(1, flush=True); print(2, file=sys.stderr)')"
    with open("/dev/full", "w") as full:
        for args, before in (([], "2\n"), (["--help"], "")):
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT.format(runner, say), *args],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (1, before + FULL)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_reader_that_went_away_is_no_failure(runner):
    say = "exec('def main(argv): sys.stdin.read(); print(1, flush=True); print(2, file=sys.stderr)')"
    with start(SCRIPT.format(runner, say)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert (process.stderr.read(), process.wait()) == ("2\n", 0)
