"""Several hosts under JAX: connection and cross-host collectives (broadcast, barrier, agreement checks)."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from melanoma_tf.core import cli

ARRIVAL_SECONDS = 300  # that a host waits for the others to start
_SILENCE_SECONDS = 30  # without a heartbeat after which a host counts as dead
_SHUTDOWN_SECONDS = 10  # that a host which ends waits for the others: one that failed must not keep them long
_BROADCAST_BYTES = 1 << 26  # sent at once

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Hosts:
    """All hosts, from one of them; its methods are collective: every host calls them in the same order.

    Attributes:
      index: number of this host; 0 is the primary, the only one that writes files.
      count: number of hosts.
    """

    index: int = 0
    count: int = 1

    def broadcast(self, value: Any) -> Any:
        """Returns the primary's value, which JSON can hold, on every host."""
        return json.loads(self._broadcast_bytes(json.dumps(value).encode())) if self.count > 1 else value

    def run_on_primary(self, function: Callable[[], Made]) -> Made | None:
        """Returns function() on the primary and None on others; an error that a user can fix is raised on all."""
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
        """Checks that all hosts have the primary's settings.

        Raises:
          ValueError: on every host, if one differs; that host names the settings.
        """
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
        """Waits for every host: JAX gives those that end early only a few seconds."""
        self.broadcast(None)

    @contextlib.contextmanager
    def broadcast_folder(self, folder: Path | None, names: Sequence[str]) -> Iterator[Path]:
        """Yields the primary's folder, on other hosts (folder=None) a temporary copy of its files `names`."""
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
        for start in range(0, length, _BROADCAST_BYTES):
            part = np.zeros(min(_BROADCAST_BYTES, length - start), np.uint8)
            there = mine[start : start + len(part)]
            part[: len(there)] = there
            parts.append(np.asarray(broadcast_one_to_all(part)).tobytes())
        return b"".join(parts)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Flattens {"config": {"lr": 1}} to {"config.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = {f"{key}.{name}": each for name, each in _flat(value).items()} if isinstance(value, dict) else {}
        flat |= inner or {key: value}
    return flat


ALONE = Hosts()


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> tuple[list[Any], Hosts]:
    """Connects this process to the others under JAX, which has to be Keras' backend.

    Args:
      coordinator: HOST:PORT of process 0; this and the others default to KERAS_DISTRIBUTION_*, then to what JAX finds.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Returns:
      The devices of all hosts, ordered by host, and the hosts.

    Raises:
      RuntimeError: the other processes did not come, or have different numbers of devices.
      ValueError: an environment variable is not a whole number.
    """
    import jax

    address = coordinator or os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES") or None
    count, index = _number(num_processes, "NUM_PROCESSES"), _number(process_id, "PROCESS_ID")
    given = {"--coordinator": address, "--num_processes": count, "--process_id": index}
    flags_given = ", ".join(f"{flag} {value}" for flag, value in given.items() if value is not None) or "no flags"
    logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of CPUs; other devices have their own
    cli.say(f"multihost: waiting for the other processes, given {flags_given}")
    # keras.distribution.initialize cannot set how soon a silent host counts as dead. Not every JAX has all of these.
    timeouts = {
        "initialization_timeout": ARRIVAL_SECONDS + 60,
        "heartbeat_timeout_seconds": _SILENCE_SECONDS,
        "shutdown_timeout_seconds": _SHUTDOWN_SECONDS,
    }
    accepted = inspect.signature(jax.distributed.initialize).parameters
    options = {name: value for name, value in timeouts.items() if name in accepted}
    with _arrival(flags_given):
        try:
            jax.distributed.initialize(address and address.split(",")[0], count, index, **options)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(_nobody_came(flags_given, str(error).splitlines()[0])) from error
    cli.leave = os._exit  # an orderly end would wait for the other hosts, which wait for this one
    # By host, so that the rows a host reads are contiguous.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    per_host = collections.Counter(device.process_index for device in devices)
    if len(set(per_host.values())) > 1:
        counts = ", ".join(f"host {host} has {count}" for host, count in sorted(per_host.items()))
        raise RuntimeError(f"hosts have different numbers of devices: {counts}; use the same number on each")
    return devices, Hosts(jax.process_index(), jax.process_count())


def _number(value: int | None, variable: str) -> int | None:
    text = os.environ.get(f"KERAS_DISTRIBUTION_{variable}")
    if value is not None or text is None:
        return value
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"KERAS_DISTRIBUTION_{variable}={text!r} is not a whole number") from error


@contextlib.contextmanager
def _arrival(flags_given: str) -> Iterator[None]:
    """Ends the process with one message where JAX would abort it with a stack trace of its own."""

    def give_up() -> None:
        print(f"error: {_nobody_came(flags_given, f'waited {ARRIVAL_SECONDS} s')}", file=sys.stderr, flush=True)
        os._exit(1)

    watch = threading.Timer(ARRIVAL_SECONDS, give_up)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _nobody_came(flags_given: str, reason: str) -> str:
    return (
        f"no other hosts: JAX, given {flags_given}, found none ({reason}). Start every process with the same "
        "--coordinator HOST:PORT and --num_processes, and its own --process_id; on TPU pods, Slurm and Open MPI JAX "
        "finds them by itself."
    )
