"""Foreign TFRecords, written by other programs."""
