"""Conversion of JPEGs to square JPEGs."""
