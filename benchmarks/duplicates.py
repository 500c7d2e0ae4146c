"""Duplicate search: recall per kind of planted copy, false pairs, and time against the number of images.

    python benchmarks/duplicates.py --ham10000 ../shared/data/ham10000_256 --sample 300

Plants copies of --sample images of HAM10000 among all of its images, one kind at a time, and prints Markdown. Pairs of
different lesions are listed by name: look at them before calling them false. Timings beyond the size of HAM10000, up to
--up_to images, add the four corners (60 % of each side) of each image.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from tfrecord_tools.dedup import fingerprint, search

FLAGS = flags.FLAGS
flags.DEFINE_string("ham10000", None, "Folder with HAM10000_metadata.csv and jpeg/.", required=True)
flags.DEFINE_integer("sample", 300, "Number of images to plant copies of.", 1)
flags.DEFINE_integer("up_to", 33_126, "Images in the largest timing; the default is the size of ISIC 2020.", 4)
flags.DEFINE_integer("workers", os.cpu_count() or 1, "Threads.", 1)


def encode(image: Image.Image, quality: int) -> bytes:
    """Encodes an image as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def crop(image: Image.Image, part: float, rng: np.random.Generator) -> Image.Image:
    """Crops `part` of the width and height at random sides and stretches the rest to the old size."""
    width, height = image.size
    left, top = rng.uniform(0, part, 2) * image.size
    box = (left, top, left + (1 - part) * width, top + (1 - part) * height)
    return image.resize(image.size, Image.Resampling.LANCZOS, box=box)


def turn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrors or rotates by one of the seven symmetries of a square."""
    return image.transpose(list(Image.Transpose)[rng.integers(7)])


def kinds(rng: np.random.Generator) -> dict[str, Callable[[Image.Image], bytes]]:
    """Returns how each kind of planted copy is made."""
    lanczos = Image.Resampling.LANCZOS
    return {
        "re-encoded, quality 30": lambda image: encode(image, 30),
        "resized to 128": lambda image: encode(image.resize((128, 128), lanczos), 85),
        "resized to 384": lambda image: encode(image.resize((384, 384), lanczos), 85),
        "cropped 2 %": lambda image: encode(crop(image, 0.02, rng), 85),
        "cropped 5 %": lambda image: encode(crop(image, 0.05, rng), 85),
        "cropped 10 %": lambda image: encode(crop(image, 0.10, rng), 85),
        "mirrored or turned": lambda image: encode(turn(image, rng), 85),
        "12 % brighter": lambda image: encode(image.point(lambda value: min(255, int(value * 1.12 + 4))), 85),
        "cropped 5 %, turned, resized to 160, quality 50": lambda image: encode(
            turn(crop(image, 0.05, rng), rng).resize((160, 160), lanczos), 50
        ),
    }


def main(argv: list[str]) -> None:
    del argv
    folder, rng = Path(FLAGS.ham10000), np.random.default_rng(0)
    with (folder / "HAM10000_metadata.csv").open(newline="") as file:
        lesion = {row["image_id"]: row["lesion_id"] for row in csv.DictReader(file)}
    files = {path.stem: path for path in sorted((folder / "jpeg").glob("*.jpg"))}
    names = list(files)
    print(f"{len(names)} images, {platform.machine()}, {os.cpu_count()} cores, {FLAGS.workers} threads\n")
    print("| images | seconds |\n|---|---|")
    for part in (4, 2, 1):
        found = timed([(name, files[name]) for name in names[::part]])
    with tempfile.TemporaryDirectory() as folder_of_corners:
        more = corners(files, FLAGS.up_to - len(names), Path(folder_of_corners))
        for part in (2, 1) if more else ():
            timed([*files.items(), *more][: FLAGS.up_to // part])
    other = [pair for pair in found.pairs if lesion[pair.first] != lesion[pair.second]]
    print(f"\n{len(found.pairs) - len(other)} pairs of one lesion, {len(other)} of two lesions:")
    for pair in other:
        print(f"  {pair.first} {pair.second} {pair.similarity:.3f} {pair.symmetry}")
    prints = [fingerprint.fingerprint(files[name].read_bytes()) for name in names]
    chosen = rng.choice(len(names), FLAGS.sample, replace=False)
    print("\n| planted copy | found | of |\n|---|---|---|")
    for kind, make in kinds(rng).items():
        copies = [make(Image.open(files[names[index]])) for index in chosen]
        print(
            f"| {kind} | {recall(prints, [files[name] for name in names], chosen, copies)} | {len(chosen)} |",
            flush=True,
        )


def timed(images: list[tuple[str, Path]]) -> search.Found:
    """Finds pairs and prints a row of the table."""
    start = time.monotonic()
    found = search.find(images, FLAGS.workers)
    print(f"| {len(images)} | {time.monotonic() - start:.1f} |", flush=True)
    return found


def corners(files: dict[str, Path], count: int, folder: Path) -> list[tuple[str, Path]]:
    """Writes up to `count` further images: corners of the given ones, 40 % of the width or height apart."""
    cut: list[tuple[str, Path]] = []
    for corner in range(4):
        for name, path in list(files.items())[: max(0, count - len(cut))]:
            image = Image.open(path)
            width, height = image.size
            left, top = 0.4 * width * (corner & 1), 0.4 * height * (corner >> 1)
            part = image.resize((256, 256), box=(left, top, left + 0.6 * width, top + 0.6 * height))
            cut.append((f"{name}_{corner}", folder / f"{name}_{corner}.jpg"))
            part.save(cut[-1][1], quality=90)
    return cut


def recall(prints: list[fingerprint.Fingerprint], files: list[Path], chosen: np.ndarray, copies: list[bytes]) -> int:
    """Counts the copies that are paired with their originals."""

    def read(index: int) -> bytes:
        return files[index].read_bytes() if index < len(files) else copies[index - len(files)]

    everything = prints + [fingerprint.fingerprint(copy) for copy in copies]
    groups = [0] * len(prints) + [1] * len(copies)  # pairs of originals are counted above
    pairs = {match[:2] for match in search.matches(everything, read, groups, FLAGS.workers)}
    return sum((int(index), len(files) + place) in pairs for place, index in enumerate(chosen))


if __name__ == "__main__":
    app.run(main)
