"""Train, evaluate and use melanoma classifiers on TFRecords. Commands: train, predict, evaluate."""
