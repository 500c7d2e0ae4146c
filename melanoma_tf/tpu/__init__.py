"""Graph rewrites for TPUs and the cost of compiled TPU programs."""
