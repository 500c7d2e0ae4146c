"""Dermoscopy JPEGs and their CSVs -> verified TFRecord shards. Needs neither Keras nor, to build, TensorFlow."""

__version__ = "0.1.0"
