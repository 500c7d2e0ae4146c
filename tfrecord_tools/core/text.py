"""How numbers are told to users."""

from __future__ import annotations


def verb(number: int, one: str, many: str) -> str:
    """The form that goes with a number: verb(1, "is", "are") is "is"."""
    return one if number == 1 else many


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 image", "2 images". plural: of the noun, if it does not end in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
