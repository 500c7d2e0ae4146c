"""Affine warps: one function, one module per method."""
