"""The stages of a run: first the head alone, then images that grow, then the config as it stands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import ml_collections

_SIZE = re.compile(r"([0-9]+)x([0-9]+)")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Epochs that are trained in one way.

    Attributes:
      config: as these epochs see it: their image size, and the number of epochs of their optimizer.
      frozen: whether only the head is trained.
      epochs_before: earlier values of `config.epochs` if the run was extended.
    """

    config: ml_collections.ConfigDict
    frozen: bool
    epochs_before: tuple[int, ...] = ()

    def matches(self, other: Stage) -> bool:
        """Whether both train the same graph with the same optimizer."""
        return (self.frozen, self.config.image_size) == (other.frozen, other.config.image_size)


def at(config: ml_collections.ConfigDict, epoch: int, epochs_before: Sequence[int] = ()) -> Stage:
    """The stage of an epoch.

    The head alone is trained by Adam at a constant rate; the optimizer and the schedule of all other epochs begin after
    that, as if the run began there.

    Args:
      config: see configs/default.py.
      epoch: from 0.
      epochs_before: earlier values of config.epochs if the run was extended.
    """
    frozen = epoch < config.freeze_epochs
    found = config.copy_and_resolve_references()
    found.image_size = _image_size(config, epoch)
    if frozen:
        found.update(epochs=config.freeze_epochs, optimizer="adam", lr=config.freeze_lr, final_lr_fraction=1.0)
        found.update(warmup_epochs=0.0, ema=0.0, lookahead=0, layer_decay=1.0)
        return Stage(found, True)
    found.epochs = config.epochs - config.freeze_epochs
    return Stage(found, False, tuple(epochs - config.freeze_epochs for epochs in epochs_before))


def stopping_aucs(config: ml_collections.ConfigDict, history: Sequence[Mapping[str, float]]) -> list[float]:
    """AUC on the stopping fold of the epochs of the last stage; those of smaller images say less.

    Args:
      config: see configs/default.py.
      history: a row for each finished epoch.
    """
    last = at(config, config.epochs - 1)
    return [row["stop_auc"] for epoch, row in enumerate(history) if at(config, epoch).matches(last)]


def is_stopped(config: ml_collections.ConfigDict, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether the AUC of the stopping fold has not risen for `config.patience` epochs. history: of finished epochs."""
    aucs = stopping_aucs(config, history) if config.patience else []
    return bool(aucs) and len(aucs) - 1 - aucs.index(max(aucs)) >= config.patience


def check(config: ml_collections.ConfigDict) -> None:
    """Checks the settings of stages against one another.

    Raises:
      ValueError: no epoch is left for the whole model at the full size, or a size is not allowed.
    """
    if config.freeze_epochs + config.warmup_epochs >= config.epochs:
        raise ValueError(
            f"config.freeze_epochs={config.freeze_epochs} and config.warmup_epochs={config.warmup_epochs:g} must be "
            f"fewer than config.epochs={config.epochs} together"
        )
    sizes = parse_sizes(config.first_sizes)
    if (small := sum(epochs for _, epochs in sizes)) >= config.epochs:
        raise ValueError(
            f"config.first_sizes={config.first_sizes!r} takes {small} epochs; expected fewer than config.epochs="
            f"{config.epochs}, so that the last are trained at {config.image_size} px"
        )


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Pixels and epochs of `config.first_sizes`, such as "96x2,128x2".

    Raises:
      ValueError: another form, or a size below 32 px.
    """
    found = []
    for part in text.split(",") if text.strip() else ():
        match = _SIZE.fullmatch(part.strip())
        if not match or int(match[1]) < 32 or int(match[2]) < 1:
            raise ValueError(
                f"config.first_sizes={text!r}: got {part.strip()!r}, expected PIXELSxEPOCHS with at least 32 pixels, "
                "as in 96x2,128x2"
            )
        found.append((int(match[1]), int(match[2])))
    return tuple(found)


def _image_size(config: ml_collections.ConfigDict, epoch: int) -> int:
    end = 0
    for size, epochs in parse_sizes(config.first_sizes):
        end += epochs
        if epoch < end:
            return size
    return int(config.image_size)
