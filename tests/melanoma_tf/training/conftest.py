"""What tests that train share: the tiny model in place of the real ones, and the synthetic records."""

from __future__ import annotations

import pytest

from melanoma_tf.data.dataset import open_data
from melanoma_tf.models import backbones
from tests.support import tiny


@pytest.fixture(scope="module")
def tiny_model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "build_classifier", tiny.build_classifier)
        yield


@pytest.fixture(scope="module")
def dataset(shards):
    return open_data(str(shards))
