"""Configuration, files and command line shared by all commands."""
