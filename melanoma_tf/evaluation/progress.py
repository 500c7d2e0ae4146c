"""Progress of an evaluation on standard error."""

from __future__ import annotations

import sys

from tfrecord_tools.core.progress import Progress


def say(part: str) -> None:
    """Prints which part begins."""
    print(f"evaluating: {part}", file=sys.stderr)


class Shown:
    """Shows which part is evaluated, and its resamples."""

    def __init__(self) -> None:
        self._part, self._bar, self._done = "", Progress(0), sys.maxsize

    def part(self, name: str) -> None:
        """Shows the beginning of a part."""
        self._part = name
        say(name)

    def resampled(self, done: int, total: int) -> None:
        """Shows the count of resamples; see `intervals.watched`."""
        if done <= self._done:  # the first of others
            self._bar = Progress(total, unit="resamples", images=0, title=f"evaluating {self._part}: ")
        self._done = done
        self._bar.show(done)
        if done == total:
            self._bar.clear()
