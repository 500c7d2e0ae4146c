"""Generates a small synthetic data set in the form of SIIM-ISIC 2020, for trials and tests.

  python -m tfrecord_tools.synthetic --out data --images 900 --patients 150

Writes OUT/train.csv and OUT/jpeg/train/*.jpg, and a test set of about 15 % of that size: OUT/test.csv and
OUT/jpeg/test/*.jpg. The images resemble dermoscopy; malignant lesions tend to be irregular, multicolored and
asymmetric, with overlap between the classes. They are of no use for real skin.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from tfrecord_tools import schema
from tfrecord_tools.core import cli, json_file

MARKER = "synthetic.json"  # written last: the folder is a complete synthetic data set
TEST_SHARE = 0.15  # test images per training image
_TEST_COLUMNS = ("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge")
_TRAIN_COLUMNS = (*_TEST_COLUMNS, "diagnosis", "benign_malignant", "target")
_MISSING_SHARE = 0.02  # of the cells of a column; 0.2 to 1.6 % in the real train.csv
_SITE_SHARES = (0.06, 0.15, 0.26, 0.51, 0.015, 0.005)  # of schema.SITE, about as in the real train.csv
_BENIGN_SHARES = {"unknown": 0.80, "nevus": 0.17, "seborrheic keratosis": 0.02, "lentigo NOS": 0.01}
# Aspect ratios of real cameras; the shorter side is --min_size to twice that, rarely four times.
_ASPECTS = (4 / 3, 4 / 3, 3 / 2, 16 / 9, 1.0)
_GRID = 192  # pixels of the longer side at which an image is drawn; noise is added at full size
# Distance between the classes in standard deviations of each of three signs (border, colors, asymmetry). Chosen by
# trial, so that configs/smoke.py learns the default data set in minutes: AUC 0.97 on held-out fold 0 (one run; with 2.2
# it learnt almost nothing in that time).
_SEPARATION = 3.5

_SHADES = ((0.16, 0.10, 0.10), (0.42, 0.16, 0.10), (0.36, 0.40, 0.48), (0.80, 0.62, 0.58))  # black, red, blue, white

Array = np.ndarray[Any, np.dtype[Any]]


class SyntheticError(RuntimeError):
    """A data set that cannot be generated as requested; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class SyntheticSettings:
    """Settings of a data set.

    Attributes:
      out: folder to write.
      images: number of training images.
      patients: number of their patients.
      prevalence: share of malignant images.
      seed: equal seeds give equal data sets.
      min_size: shorter side of the smallest images, in pixels.
    """

    out: str = "data"
    images: int = 900
    patients: int = 150
    prevalence: float = 0.2
    seed: int = 0
    min_size: int = 240


def generate(settings: SyntheticSettings, overwrite: bool = False) -> bool:
    """Generates the data set.

    Returns:
      False if the same data set exists already.

    Raises:
      SyntheticError: the folder holds anything else; real data are never overwritten.
    """
    _check_settings(settings)
    folder = Path(settings.out)
    described = {key: value for key, value in dataclasses.asdict(settings).items() if key != "out"}
    if not _prepare_folder(folder, described, overwrite):
        return False
    test_images, test_patients = (max(1, round(count * TEST_SHARE)) for count in (settings.images, settings.patients))
    counts = (settings.images + test_images, settings.patients + test_patients)
    names, patients = (
        np.random.default_rng([settings.seed, stream]).choice(9_000_000, count, replace=False)
        for stream, count in enumerate(counts)
    )
    parts = [
        ("train", names[: settings.images], patients[: settings.patients]),
        ("test", names[settings.images :], patients[settings.patients :]),
    ]
    for number, (split, chosen, owners) in enumerate(parts):
        rows = _rows(chosen + 1_000_000, owners + 1_000_000, settings, number)
        images = folder / "jpeg" / split
        images.mkdir(parents=True, exist_ok=True)
        for row in rows:
            image = Image.fromarray(_image(row, settings))
            image.save(images / f"{row['image_name']}.jpg", quality=90)
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            columns = _TRAIN_COLUMNS if split == "train" else _TEST_COLUMNS
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    (folder / MARKER).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return True


def _check_settings(settings: SyntheticSettings) -> None:
    if not 1 <= settings.patients <= settings.images <= 1_000_000:
        raise SyntheticError(
            f"{settings.images} images of {settings.patients} patients; expected 1 <= patients <= images <= 1000000"
        )
    if not 0 <= settings.prevalence <= 1:
        raise SyntheticError(f"prevalence {settings.prevalence}; expected 0 to 1")
    if not 32 <= settings.min_size <= 2000:
        raise SyntheticError(f"min_size {settings.min_size}; expected 32 to 2000 pixels")


def _prepare_folder(folder: Path, described: dict[str, Any], overwrite: bool) -> bool:
    """Removes an old synthetic data set if requested; False if there is nothing to do."""
    marker = folder / MARKER
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text("{}\n", encoding="utf-8")  # incomplete
        return True
    if not marker.exists():
        raise SyntheticError(
            f"refusing to overwrite {folder}: not written by tfrecord_tools.synthetic; choose another --out"
        )
    try:
        found = json_file.read(marker)
    except ValueError as error:
        raise SyntheticError(f"{marker} is damaged: {error}; remove {folder}, or choose another --out") from error
    if found == described:
        return False
    if found and not overwrite:
        raise SyntheticError(f"{folder} holds another synthetic data set: {found}; pass --overwrite or another --out")
    marker.write_text("{}\n", encoding="utf-8")
    for split in ("train", "test"):
        for path in (folder / "jpeg" / split).glob("ISIC_*.jpg"):
            path.unlink()
    return True


# ------------------------------------------------------------------------------------------------ table


def _rows(names: Array, patients: Array, settings: SyntheticSettings, part: int) -> list[dict[str, Any]]:
    """Rows of a CSV; every patient has at least one image, some have many, as in the real data."""
    random = np.random.default_rng([settings.seed, 2, part])
    count = len(names)
    weights = random.exponential(size=len(patients)) + 0.2
    owners = np.concatenate(
        [np.arange(len(patients)), random.choice(len(patients), count - len(patients), p=weights / weights.sum())]
    )
    random.shuffle(owners)
    targets = np.zeros(count, int)
    targets[random.permutation(count)[: round(count * settings.prevalence)]] = 1
    ages = random.normal(48, 13, len(patients))  # years, per patient
    sexes = random.random(len(patients)) < 0.52
    rows = []
    for name, owner, target in zip(names, owners, targets, strict=True):
        age = np.clip(5 * round((ages[owner] + random.normal(0, 2) + 8 * target) / 5), 10, 90)
        benign = random.choice(list(_BENIGN_SHARES), p=list(_BENIGN_SHARES.values()))
        row = {
            "image_name": f"ISIC_{name}",
            "patient_id": f"IP_{patients[owner]}",
            "sex": schema.SEX[0 if sexes[owner] else 1],
            "age_approx": f"{age:.1f}",
            "anatom_site_general_challenge": random.choice(schema.SITE, p=_SITE_SHARES),
            "diagnosis": "melanoma" if target else benign,
            "benign_malignant": "malignant" if target else "benign",
            "target": int(target),
        }
        for column in ("sex", "age_approx", "anatom_site_general_challenge"):
            if random.random() < _MISSING_SHARE:
                row[column] = ""
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------ images


def _image(row: dict[str, Any], settings: SyntheticSettings) -> Array:
    """Image u8[H,W,3] of a row; depends only on the seed, its name, its patient (skin) and its target."""
    random = np.random.default_rng([settings.seed, 3, int(row["image_name"][5:])])
    skin_random = np.random.default_rng([settings.seed, 4, int(row["patient_id"][3:])])
    signs = _sigmoid(random.normal(0, 1, 3) + _SEPARATION * (row["target"] - 0.5))
    short = settings.min_size * (random.uniform(1, 2) if random.random() < 0.95 else random.uniform(2, 4))
    aspect = _ASPECTS[random.integers(len(_ASPECTS))]
    width, height = round(short * aspect), round(short)
    grid = (round(_GRID / aspect), _GRID)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) * n / grid[0] for n in grid), indexing="ij")
    skin = np.array([0.86, 0.66, 0.56]) * skin_random.uniform(0.78, 1.06) + skin_random.normal(0, 0.02, 3)
    light = 1 + 0.06 * _field(random, grid, 4)
    canvas = (skin * light[..., None]).astype(np.float32)
    canvas *= 1 + 0.03 * _field(random, grid, 40)[..., None]
    _draw_lesion(canvas, x, y, random, skin, *signs)
    if random.random() < 0.3:
        _draw_hairs(canvas, x, y, random)
    vignette = 1 - random.uniform(0, 0.35) * np.clip((x**2 + y**2) / 2.5, 0, 1) ** 2
    canvas *= vignette[..., None]
    if random.random() < 0.15:  # the dark circle that some dermoscopes leave
        canvas *= _sigmoid((random.uniform(1.05, 1.2) - np.hypot(x, y)) * 60)[..., None]
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    noise = random.integers(-5, 6, (height, width, 1), np.int16)
    return np.clip(np.asarray(image, np.int16) + noise, 0, 255).astype(np.uint8)


def _draw_lesion(
    canvas: Array,
    x: Array,
    y: Array,
    random: np.random.Generator,
    skin: Array,
    border: float,
    colors: float,
    skew: float,
) -> None:
    """Draws a lesion on `canvas` f32[H,W,3]; border, colors and skew, 0..1, make it look malignant."""
    turn = random.uniform(0, 2 * np.pi)
    dx, dy = x - random.normal(0, 0.12), y - random.normal(0, 0.10)
    u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    v = v * random.uniform(1.0, 1.5)
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    size = random.uniform(0.42, 0.75)
    edge = np.full_like(angle, size)
    for order in range(2, 9):  # radial harmonics
        strength = (0.01 + 0.12 * border) * random.normal(0, 1) / order**0.5
        edge += size * strength * np.cos(order * angle + random.uniform(0, 7))
    edge *= 1 + 0.45 * skew * np.cos(angle - random.uniform(0, 7))
    softness = random.uniform(9, 30)
    inside = _sigmoid((edge - radius) * softness / size)
    tone = skin * np.array([0.62, 0.50, 0.45]) * random.uniform(0.75, 1.25)
    lesion = tone * (1 + 0.10 * _field(random, x.shape, 24))[..., None]
    for shade in _SHADES:
        blotch = _sigmoid(5 * (_field(random, x.shape, 6) - 2.4 + 2.8 * colors * random.uniform(0.6, 1)))
        lesion = lesion + (np.array(shade) - lesion) * (0.85 * blotch)[..., None]
    lesion = lesion * (1 - 0.5 * skew * _sigmoid(4 * u / size))[..., None]  # one half darker
    canvas += (lesion - canvas) * inside[..., None]


def _draw_hairs(canvas: Array, x: Array, y: Array, random: np.random.Generator) -> None:
    for _ in range(random.integers(2, 9)):
        turn, offset, bend = random.uniform(0, np.pi), random.normal(0, 0.6), random.normal(0, 0.25)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        line = np.exp(-(((across - offset - bend * along**2) / 0.012) ** 2))
        canvas *= 1 - 0.7 * line[..., None]


def _field(random: np.random.Generator, shape: tuple[int, ...], detail: int) -> Array:
    """Smooth noise f32[H,W] of variance about 1 with about `detail` bumps across."""
    coarse = random.normal(size=(detail, detail)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    return smooth / np.float32(0.75)  # interpolation removes about a quarter of the standard deviation


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


# ------------------------------------------------------------------------------------------------ command


def define_flags() -> None:
    """Defines the flags of this command."""
    default = SyntheticSettings()
    flags.DEFINE_string("out", default.out, "Folder to write the data set to.")
    flags.DEFINE_integer("images", default.images, "Number of training images; 15 % as many test images are added.", 1)
    flags.DEFINE_integer("patients", default.patients, "Number of patients of the training images.", 1)
    flags.DEFINE_float("prevalence", default.prevalence, "Share of malignant images.", 0, 1)
    flags.DEFINE_integer("seed", default.seed, "Random seed; equal seeds give equal data sets.", 0)
    flags.DEFINE_integer("min_size", default.min_size, "Shorter side of the smallest images, in pixels.", 32, 2000)
    flags.DEFINE_bool("overwrite", False, "Replace another synthetic data set in --out.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    settings = SyntheticSettings(
        **{field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(SyntheticSettings)}
    )
    made = generate(settings, flags.FLAGS.overwrite)
    what = f"{settings.images} training images of {settings.patients} patients, and a test set"
    print(f"{settings.out}: {what if made else 'already holds this data set; nothing to do'}")
    where = (
        ""
        if settings.out == "data"
        else f" --csv {quote(f'{settings.out}/train.csv')} --images {quote(f'{settings.out}/jpeg/train')}"
    )
    print(f"next: python -m tfrecord_tools.build --size 128{where}")


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
