"""Imports of TensorFlow without its start-up lines, which would hide our own, and without Keras."""

from __future__ import annotations

import contextlib
import importlib.abc
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_DEVICES = Path("/dev")  # where the driver of NVIDIA lists GPUs
# Of every TensorFlow that finds no GPU or was built for many CPUs; its own log level does not reach all of them.
_NOTES = re.compile(
    rb"All log messages before absl::InitializeLog|cudart_stub|cpu_feature_guard|onednn|oneDNN"
    rb"|^To enable the following instructions|Unable to register cu(?:BLAS|DNN|FFT)"
    rb"|computation_placer already registered"
)
_NO_GPU = re.compile(rb"failed call to cuInit|Could not find cuda drivers|Cannot dlopen some GPU libraries|^Skipping")


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Drops what TensorFlow notes on standard error while it is imported and looks for devices; errors stay.

    TF_CPP_MIN_LOG_LEVEL of 0 or 1 in the environment shows all of it.
    """
    if os.environ.setdefault(_LOG_LEVEL, "2") in ("0", "1"):
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            hidden = next(_DEVICES.glob("nvidia[0-9]*"), None) is None
            for line in caught:
                if not _NOTES.search(line) and not (hidden and _NO_GPU.search(line)):
                    os.write(2, line)


def import_tensorflow() -> Any:
    """Imports TensorFlow without its notes, and without Keras, whose backend is chosen by the devices that it finds."""
    with without_notes(), _without_keras():
        import tensorflow
    return tensorflow


class _NoKeras(importlib.abc.MetaPathFinder):
    """Refuses the modules of Keras."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raises ImportError, which TensorFlow expects where Keras is not installed."""
        if name.startswith("keras.src"):
            raise ImportError("Keras is imported when its backend is chosen", name=name)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Keeps TensorFlow from importing Keras, which it does to register optimizers; Keras registers them itself."""
    if "keras" in sys.modules or "tensorflow" in sys.modules:
        yield
        return
    finder = _NoKeras()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
