"""Paths, command line and text shared by all commands."""
