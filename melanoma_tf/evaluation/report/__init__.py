"""The report of an evaluation: a self-contained page and a model card."""
