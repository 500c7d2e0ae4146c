"""TFRecords written by others."""
