"""Shards and their manifest."""
