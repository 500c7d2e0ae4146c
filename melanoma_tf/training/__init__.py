"""Training of a fold: loop, step, checkpoints and the run's folder."""
