"""Convert dermoscopy JPEGs and their metadata to verified TFRecord shards."""

__version__ = "0.1.0"
