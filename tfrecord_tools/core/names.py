"""Lists of paths and names of images as people write them."""

from __future__ import annotations

import re

from tfrecord_tools.core import paths

_EXTENSION = re.compile(
    r"\.(?:jpe?g|jpe|jfif|jp2|png|bmp|tiff?|webp|gif|avif|hei[cf]|ppm|dcm)$", re.IGNORECASE
)  # of images that tables name or folders hold, readable or not


def is_image_file(name: str) -> bool:
    """Whether a file's name has the extension of an image, in any case."""
    return _EXTENSION.search(name) is not None


def without_extension(name: str) -> str:
    """Returns a name without the extension of an image."""
    return _EXTENSION.sub("", name)


def without_folders(name: str) -> str:
    """Returns the last part of a path of any system."""
    return re.split(r"[/\\]", name)[-1]


def several(text: str) -> list[str]:
    """Splits a list of paths at its commas, except at those within a path that exists.

    A part between two commas may be empty, which is for the caller to refuse.
    """
    parts = text.split(",")
    found, begin = [], 0
    while begin < len(parts):
        candidates = (end for end in range(len(parts), begin + 1, -1) if _exists(",".join(parts[begin:end])))
        end = next(candidates, begin + 1)
        found.append(",".join(parts[begin:end]))
        begin = end
    return [part if len(parts) == 1 or _exists(part) else part.strip() for part in found]


def _exists(text: str) -> bool:
    try:
        return bool(text.strip()) and paths.path(text).exists()
    except (OSError, ValueError):  # too long for a name, a character that none may have, storage that is not reachable
        return False
