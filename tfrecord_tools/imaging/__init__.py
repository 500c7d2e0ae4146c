"""JPEG in, square JPEG out."""
