"""Backends, devices and hosts."""
