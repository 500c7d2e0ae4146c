"""Trained models to predictions."""
