"""Lines and bars of progress, at times that the test sets."""

from __future__ import annotations

import io

import pytest

from tfrecord_tools.core import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed; tests change them."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_few_seconds_with_speed_and_time_left(clock):
    stream = io.StringIO()
    bar = progress.Progress(100, stream)
    for second, done in ((1, 10), (5, 50), (9, 90), (10, 100)):
        clock[0] = 100.0 + second
        bar.show(done)
    bar.end(100)
    bar.clear()
    assert stream.getvalue() == "50/100 images, 10.0 images/s, 5 s left\n100/100 images, 10.0 images/s, 0 s left\n"


def test_steps_count_their_images_and_leave_out_what_was_done_before(clock):
    stream = io.StringIO()
    bar = progress.Progress(30, stream, unit="steps", images=8, title="epoch 1 of 2: ", before=10, interval=10.0)
    clock[0] += 9
    assert not bar.is_due()
    bar.show(15, "loss 0.5")
    clock[0] += 1
    assert bar.is_due()
    bar.show(20, "loss 0.5")
    assert stream.getvalue() == "epoch 1 of 2: 20/30 steps, loss 0.5, 8.0 images/s, 10 s left\n"


def test_a_terminal_has_a_bar_that_is_removed_for_the_line_after_it(clock):
    stream = Terminal()
    bar = progress.Progress(60, stream)
    bar.show(0)
    clock[0] += 1
    assert bar.is_due()
    bar.show(20)
    assert not bar.is_due()
    bar.clear()
    bar.clear()
    drawn = f"\r[{' ' * 30}] 0/60 images, 0.0 images/s, starting\x1b[K"
    drawn += f"\r[{'#' * 10}{' ' * 20}] 20/60 images, 20.0 images/s, 2 s left\x1b[K"
    assert stream.getvalue() == drawn + "\r\x1b[K"


def test_pieces_without_images_have_no_rate_of_images(clock):
    stream = io.StringIO()
    bar = progress.Progress(2000, stream, unit="resamples", images=0)
    clock[0] += 5
    bar.show(500)
    assert stream.getvalue() == "500/2000 resamples, 15 s left\n"
