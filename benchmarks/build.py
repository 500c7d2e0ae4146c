"""Speed, memory and accuracy of the converter beside other tools, on the same files.

    python benchmarks/build.py --images ../shared/data/isic_archive_fullres/jpeg --size 384 --repeat 3

All converters crop the center square, resize it to --size and encode it as JPEG of quality 95. They take turns going
through all files, --repeat times, so that other load on the machine affects all of them. Columns:

    images/s, MB/s  per CPU second of one thread, median over the repeats; MB of source files
    PSNR            of the pixels before encoding, against a full decode and Lanczos3 in floating point
    zone plate      rings of up to the Nyquist frequency at four times --size: standard deviation, in levels, where they
                    are too fine for the result (85 in the source)
    memory          peak above the imports, each converter in its own process

The last tables are the build command with one and two workers. Converters that are not installed are listed as such
(pip install '.[bench]').
"""

from __future__ import annotations

import os

# ruff: noqa: E402 -- the libraries read the environment when imported
for _name in (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VIPS_CONCURRENCY",
    "TF_NUM_INTRAOP_THREADS",
):
    os.environ[_name] = "1"  # images/s/core of one thread
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import contextlib
import dataclasses
import io
import json
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from absl import app, flags
from PIL import Image

from tfrecord_tools.imaging import convert, jpeg_decoder, resample

FLAGS = flags.FLAGS
flags.DEFINE_string("images", None, "Folder with JPEG files.", required=True)
flags.DEFINE_integer("size", 384, "Side of the square result, in pixels.", 32, 1024)
flags.DEFINE_integer("repeat", 3, "Passes of each converter through all files.", 1)
flags.DEFINE_integer("limit", 0, "Use about this many files, evenly spaced; 0: all.", 0)
flags.DEFINE_integer("copies", 4, "Copies of each file in the runs of the build command.", 1)
flags.DEFINE_bool("workers", True, "Also measure the build command with one and two workers.")
flags.DEFINE_string("memory_of", None, "Internal: print the peak memory of this converter.")

QUALITY = 95
ImageArray = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Converter:
    """JPEG file to JPEG, and to the u8[size,size,3] that would be encoded (None for the floor)."""

    convert: Callable[[bytes], object]
    pixels: Callable[[bytes], ImageArray] | None


# ---------------------------------------------------------------------------------------------- converters


def square_box(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def pillow_jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def ours(size: int) -> Converter:
    def pixels(data: bytes) -> ImageArray:
        decoded = convert._decode_jpeg(data, jpeg_decoder.open_header(data), size, "crop")
        return convert._fit(decoded, size, "crop")

    return Converter(lambda data: convert.convert(data, size, QUALITY).jpeg, pixels)


def ours_in_numpy(size: int) -> Converter:
    """This converter as installed without a C compiler."""

    def without_c(function: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def call(data: bytes) -> Any:
            with mock.patch.object(resample, "_resample", None):
                return function(data)

        return call

    converter = ours(size)
    assert converter.pixels is not None
    return Converter(without_c(converter.convert), without_c(converter.pixels))


def pillow(size: int, gap: float, filter_: Image.Resampling) -> Converter:
    """Pillow; `gap` is how many times the target its draft mode must leave, 0 for a full decode."""

    def small(data: bytes) -> Image.Image:
        opened = Image.open(io.BytesIO(data))
        box = square_box(*opened.size)
        if gap:
            before = opened.size[0]
            drafted = opened.draft("RGB", (int(gap * size), int(gap * size)))
            ratio = before / drafted[1][2] if drafted else 1.0
            box = tuple(edge / ratio for edge in box)  # type: ignore[assignment]
        return opened.convert("RGB").resize((size, size), filter_, box=box)

    return Converter(lambda data: pillow_jpeg(small(data)), lambda data: np.asarray(small(data)))


def img2dataset(size: int) -> Converter:
    from img2dataset.resizer import Resizer

    def resizer(encoding: str, quality: int) -> Any:
        return Resizer(size, "center_crop", False, encode_quality=quality, encode_format=encoding)

    jpeg, png = resizer("jpg", QUALITY), resizer("png", 1)

    def pixels(data: bytes) -> ImageArray:
        return np.asarray(Image.open(io.BytesIO(png(io.BytesIO(data))[0])).convert("RGB"))

    return Converter(lambda data: jpeg(io.BytesIO(data))[0], pixels)


def opencv(size: int) -> Converter:
    import cv2

    cv2.setNumThreads(1)

    def small(data: bytes) -> Any:
        full = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        left, top, right, bottom = (int(edge) for edge in square_box(full.shape[1], full.shape[0]))
        return cv2.resize(full[top:bottom, left:right], (size, size), interpolation=cv2.INTER_AREA)

    def convert(data: bytes) -> object:
        return cv2.imencode(".jpg", small(data), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]

    return Converter(convert, lambda data: small(data)[..., ::-1])


def libvips(size: int) -> Converter:
    import pyvips

    logging.getLogger("pyvips").setLevel(logging.WARNING)  # logging every step takes time
    pyvips.cache_set_max(0)

    def small(data: bytes) -> Any:
        return pyvips.Image.thumbnail_buffer(data, size, height=size, crop="centre")

    def pixels(data: bytes) -> ImageArray:
        return np.frombuffer(small(data).write_to_memory(), np.uint8).reshape(size, size, -1)

    return Converter(lambda data: small(data).jpegsave_buffer(Q=QUALITY), pixels)


def tensorflow(size: int) -> Converter:
    import tensorflow as tf

    def small(data: bytes) -> Any:
        full = tf.io.decode_jpeg(data, 3)
        left, top, right, bottom = (int(edge) for edge in square_box(int(full.shape[1]), int(full.shape[0])))
        resized = tf.image.resize(full[top:bottom, left:right], (size, size), antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    return Converter(
        lambda data: tf.io.encode_jpeg(small(data), quality=QUALITY).numpy(), lambda data: small(data).numpy()
    )


def floor(size: int) -> Converter:
    """Decoding at 1/8: mostly entropy decoding."""
    del size
    import simplejpeg

    def decode(data: bytes) -> object:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return simplejpeg.decode_jpeg(data, "RGB", min_height=-(-height // 8), min_width=-(-width // 8))

    return Converter(decode, None)


CONVERTERS: dict[str, Callable[[int], Converter]] = {
    "this converter": ours,
    "this converter without C": ours_in_numpy,
    "Pillow, plain bicubic": lambda size: pillow(size, 0, Image.Resampling.BICUBIC),
    "Pillow, draft 2x bicubic": lambda size: pillow(size, 2, Image.Resampling.BICUBIC),
    "img2dataset resizer": img2dataset,
    "OpenCV area": opencv,
    "libvips thumbnail": libvips,
    "tf.io antialiased bilinear": tensorflow,
    "floor: 1/8 decode alone": floor,
}


# ------------------------------------------------------------------------------------------- measurements


def read_files() -> list[bytes]:
    paths = sorted(path for path in Path(FLAGS.images).iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    step = max(1, len(paths) // FLAGS.limit) if FLAGS.limit else 1
    return [path.read_bytes() for path in paths[::step]]


def reference(data: bytes, size: int) -> npt.NDArray[np.float64]:
    """Full decode and Lanczos3 in floating point, clipped to 0..255: f64[size,size,3]."""
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    left, top, right, bottom = square_box(full.shape[1], full.shape[0])
    result = full.astype(np.float64)
    for axis, (start, stop) in enumerate([(top, bottom), (left, right)]):
        first, weights = resample.lanczos_weights(full.shape[axis], start, stop, size)
        dense = np.zeros((size, full.shape[axis] + weights.shape[1]))
        for row, at in enumerate(first):
            dense[row, at : at + weights.shape[1]] = weights[row]
        result = np.moveaxis(np.tensordot(dense[:, : full.shape[axis]], result, (1, axis)), 0, axis)
    return np.clip(result, 0, 255)


def quality(converters: dict[str, Converter], files: list[bytes]) -> dict[str, list[float]]:
    """PSNR in dB of each converter on about 40 files."""
    found: dict[str, list[float]] = {name: [] for name in converters}
    for data in files[:: max(1, len(files) // 40)]:
        wanted = reference(data, FLAGS.size)
        for name, converter in converters.items():
            if converter.pixels:
                error = np.mean((converter.pixels(data).astype(np.float64) - wanted) ** 2)
                found[name].append(float(10 * np.log10(255**2 / error)))
    return found


def false_patterns(converters: dict[str, Converter]) -> dict[str, float]:
    """Standard deviation, in levels, of each converter's result where a zone plate is too fine for it."""
    source = 4 * FLAGS.size
    y, x = np.mgrid[:source, :source] - (source - 1) / 2
    rings = 127.5 + 120 * np.cos(np.pi / source * (x * x + y * y))  # r / source cycles per pixel, 1/2 at the edge
    out = io.BytesIO()
    Image.fromarray(rings.astype(np.uint8)).convert("RGB").save(out, "JPEG", quality=100, subsampling="4:4:4")
    radius = np.hypot(*(np.mgrid[: FLAGS.size, : FLAGS.size] - (FLAGS.size - 1) / 2)) / FLAGS.size
    too_fine = (radius > 0.7 / 4) & (radius < 0.475)  # the result's Nyquist frequency is at 1/8
    made = {name: each.pixels(out.getvalue()) for name, each in converters.items() if each.pixels}
    return {name: float(pixels[..., 0][too_fine].astype(np.float64).std()) for name, pixels in made.items()}


def speed(converters: dict[str, Converter], files: list[bytes]) -> dict[str, list[float]]:
    """CPU seconds of each pass of each converter."""
    for converter in converters.values():
        converter.convert(files[0])
    seconds: dict[str, list[float]] = {name: [] for name in converters}
    for turn in range(FLAGS.repeat):
        order = list(converters.items())
        for name, converter in order if turn % 2 == 0 else order[::-1]:
            started = time.process_time()
            for data in files:
                converter.convert(data)
            seconds[name].append(time.process_time() - started)
    return seconds


def peak_mb() -> float:
    """Peak memory of this process; getrusage would include the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def print_memory(name: str) -> None:
    """Prints the MB of peak memory above the imports and a first small image."""
    files, converter = read_files(), CONVERTERS[name](FLAGS.size)
    tiny = pillow_jpeg(Image.new("RGB", (64, 64)))
    if converter.pixels:
        converter.convert(tiny)
    before = peak_mb()
    for data in files:
        converter.convert(data)
    print(peak_mb() - before)


def memory(name: str) -> float:
    flag = [f"--images={FLAGS.images}", f"--size={FLAGS.size}", f"--limit={FLAGS.limit}", f"--memory_of={name}"]
    done = subprocess.run([sys.executable, __file__, *flag], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


# -------------------------------------------------------------------------------------- the build command


def build_table(folder: Path, copies: int) -> int:
    """Writes a CSV and a folder with `copies` links to each file; returns the number of images."""
    (folder / "jpeg").mkdir(parents=True)
    lines = ["image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"]
    paths = sorted(Path(FLAGS.images).resolve().iterdir())
    for copy in range(copies):
        for index, path in enumerate(paths):
            name = f"IMG_{copy}_{index}"
            (folder / "jpeg" / f"{name}.jpg").symlink_to(path)
            target = int(index % 10 == 0)
            lines.append(f"{name},P{copy}_{index},male,50,torso,unknown,{'malignant' if target else 'benign'},{target}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return copies * len(paths)


def descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield child
            yield from descendants(child)


def run_build(folder: Path, workers: int) -> tuple[float, float]:
    """Runs the build command; returns seconds and the peak MB of its largest worker."""
    where = ["--csv", str(folder / "train.csv"), "--images", str(folder / "jpeg"), "--out", str(folder / "out")]
    command = [sys.executable, "-m", "tfrecord_tools.build", f"--size={FLAGS.size}", f"--workers={workers}", *where]
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([*command, "--overwrite"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):  # the process has just ended
            for pid in descendants(process.pid):
                status = Path(f"/proc/{pid}/status").read_text()
                peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{command} exited with {process.returncode}")
    return time.perf_counter() - started, peak / 1024


def report_workers() -> None:
    print("\n| images | workers | images/s (median) | peak MB of the largest worker |\n|---|---|---|---|")
    for copies in (max(1, FLAGS.copies // 4), FLAGS.copies):
        with tempfile.TemporaryDirectory() as name:
            images = build_table(Path(name), copies)
            runs: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
            for _ in range(FLAGS.repeat):
                for workers, results in runs.items():
                    results.append(run_build(Path(name), workers))
            for workers, results in runs.items():
                rate = images / statistics.median(seconds for seconds, _ in results)
                print(f"| {images} | {workers} | {rate:.1f} | {max(mb for _, mb in results):.0f} |", flush=True)


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.memory_of:
        print_memory(FLAGS.memory_of)
        return
    files, converters = read_files(), {}
    absent = []
    for name, make in CONVERTERS.items():
        try:
            converters[name] = make(FLAGS.size)
        except ImportError as error:
            absent.append(f"| {name} | not installed ({error.name}) |  |  |  |  |")
    megabytes = sum(map(len, files)) / 1e6
    seconds, psnr, patterns = speed(converters, files), quality(converters, files), false_patterns(converters)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"
    )
    print(f"{len(files)} files of {megabytes / len(files):.2f} MB to {FLAGS.size} px, n={FLAGS.repeat}; {machine}\n")
    print("| converter | images/s/core | MB/s/core | peak MB | PSNR dB, mean (min) | zone plate |")
    print("|---|---|---|---|---|---|")
    rates = {name: len(files) / statistics.median(times) for name, times in seconds.items()}
    for name in sorted(rates, key=rates.__getitem__):
        values = psnr[name]
        true = f"{statistics.mean(values):.1f} ({min(values):.1f}) | {patterns[name]:.1f}" if values else " | "
        speed_mb = rates[name] * megabytes / len(files)
        print(f"| {name} | {rates[name]:.1f} | {speed_mb:.1f} | {memory(name):.0f} | {true} |", flush=True)
    print("\n".join(absent))
    base = {name: rates[name] for name in ("img2dataset resizer", "floor: 1/8 decode alone") if name in rates}
    ratios = {f"this converter / {name}": round(rates["this converter"] / rate, 2) for name, rate in base.items()}
    print(json.dumps(ratios))
    if FLAGS.workers:
        report_workers()


if __name__ == "__main__":
    app.run(main)
