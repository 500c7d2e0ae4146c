"""Each fold by the others: how everything that is fitted here is judged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma_tf.evaluation import metrics


def each_fold(folds: ArrayLike, what: str) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yields each fold and its images as a mask [N]; what is judged on them is fitted to all others.

    Args:
      folds: [N].
      what: what needs several folds, for the message.

    Raises:
      metrics.UndefinedMetricError: a single fold.
    """
    fold = np.asarray(folds)
    names = np.unique(fold)
    if len(names) < 2:
        raise metrics.UndefinedMetricError(f"{what} needs two folds; got one")
    for name in names:
        yield int(name), fold == name
