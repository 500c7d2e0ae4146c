"""Backbones, heads, pretrained weights and losses; no knowledge of devices."""
