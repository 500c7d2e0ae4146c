"""Exit codes and first lines of every command: --help, --version, and command lines that cannot be understood."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from melanoma_tf.core import config
from tests.support.process import REPOSITORY, run_command, run_forked
from tfrecord_tools.core import cli
from tfrecord_tools.records.manifest import Manifest
from tfrecord_tools.records.shards import ShardResult

PACKAGES = ("tfrecord_tools", "melanoma_tf")
COMMANDS = [
    f"{package}.{path.stem}"
    for package in PACKAGES
    for path in sorted((REPOSITORY / package).glob("*.py"))
    if "\ndef run() -> None:" in path.read_text(encoding="utf-8")
]
REQUIRED = {"tfrecord_tools.build": "size", "tfrecord_tools.duplicates": "images", "melanoma_tf.sheet": "data"}
REQUIRED |= {"melanoma_tf.predict": "workdir", "melanoma_tf.explain": "workdir", "melanoma_tf.ensemble": "runs"}
VALUES = {"tfrecord_tools.verify": "workers", "tfrecord_tools.show": "samples", "tfrecord_tools.synthetic": "images"}
VALUES |= {"tfrecord_tools.build": "folds", "melanoma_tf.preflight": "batch", "melanoma_tf.predict": "batch_size"}
VALUES |= {"melanoma_tf.explain": "most_confident_errors", "melanoma_tf.ensemble": "replicates"}


# Command lines that are refused before TensorFlow starts: exit code and first words. {0} is a folder with the builds
# `build` and `other`, and with runs.
NAMED = "expected a config file or one of: b3_384, b6_512, default, lite0_224, smoke; see --help"
REFUSED: dict[tuple[str, ...], tuple[int, str]] = {
    ("train", "--config.learning_rate=1"): (2, "--config has no such setting: 'learning_rate'; see --help"),
    ("train", "--strateg=cpu"): (2, "unknown flag --strateg; did you mean --strategy? See --help"),
    ("train", "--config.lr=fast"): (2, "flag --config.lr=fast: "),
    ("train", "--config=smokee"): (2, f"--config smokee: no such file; {NAMED}"),
    ("preflight", "--config", "configs/b9.py"): (2, f"--config configs/b9.py: no such file; {NAMED}"),
    ("train", "--data=nowhere"): (1, "--data nowhere: no such folder; expected the output folder of tfrecord_tools."),
    ("train", "--config=smoke", "--data=nowhere"): (1, "--data nowhere: no such folder"),
    ("train", "--data=tests"): (1, "tests/manifest.json: No such file or directory; expected the folder of a "),
    ("train", "--data={0}/build", "--external=nowhere"): (1, "--external nowhere: no such folder"),
    ("train", "--data={0}/build", "--validate_external"): (1, "--validate_external needs --external"),
    ("train", "--strategy=cpu", "--process_id=1"): (1, "--coordinator, --num_processes and --process_id belong to "),
    ("train", "--strategy=cpu", "--tpu=node-1"): (1, "--tpu names a TPU to TensorFlow: it goes with --strategy tpu or"),
    ("train", "--data={0}/build", "--fold=7"): (1, "unknown --fold '7'; expected one of: 0 to 3, all"),
    ("train", "--data={0}/build", "--fold=0,x"): (1, "unknown --fold 'x'; expected one of: 0 to 3, all"),
    ("train", "--data={0}/build", "--fold=all"): (
        1,
        "the held-out images of fold 1 are of one class: 0 of 60 are malignant; expected both: build again with fewer "
        "--folds, or name other folds with --fold; the held-out images of fold 3 are of one class: 60 of 60 are",
    ),
    ("train", "--data={0}/test", "--fold=all"): (1, "{0}/test has no labelled records; pass a build of a table with"),
    ("train", "--data={0}/build", "--config.batch_size=500"): (1, "fold 0 has 180 training images, fewer than one "),
    ("train", "--data={0}/build", "--workdir=tests"): (1, "--workdir tests is not empty and holds no run; pass an"),
    ("train", "--data={0}/build", "--workdir=Makefile"): (1, "--workdir Makefile is a file; pass a folder"),
    ("train", "--data={0}/build", "--workdir=gs://b/r"): (1, "--workdir gs://b/r: expected a folder of this machine"),
    ("train", "--data={0}/build", "--workdir={0}/new", "--config.weights=none.h5"): (
        1,
        "--config.weights=none.h5: no such file; expected a file or one of: none, imagenet, noisy-student, autoaugment",
    ),
    ("train", "--config.model=resnet"): (1, "unknown backbone 'resnet'; expected one of: efficientnet-b0, "),
    ("train", "--config.loss=mse"): (1, "unknown config.loss='mse'; expected one of: focal, class_balanced, bce"),
    ("train", "--config.target=mole"): (1, "config.target='mole': unknown diagnosis 'mole'; expected malignant, or "),
    ("train", "--config.metadata=weight"): (1, "config.metadata='weight': unknown 'weight'; expected some of: sex, "),
    ("train", "--config.first_sizes=96"): (1, "config.first_sizes='96': got '96', expected PIXELSxEPOCHS"),
    ("train", "--config.positive_share=0.001"): (1, "config.positive_share=0.001 of a batch of 64 is 0 images; "),
    ("train", "--config.pos_weight=3"): (1, "config.pos_weight=3.0 has no effect with config.head='target' and "),
    ("train", "--config.head=diagnosis", "--config.loss=bce"): (1, "config.loss='bce' has no effect with config.head="),
    ("train", "--config.tta_random=4", "--config.augment=none"): (1, "config.tta_random=4 views would be the same"),
    ("train", "--config.augment=flip|spin(3)"): (1, "augmentation policy 'flip|spin(3)': unknown op 'spin'; expected "),
    ("train", "--data={0}/build", "--workdir={0}/trained", "--config.lr=0.5"): (
        1,
        "--workdir {0}/trained holds a run that differs in lr: 0.0003 then, 0.5 now",
    ),
    ("train", "--data={0}/build", "--workdir={0}/trained", "--config.epochs=13"): (
        1,
        "{0}/trained/fold0 was trained for 12 epochs and has no checkpoint from which to go on to 13; start another "
        "--workdir from its weights, with --config.weights={0}/trained/fold0/model.weights.h5",
    ),
    ("train", "--data={0}/build", "--workdir={0}/trained", "--seeds=2"): (
        1,
        "--workdir {0}/trained holds a run of one seed; with --seeds pass another folder",
    ),
    ("train", "--data={0}/build", "--workdir={0}/seeds", "--seeds=2"): (
        1,
        "--workdir {0}/seeds/seed1 holds a run that differs in seed: 0 then, 1 now",
    ),
    ("train", "--data={0}/build", "--workdir=Makefile", "--seeds=2"): (
        1,
        "--workdir Makefile is a file; pass a folder",
    ),
    ("train", "--data={0}/build", "--seeds=0"): (2, "flag --seeds=0: "),
    ("train", "--data={0}/build", "--log=wandbb"): (
        1,
        "unknown --log 'wandbb'; expected some of: tensorboard, wandb, ",
    ),
    ("train", "--data={0}/build", "--workdir={0}/list"): (1, "{0}/list/run.json is damaged: got a list, expected an"),
    ("predict", "--data={0}/test", "--workdir=nowhere"): (1, "--workdir nowhere: no such folder; expected the "),
    ("predict", "--data=nowhere", "--workdir=tests"): (1, "--data nowhere: no such folder"),
    ("predict", "--data={0}/test", "--workdir=tests"): (1, "tests has no run.json; pass the --workdir of melanoma_tf."),
    ("predict", "--data=tests", "--workdir={0}/trained"): (1, "{0}/trained/fold0/model.weights.h5 is missing; "),
    ("predict", "--data=tests", "--workdir={0}/begun"): (
        1,
        "{0}/begun has no finished fold; finish melanoma_tf.",
    ),
    ("predict", "--data=tests", "--workdir={0}/list", "--fill=2"): (1, "--fill 2: expected mean or a number from 0 to"),
    ("predict", "--data=tests", "--workdir={0}/list", "--fill=half"): (1, "--fill half: expected mean or a number"),
    ("predict", "--data=tests", "--workdir={0}/list"): (1, "{0}/list/run.json is damaged: got a list, expected an"),
    ("predict", "--data=tests", "--workdir={0}/binary"): (1, "{0}/binary/run.json is damaged: not JSON: "),
    ("predict", "--data=tests", "--workdir={0}/config"): (1, "{0}/config/run.json is damaged: config: expected the "),
    ("predict", "--data=tests", "--workdir={0}/hashes"): (1, "{0}/hashes/run.json is damaged: data_sha256: expected a"),
    ("predict", "--data=tests", "--workdir={0}/type"): (1, "{0}/type/run.json: config: "),
    ("predict", "--data=tests", "--workdir={0}/range"): (1, "{0}/range/run.json: config: config.epochs=-3 must lie "),
    ("evaluate", "--workdir=nowhere"): (1, "--workdir nowhere: no such folder; expected the --workdir of melanoma_tf."),
    ("evaluate", "--workdir={0}/begun"): (1, "{0}/begun/oof.csv does not exist; melanoma_tf.train writes it when it"),
    ("explain", "--data=nowhere", "--workdir=tests"): (1, "--data nowhere: no such folder"),
    ("explain", "--data={0}/test", "--workdir=tests"): (1, "tests has no run.json; pass the --workdir of melanoma_tf."),
    ("explain", "--data={0}/test", "--workdir={0}/trained"): (1, "{0}/trained/fold0/model.weights.h5 is missing; "),
    ("explain", "--data=tests", "--workdir={0}/list", "--names=a", "--most_confident_errors=3"): (
        2,
        "pass either --names or --most_confident_errors; see --help",
    ),
    ("doctor", "--measure", "--model=resnet"): (2, "flag --model=resnet: value should be one of <efficientnet-b0|"),
    ("preflight", "--config.model=resnet"): (1, "unknown backbone 'resnet'; expected one of: efficientnet-b0, "),
    ("preflight", "--config.augment=flip("): (1, "augmentation policy 'flip(': cannot parse 'flip('; expected the "),
    ("preflight", "--topology=v9-8"): (1, "--topology 'v9-8': unknown topology. Expected one of: v3-8, "),
    ("preflight", "--topology=v2:2x2"): (1, "--topology 'v2:2x2': no figures for 'v2'; expected one of: v3, v4, v5e"),
    ("sheet", "--data=tests", "--policy=spin"): (1, "augmentation policy 'spin': unknown op 'spin'; expected one of"),
    ("sheet", "--data=tests"): (1, "tests/manifest.json: No such file or directory; expected the folder of a finished"),
}


def write_build(folder: Path, split: str, positives: list[int | None]) -> None:
    """A finished build of shards that are as long as its manifest says, of a fold each; nothing else is in them."""
    folder.mkdir()
    found = []
    for fold, number in enumerate(positives):
        name = f"{split}{fold:02d}-60.tfrec"
        (folder / name).write_bytes(b"none")
        found.append(ShardResult(name, split, fold if split == "train" else -1, 60, number, 9, 4, "0" * 64, ()))
    settings = {"size": 64, "folds": len(positives)}
    Manifest(settings, {}, {split: {}}, tuple(found), complete=True).write(folder)


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Results of `REFUSED`, and the folder of its builds and runs."""
    folder = tmp_path_factory.mktemp("refused")
    write_build(folder / "build", "train", [3, 0, 3, 60])
    write_build(folder / "test", "test", [None])
    run = {"config": config.default().to_dict(), "external_sha256": []}
    run["data_sha256"] = [hashlib.sha256((folder / "build/manifest.json").read_bytes()).hexdigest()]
    runs: dict[str, Any] = {"trained": run, "begun": run, "list": [run], "hashes": {**run, "data_sha256": "abc"}}
    runs["seeds/seed1"] = run
    runs |= {"config": {**run, "config": None}, "type": {**run, "config": {"lr": "fast"}}}
    runs["range"] = {**run, "config": {"epochs": -3}}
    for name, content in runs.items():
        (folder / name / "fold0").mkdir(parents=True)
        (folder / name / "run.json").write_text(json.dumps(content))
    for name in ("trained", "list", "seeds/seed1"):
        (folder / name / "fold0/oof.csv").write_text("image_name\n")
    (folder / "binary").mkdir()
    (folder / "binary/run.json").write_bytes(b"\x89\xff\x00")
    cases = [(f"melanoma_tf.{name}", *(each.format(folder) for each in args)) for name, *args in REFUSED]
    return folder, dict(zip(REFUSED, run_forked(cases), strict=True))


@pytest.fixture(scope="module")
def outcomes():
    """Results of all command lines below, by command line, from one process per package."""
    cases: list[tuple[str, ...]] = [
        (name, argument) for name in COMMANDS for argument in ("--help", "--version", "--zzz")
    ]
    cases += [(name, f"--{flag}=x") for name, flag in VALUES.items()]
    cases += [(name, "somewhere") for name in REQUIRED] + [(name,) for name in REQUIRED]
    cases.append(("tfrecord_tools.synthetic", "somewhere"))
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


@pytest.mark.parametrize("case", REFUSED, ids=" ".join)
def test_bad_flags_are_refused_before_tensorflow_is_imported(refused, case):
    folder, outcomes = refused
    done, (code, message) = outcomes[case], REFUSED[case]
    assert (done["code"], done["tensorflow"], done["stdout"]) == (code, False, "")
    assert done["stderr"].startswith(f"error: {message.format(folder)}")
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


@pytest.mark.parametrize("module", ["tfrecord_tools.build", "tfrecord_tools.show", "melanoma_tf.train", "melanoma_tf"])
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path, module):
    """The first module that a command imports from elsewhere stands in for a user who is quick."""
    (tmp_path / "absl").mkdir()
    (tmp_path / "absl/__init__.py").write_text("import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(60)\n")
    code = "import signal, runpy; signal.signal(2, signal.default_int_handler)"
    # `timeout` and shells start processes in the background with SIGINT ignored, so it is set as a terminal leaves it.
    (tmp_path / "sitecustomize.py").write_text(code)
    done = run_command("-m", module, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}")
    assert (done.returncode, done.stderr) == (1, "error: interrupted; run the same command again\n")


def test_ctrl_c_is_left_alone_where_the_packages_are_a_library():
    code = "import signal, tfrecord_tools, melanoma_tf; print(signal.getsignal(2) is signal.default_int_handler)"
    assert run_command("-c", f"import signal; signal.signal(2, signal.default_int_handler); {code}").stdout == "True\n"


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
