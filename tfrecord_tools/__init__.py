"""Convert dermoscopy JPEGs and their metadata to verified TFRecord shards."""

from tfrecord_tools.core import interrupt

__version__ = "0.1.0"

if interrupt.is_command():
    interrupt.end_quietly()
