"""Error of the estimated skin tone: its spread within a lesion, between lesions, and under another white balance.

    python benchmarks/skin_tone.py --ham10000 ../shared/data/ham10000_256

Several images of HAM10000 show one lesion, so what differs between their angles is not the skin. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg
from absl import app, flags

from melanoma_tf.evaluation import skin_tone

FLAGS = flags.FLAGS
flags.DEFINE_string("ham10000", None, "Folder with HAM10000_metadata.csv and jpeg/.", required=True)
GAIN = 0.05  # of the blue channel


def main(argv: list[str]) -> None:
    """Estimates the angle of every image and prints what its error is."""
    folder = Path(FLAGS.ham10000)
    table = pd.read_csv(folder / "HAM10000_metadata.csv")
    files = [(folder / "jpeg" / f"{name}.jpg").read_bytes() for name in table["image_id"]]
    table["angle"] = [skin_tone.of_jpeg(file) for file in files]
    table["tone"] = skin_tone.classify(table["angle"]).astype(str)
    known = table.dropna(subset="angle")
    print(f"{len(table):,} images, {len(table) - len(known)} without an estimate\n")
    print("| class | images |\n|---|---|")
    for tone in (*skin_tone.CLASSES, skin_tone.UNKNOWN):
        print(f"| {tone} | {(table['tone'] == tone).sum():,} |")
    lesions = known.groupby("lesion_id")
    several = known[lesions["angle"].transform("size") > 1]
    within, between, count = components(several)
    print(f"\n{count:,} lesions with several images, {len(several):,} images: standard deviation within a lesion")
    print(f"{within:.1f} degrees, between lesions {between:.1f}; intraclass correlation "
          f"{between**2 / (between**2 + within**2):.2f}")  # fmt: skip
    two = several.groupby("lesion_id").head(2).groupby("lesion_id")
    same = (two["tone"].nunique() == 1).mean()
    share = known["tone"].value_counts(normalize=True)
    print(f"the first two images of a lesion have the same class in {same:.0%} of {two.ngroups:,} lesions; two images "
          f"of any lesions would in {(share**2).sum():.0%}")  # fmt: skip
    shift = [abs(shifted(file, factor) - value) for file, value in zip(files, table["angle"], strict=True)
             for factor in (1 - GAIN, 1 + GAIN)]  # fmt: skip
    print(f"a blue channel {GAIN:.0%} weaker or stronger moves the angle by {np.nanmedian(shift):.1f} degrees (median)")


def components(table: pd.DataFrame) -> tuple[float, float, int]:
    """Standard deviations within and between lesions by one-way analysis of variance, and the number of lesions."""
    groups = table.groupby("lesion_id")["angle"]
    sizes, lesions, images = groups.size(), groups.ngroups, len(table)
    within = ((table["angle"] - groups.transform("mean")) ** 2).sum() / (images - lesions)
    between = (sizes * (groups.mean() - table["angle"].mean()) ** 2).sum() / (lesions - 1)
    typical = (images - (sizes**2).sum() / images) / (lesions - 1)
    return float(np.sqrt(within)), float(np.sqrt(max(0.0, (between - within) / typical))), lesions


def shifted(file: bytes, factor: float) -> float:
    """Angle of an image whose blue channel is multiplied by a factor."""
    image = simplejpeg.decode_jpeg(file, min_height=64, min_width=64)
    blue = np.clip(np.round(image[..., 2] * factor), 0, 255).astype(np.uint8)
    return skin_tone.of_pixels(np.dstack([image[..., :2], blue]))


if __name__ == "__main__":
    app.run(main)
