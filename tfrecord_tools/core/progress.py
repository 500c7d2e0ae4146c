"""Progress of long work on standard error: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 30  # characters of the bar


class Progress:
    """Counts pieces of work, with their rate and the time left.

    Args:
      total: number of pieces.
      stream: standard error by default.
      unit: name of the pieces.
      images: number of images in a piece; 0 where they have none, and no rate in images is shown.
      title: text before the count.
      before: pieces that were done earlier, which the rate leaves out.
      interval: seconds between lines if the stream is no terminal.
    """

    def __init__(
        self,
        total: int,
        stream: TextIO | None = None,
        *,
        unit: str = "images",
        images: int = 1,
        title: str = "",
        before: int = 0,
        interval: float = 5.0,
    ) -> None:
        self._total, self._stream = total, stream or sys.stderr
        self._unit, self._images, self._title, self._before = unit, images, title, before
        self._bar, self._drawn = self._stream.isatty(), False
        self._interval = interval
        self._start = self._shown = time.monotonic()

    def is_due(self, seconds: float = 0.5) -> bool:
        """Whether to show the count now. seconds: between updates of the bar, for callers whose text costs time."""
        return time.monotonic() - self._shown >= (seconds if self._bar else self._interval)

    def show(self, done: int, note: str = "") -> None:
        """Shows the count: always on a terminal, else every few seconds. note: text beside the count."""
        now = time.monotonic()
        if self._bar:
            filled = _WIDTH * done // max(self._total, 1)
            self._stream.write(f"\r[{'#' * filled:<{_WIDTH}}] {self._line(done, now, note)}\x1b[K")
            self._stream.flush()
            self._shown, self._drawn = now, True
        elif self.is_due():
            self._shown = now
            print(self._line(done, now, note), file=self._stream, flush=True)

    def end(self, done: int) -> None:
        """Shows the final state of the bar, and ends its line."""
        if self._bar:
            self.show(done)
            print(file=self._stream, flush=True)

    def clear(self) -> None:
        """Removes the bar, if there is one, for a line that says more."""
        if self._drawn:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
            self._drawn = False

    def _line(self, done: int, now: float, note: str) -> str:
        made = done - self._before
        rate = made / max(now - self._start, 1e-9)
        left = f"{(self._total - done) / rate:.0f} s left" if made > 0 else "starting"
        speed = f"{rate * self._images:.1f} images/s" if self._images else ""
        return self._title + ", ".join(filter(None, (f"{done}/{self._total} {self._unit}", note, speed, left)))
