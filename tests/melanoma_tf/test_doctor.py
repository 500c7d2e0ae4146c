"""What the doctor finds on a sound machine and on broken ones."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import types
from types import SimpleNamespace

import pytest

from melanoma_tf import doctor
from tests.support.process import run_command

SOUND = {"runtime": "here", "kind": "cpu", "weights_difference": 0.0, "loss": 0.2, "changed": True, "seconds": 1.0}


@pytest.mark.integration
@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_sound_machine_passes(tmp_path, backend):
    args = ["--backends", backend, f"--workdir={tmp_path}/runs", f"--out={tmp_path}/tfrecords"]
    done = run_command("-m", "melanoma_tf.doctor", *args, KERAS_BACKEND="", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "FAILED" not in done.stdout
    assert f"ok      {backend}: runtime: {backend} on 1 x cpu" in done.stdout
    assert f"{backend}: one step of EfficientNet-B0 at 32 px" in done.stdout
    for name in ("tensorflow", "keras", "pandas", "pillow", "absl-py"):
        assert f"ok      {name} {importlib.metadata.version(name)}\n" in done.stdout


def test_a_version_that_is_not_supported_fails_with_what_to_install(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.0.0" if name == "keras" else real(name))
    found = {finding.what: finding for finding in doctor.versions()}
    assert not found["keras 3.0.0"].passed
    assert found["keras 3.0.0"].remedy == "pip install 'keras>=3.11'"
    assert all(finding.passed for what, finding in found.items() if what != "keras 3.0.0")


def test_a_missing_package_fails_and_an_optional_one_does_not(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("jax", "h5py"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    found = {finding.what: finding for finding in doctor.versions()}
    assert found["h5py is not installed"].remedy == "pip install 'h5py>=3.11'"
    assert not found["h5py is not installed"].passed
    assert found["jax is not installed (for TPUs and several hosts)"].passed


def test_a_missing_tensorflow_names_the_extra(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "tensorflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.17.0" if name == "tensorflow-cpu" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    found = {finding.what: finding.remedy for finding in doctor.versions()}
    assert found["tensorflow is not installed"] == "pip install 'melanoma-tf[tensorflow]'"
    # Another distribution of it is kept, whatever its version: a second one would be put over it.
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"tensorflow": ["tensorflow-cpu"]})
    found = {finding.what: finding.remedy for finding in doctor.versions()}
    assert found["tensorflow-cpu 2.17.0"] == "pip install 'tensorflow-cpu<2.22,>=2.18'"


@pytest.mark.parametrize("absent", [False, True])
def test_a_converter_without_its_c_is_reported(monkeypatch, absent):
    module = None if absent else types.ModuleType("_resample")  # None: importing it fails
    monkeypatch.setitem(sys.modules, "tfrecord_tools.imaging._resample", module)
    found = doctor.converter()
    assert found.passed
    assert ("works without its C extension: the same bytes" in found.what) == absent
    assert bool(found.remedy) == absent


@pytest.mark.parametrize(("free", "grade"), [(0.5e9, "FAILED"), (3e9, "warning"), (50e9, "ok")])
def test_disk_room_is_graded(monkeypatch, tmp_path, free, grade):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert str(doctor.room(tmp_path / "not" / "yet" / "there")).startswith(grade)


def test_a_folder_that_cannot_be_written_to_fails():
    found = doctor.writable(doctor.Path("/proc/runs"), "runs")
    assert not found.passed
    assert str(found).startswith("FAILED  /proc cannot be written to: ")
    assert found.remedy == "name another folder for runs"


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"weights_difference": 0.1}, ["weights written"]),
        ({"weights_difference": float("nan")}, ["weights written"]),
        ({"loss": float("nan")}, ["one step"]),
        ({"changed": False}, ["one step"]),
    ],
)
def test_wrong_results_fail(change, failed):
    found = [finding for finding in doctor.judge("jax", SOUND | change) if not finding.passed]
    assert [any(part in finding.what for part in failed) for finding in found] == [True] * len(failed)
    assert all("--backend" in finding.remedy for finding in found)


@pytest.mark.parametrize(
    ("backend", "kind", "for_jax", "failed"),
    [
        ("tensorflow", "cpu", False, True),
        ("tensorflow", "cpu", True, False),  # JAX would be taken
        ("jax", "cpu", False, False),
        ("jax", "cpu", True, True),
        ("tensorflow", "gpu", False, False),
    ],
)
def test_a_gpu_that_training_would_not_use_is_reported(monkeypatch, tmp_path, backend, kind, for_jax, failed):
    monkeypatch.setattr(doctor.select, "jax_is_for_gpus", lambda: for_jax)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(doctor, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    findings = [str(finding) for finding in doctor.judge(backend, SOUND | {"kind": kind})]
    found = [finding for finding in findings if "does not see the NVIDIA GPU" in finding]
    assert len(found) == (kind == "cpu")
    assert any(finding.startswith("FAILED") for finding in findings) == failed


def test_a_backend_that_crashes_is_a_finding_with_its_last_words(monkeypatch):
    crashed = subprocess.CompletedProcess([], 1, "", "Traceback\n...\nImportError: libcudart.so: not found\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: crashed)
    (found,) = doctor.backend("jax")
    assert not found.passed
    assert found.what == "jax: ImportError: libcudart.so: not found"
    assert "--probe jax" in found.remedy


def test_a_backend_that_hangs_is_a_finding(monkeypatch):
    def hang(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired(args, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    (found,) = doctor.backend("tensorflow")
    assert "no answer within 900 s" in found.what


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "runs").write_text("mine")
    found = doctor.writable(tmp_path / "runs" / "one", "runs")
    assert not found.passed
    assert found.what == f"{tmp_path / 'runs'} is a file"


def test_any_failure_is_exit_code_1():
    code = (
        "import sys; sys.argv = ['doctor', '--workdir=/proc/x']; from melanoma_tf import doctor; "
        "doctor.backend = lambda name: iter(()); doctor.run()"
    )
    done = run_command("-c", code)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "2 FAILED"  # it cannot be written to and has no room
