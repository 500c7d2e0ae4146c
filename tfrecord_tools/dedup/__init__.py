"""Near-duplicate images and lists of pairs."""
