"""What the processes that train together tell one another. Under JAX; one process alone needs none of it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

_BROADCAST = 1 << 26  # bytes sent at once

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Hosts:
    """All hosts, seen from one: its number from 0 (the first alone writes files) and how many there are.

    The methods are acts of all hosts: each has to call them, in the same order.
    """

    index: int = 0
    count: int = 1

    def broadcast(self, value: Any) -> Any:
        """The first host's value on every host; anything that JSON can hold."""
        return json.loads(self._broadcast_bytes(json.dumps(value).encode())) if self.count > 1 else value

    def run_on_primary(self, function: Callable[[], Made]) -> Made | None:
        """function() on the first host alone, None on others. What a user can mend is raised on all of them."""
        made, problem = None, ""
        if self.index == 0:
            try:
                made = function()
            except (ValueError, OSError, RuntimeError) as error:
                if self.count == 1:
                    raise
                problem = str(error) or repr(error)
        if problem := self.broadcast(problem):
            raise RuntimeError(problem)
        return made

    def check_agreement(self, settings: dict[str, Any]) -> None:
        """Raises ValueError on every host if one has other settings than the first; names them where they differ."""
        if self.count == 1:
            return
        import numpy as np
        from jax.experimental.multihost_utils import process_allgather

        mine = _flat(json.loads(json.dumps(settings)))
        firsts = self.broadcast(mine)
        differing = [
            f"{key}: {mine.get(key)} here, {firsts.get(key)} there"
            for key in sorted(mine.keys() | firsts.keys())
            if mine.get(key) != firsts.get(key)
        ]
        agrees = np.asarray(process_allgather(np.int32(not differing))).ravel()
        if differing:
            raise ValueError(f"host {self.index} differs from host 0 in {'; '.join(differing)}")
        if not agrees.all():
            others = ", ".join(str(host) for host in np.flatnonzero(agrees == 0))
            raise ValueError(f"host(s) {others} have other settings or other data than host 0; they say which")

    def barrier(self) -> None:
        """Returns once every host is here: JAX gives those that end early only a few seconds."""
        self.broadcast(None)

    @contextmanager
    def broadcast_folder(self, folder: Path | None, names: Sequence[str]) -> Iterator[Path]:
        """The folder on the first host; on others, where it is None, a temporary copy of the files `names` in it."""
        if folder and self.count == 1:
            yield folder
            return
        with tempfile.TemporaryDirectory() as temporary:
            for name in self.broadcast(list(names)):
                data = self._broadcast_bytes((folder / name).read_bytes() if folder else b"")
                if not folder:
                    copy = Path(temporary, name)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(data)
            yield folder or Path(temporary)

    @staticmethod
    def _broadcast_bytes(data: bytes) -> bytes:
        import numpy as np
        from jax.experimental.multihost_utils import broadcast_one_to_all

        mine = np.frombuffer(data, np.uint8)
        length = int(broadcast_one_to_all(np.int32(len(mine))))
        parts = []
        for start in range(0, length, _BROADCAST):
            part = np.zeros(min(_BROADCAST, length - start), np.uint8)
            there = mine[start : start + len(part)]
            part[: len(there)] = there
            parts.append(np.asarray(broadcast_one_to_all(part)).tobytes())
        return b"".join(parts)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """{"config": {"lr": 1}} as {"config.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = {f"{key}.{name}": each for name, each in _flat(value).items()} if isinstance(value, dict) else {}
        flat |= inner or {key: value}
    return flat


ALONE = Hosts()
