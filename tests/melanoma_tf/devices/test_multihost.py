"""Several hosts: processes of this machine that train together as JAX's over a network do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import DataSet, open_data
from melanoma_tf.devices.multihost import ALONE, Hosts
from tests.support import tiny
from tests.support.process import HANG_S, JAX_ON_CPU, REPOSITORY, run_command

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(shards):
    """Of a short run. Dropout draws by position in the batch and device, so it is off; moving averages are on."""
    config = {"image_size": 32, "batch_size": 8, "epochs": 3, "weights": "none", "checkpoint_every": 2, "ema": 0.9}
    config |= {"model": "efficientnet-b0", "dropout": 0.0, "drop_connect": 0.0, "lr": 3e-3}
    return [f"--data={shards}", *(f"--config.{key}={value}" for key, value in config.items())]


def start_hosts(
    workdirs: list[Path], settings: list[list[str]], logs: Path, devices: int = 1
) -> list[subprocess.Popen[str]]:
    """melanoma_tf.train with the tiny model, once per host; what each prints goes to logs/host-I."""
    hosts = len(workdirs)
    xla = f"{JAX_ON_CPU['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs.mkdir(parents=True, exist_ok=True)
    processes = []
    for host in range(hosts):
        args = ["--strategy=multihost", f"--coordinator=localhost:{port}", f"--num_processes={hosts}"]
        args += [f"--process_id={host}", f"--workdir={workdirs[host]}", *settings[host]]
        with (logs / f"host-{host}").open("w") as log:
            command = [sys.executable, "-c", tiny.TRAIN, *args]
            env = {**os.environ, **JAX_ON_CPU, "XLA_FLAGS": xla}
            processes.append(subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=log, stderr=log, text=True))
    return processes


def outcome(workdir: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(history, predictions) of fold 0."""
    return pd.read_csv(workdir / "fold0/history.csv"), pd.read_csv(workdir / "oof.csv")


def test_two_hosts_train_as_one_does_also_after_one_of_them_died(settings, tmp_path):
    """Host 0 is killed after the first checkpoint; host 1 ends too, and both started again finish as one host does."""
    one = run_command("-c", tiny.TRAIN, "--strategy=cpu", f"--workdir={tmp_path / 'one'}", *settings, **JAX_ON_CPU)
    assert one.returncode == 0, one.stderr[-3000:]
    workdirs, logs = [tmp_path / "two", tmp_path / "not-written"], tmp_path / "logs"
    kill_a_host(workdirs, settings, logs, killed=0)
    assert not (workdirs[0] / "oof.csv").exists()
    for host, process in enumerate(start_hosts(workdirs, [settings] * 2, logs, devices=2)):
        assert process.wait(timeout=HANG_S) == 0, (logs / f"host-{host}").read_text()[-3000:]
    log = (logs / "host-1").read_text()
    assert "runtime: jax on 4 x cpu" in log
    assert "host 1 of 2, global batch 8 = 4 x 2, float32" in log
    assert "resumes at step" in log
    assert not workdirs[1].exists()
    (expected, logits), (found, found_logits) = outcome(tmp_path / "one"), outcome(workdirs[0])
    assert abs(expected["loss"].iloc[0] - expected["loss"].iloc[-1]) > 1e-3  # it trains
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=2e-4)
    assert found_logits["image_name"].tolist() == logits["image_name"].tolist()
    np.testing.assert_allclose(found_logits["logit"], logits["logit"], atol=2e-3)


def kill_a_host(workdirs: list[Path], settings: list[str], logs: Path, killed: int) -> None:
    """Kills one of two hosts after the first checkpoint; the other must end by itself."""
    processes = start_hosts(workdirs, [settings] * 2, logs, devices=2)
    last = workdirs[0] / "fold0/checkpoints/LAST"
    while not last.is_file():
        assert all(process.poll() is None for process in processes), (logs / "host-0").read_text()[-3000:]
        time.sleep(0.05)
    processes[killed].send_signal(signal.SIGKILL)
    assert processes[1 - killed].wait(timeout=HANG_S) != 0  # TimeoutExpired if it goes on
    processes[killed].wait()


@pytest.mark.slow
def test_a_second_host_that_dies_ends_the_first(settings, tmp_path):
    kill_a_host([tmp_path / "run", tmp_path / "none"], settings, tmp_path / "logs", killed=1)
    assert not (tmp_path / "run/oof.csv").exists()


def batches(dataset: DataSet, part: Hosts, skip: int = 0) -> list[list[bytes]]:
    found = pipeline.train_batches(
        dataset.others(0), batch_size=8, image_size=32, seed=3, epoch=1, skip_steps=skip, buffer=16, hosts=part
    )
    return [[image.tobytes() for image in features["image"]] for features, _ in found.as_numpy_iterator()]


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_disjoint_parts_of_the_batches_that_one_host_would_read(shards, hosts, skip):
    dataset = open_data(str(shards))
    parts = [batches(dataset, Hosts(host, hosts), skip) for host in range(hosts)]
    for whole, *shares in zip(batches(dataset, ALONE, skip), *parts, strict=True):
        assert [len(share) for share in shares] == [8 // hosts] * hosts
        assert sorted(whole) == sorted(image for share in shares for image in share)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_predict_each_record_once_in_order(shards, hosts):
    dataset = open_data(str(shards))

    def rows(part: Hosts) -> list[np.ndarray]:
        found = pipeline.eval_batches(dataset.fold(0), batch_size=8, image_size=32, hosts=part)
        return [features["image"] for features in found.as_numpy_iterator()]

    parts = [rows(Hosts(host, hosts)) for host in range(hosts)]
    for whole, *shares in zip(rows(ALONE), *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(shares), whole)


def test_hosts_that_were_not_asked_for_the_same_all_refuse(settings, tmp_path):
    logs = tmp_path / "logs"
    other = [*settings, "--config.lr=1e-5", "--fold=1"]
    first, second = start_hosts([tmp_path / "run", tmp_path / "none"], [settings, other], logs)
    assert (first.wait(timeout=HANG_S), second.wait(timeout=HANG_S)) == (1, 1)
    assert "have other settings or other data" in (logs / "host-0").read_text()
    for message in ("config.lr: 1e-05 here, 0.003 there", "--fold: 1 here, 0 there"):
        assert message in (logs / "host-1").read_text()
    assert not (tmp_path / "run").exists()


def test_what_the_first_host_refuses_all_refuse(settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").write_text("mine")
    logs = tmp_path / "logs"
    for host, process in enumerate(start_hosts([tmp_path / "run", tmp_path / "none"], [settings] * 2, logs)):
        assert process.wait(timeout=HANG_S) == 1
        assert "is not empty and holds no run" in (logs / f"host-{host}").read_text()


@pytest.mark.slow
def test_a_host_that_ends_with_an_error_ends_the_others_too(settings, shards, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(shards, damaged)
    for file in damaged.glob("train0[1-4]*.tfrec"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    logs, bad = tmp_path / "logs", [setting for setting in settings if not setting.startswith("--data")]
    processes = start_hosts([tmp_path / "run", tmp_path / "none"], [settings, [*bad, f"--data={damaged}"]], logs)
    assert processes[1].wait(timeout=HANG_S) != 0
    assert "the checksum of its data is wrong" in (logs / "host-1").read_text()
    assert processes[0].wait(timeout=HANG_S) != 0


def test_three_hosts_read_each_image_once_in_an_order_of_their_own(shards):
    dataset = open_data(str(shards))
    shares = [
        [
            image.tobytes()
            for features, _ in pipeline.train_batches(
                dataset.others(0),
                batch_size=6,
                image_size=32,
                seed=3,
                epoch=1,
                skip_steps=0,
                buffer=16,
                hosts=Hosts(host, 3),
            ).as_numpy_iterator()
            for image in features["image"]
        ]
        for host in range(3)
    ]
    steps = pipeline.count(dataset.others(0)) // 6
    assert [len(share) for share in shares] == [2 * steps] * 3
    assert len({image for share in shares for image in share}) == 6 * steps
    assert pipeline.streams(Hosts(0, 3)) != pipeline.streams(ALONE) == pipeline.streams(Hosts(1, 4))


def test_flags_that_do_not_fit_are_named():
    done = run_command("-m", "melanoma_tf.train", "--strategy=multihost", "--backend=tensorflow", **JAX_ON_CPU)
    assert done.returncode == 1
    assert "error: --strategy multihost runs on JAX" in done.stderr
    done = run_command("-m", "melanoma_tf.train", "--strategy=cpu", "--process_id=1", **JAX_ON_CPU)
    assert "error: --coordinator, --num_processes and --process_id belong to --strategy multihost" in done.stderr
    done = run_command("-m", "melanoma_tf.train", "--strategy=multihost", "--num_processes=2", **JAX_ON_CPU)
    assert "error: no other hosts: JAX, given --num_processes 2, found none (" in done.stderr
