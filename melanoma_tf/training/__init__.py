"""The training loop of one fold, its checkpoints and run folder."""
