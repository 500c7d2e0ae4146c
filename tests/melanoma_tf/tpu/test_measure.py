"""The comparison of plain and rewritten steps, on a CPU under JAX, and what the doctor makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from melanoma_tf import doctor
from melanoma_tf.tpu import measure
from tests.support.process import JAX_ON_CPU, run_command

pytestmark = pytest.mark.integration

TINY = (
    "from tests.support import tiny; from melanoma_tf.models import backbones; "
    "tiny.LAST_LAYER = 'block2a_project_bn'; backbones.build_classifier = tiny.build_classifier; "
    "from melanoma_tf.tpu import measure; measure._STEPS_A_TURN = measure._TURNS = 1; "
)
SMALL = ["--measure", "--size=32", "--batch=8"]


def run_doctor(backend, code=""):
    environment = {**JAX_ON_CPU, "KERAS_BACKEND": backend}
    done = run_command("-c", f"{TINY}{code}from melanoma_tf import doctor; doctor.run()", *SMALL, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_the_rewrites_agree_with_the_plain_graph():
    lines = run_doctor("jax")
    compared = [line for line in lines if "logits differ by" in line]
    assert [line.split()[0] for line in compared] == ["ok", "ok"]
    assert [line.split(":")[0][8:] for line in compared] == list(doctor.CANDIDATES)[:2]
    assert sum("images/s with" in line for line in lines) == 3
    assert lines[-1] == "this is no TPU, so speed on one is unknown: keep the default"


@pytest.mark.slow
def test_a_rewrite_that_computes_something_else_fails():
    wrong = (
        "from melanoma_tf.tpu import fused_conv_bn as f; right = f.normalize; "
        "f.normalize = lambda wide, *rest: right(wide * 1.2, *rest); "
    )
    compared = [line for line in run_doctor("jax", wrong) if "logits differ by" in line]
    assert all(line.startswith("FAILED  ") for line in compared)


def test_tensorflow_has_nothing_to_compare_and_says_so():
    lines = run_doctor("tensorflow")
    assert "images/s with the default" in lines[-2]
    assert lines[-1] == (
        "nothing to compare: the rewrites for TPUs need Keras on JAX (KERAS_BACKEND=jax); keep the default"
    )


@pytest.mark.parametrize(
    ("logits", "losses", "agrees"),
    [(0.0, 0.0, True), (1e-4, 1e-4, True), (2e-3, 0.0, False), (0.0, 2e-3, False), (float("nan"), 0.0, False)],
)
def test_differences_are_held_to_the_tolerance(logits, losses, agrees):
    plain = measure.Trace(np.zeros(4), np.ones(3))
    other = measure.Trace(np.array([0.0, -logits, 0.0, 0.0]), np.array([1.0, 1.0, 1.0 + losses]))
    assert measure.compare(plain, other, "float32").agrees == agrees


@pytest.mark.parametrize(
    ("rates", "right", "on_tpu", "said"),
    [
        ([100.0, 150.0], ["a"], True, "use: a"),
        ([100.0, 150.0], [], True, "keep the default"),
        ([100.0, 101.0], ["a"], True, "keep the default"),
        ([100.0, 150.0], ["a"], False, "this is no TPU, so speed on one is unknown: keep the default"),
        ([100.0, 150.0, 140.0], ["b"], True, "use: b"),
    ],
)
def test_the_fastest_settings_that_are_right_are_recommended(rates, right, on_tpu, said):
    found = dict(zip([doctor.PLAIN, "a", "b"], rates, strict=False))
    assert doctor.verdict(found, right, on_tpu) == said
