"""Affine warps: one function, `affine.affine`, and a module for each of its methods."""
