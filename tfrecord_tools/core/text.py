"""Numbers in messages."""

from __future__ import annotations


def verb(number: int, one: str, many: str) -> str:
    """The word that goes with a number: "is" for 1, "are" otherwise."""
    return one if number == 1 else many


def counted(number: int, noun: str, plural: str = "") -> str:
    """Number and noun, "1 image" or "2 images"; plural: needed only if it is not the noun and an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
