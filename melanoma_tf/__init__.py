"""Train, evaluate and use melanoma classifiers on TFRecords."""

from tfrecord_tools import __version__

__all__ = ["__version__"]
