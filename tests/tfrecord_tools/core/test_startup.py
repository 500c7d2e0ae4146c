"""What is dropped of standard error while TensorFlow starts: its notes as TensorFlow 2.18 to 2.20 write them."""

from __future__ import annotations

import os

import pytest

from tfrecord_tools.core import startup

NOTES = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795876543.252037    7531 cudart_stub.cc:31] Could not find cuda drivers on your machine.
2026-11-28 14:00:00.000000: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on. You may see slightly \
different numerical results. To turn them off, set the environment variable `TF_ENABLE_ONEDNN_OPTS=0`.
E0000 00:00:1795876543.252037  7531 cuda_fft.cc:477] Unable to register cuFFT factory: Attempting to register factory
I0000 00:00:1795876543.530386    7531 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use available CPU
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the appropriate flags.
"""
NO_GPU = "E0000 00:00:1.2 7531 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN ERROR (303)\n"
OURS = "warning: ours\nE0000 00:00:1.2 7531 gpu_device.cc:1] out of memory\n"


@pytest.fixture(autouse=True)
def _machine(monkeypatch, tmp_path):
    monkeypatch.setattr(startup, "_DEVICES", tmp_path)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)


def written(capfd):
    with startup.without_notes():
        os.write(2, (NOTES + NO_GPU + OURS).encode())
    return capfd.readouterr().err


def test_notes_are_dropped_and_everything_else_stays(capfd):
    assert written(capfd) == OURS
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"


def test_a_gpu_that_cannot_be_used_is_no_note(capfd, tmp_path):
    (tmp_path / "nvidia0").touch()
    assert written(capfd) == NO_GPU + OURS


@pytest.mark.parametrize(("level", "shown"), [("0", True), ("1", True), ("2", False), ("3", False)])
def test_a_log_level_of_the_user_stays(capfd, monkeypatch, level, shown):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    assert (written(capfd) == NOTES + NO_GPU + OURS) == shown
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == level


def test_an_error_within_keeps_what_was_written(capfd):
    def fail():
        os.write(2, OURS.encode())
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"), startup.without_notes():
        fail()
    assert capfd.readouterr().err == OURS
