"""Builds of image files as they come: other formats, hostile files, and every installation alike."""

import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import tfrecord_tools
from tests.support.builds import NO_IMAGE, command, copy_with_links, quarantined, records_of
from tests.support.foreign import foreign_settings, patients, shard
from tests.support.images import SKIN, many_scans, pixels, psnr
from tests.support.process import REPOSITORY
from tfrecord_tools import build
from tfrecord_tools.imaging import convert, resample

pytestmark = pytest.mark.integration


def test_hostile_files_are_quarantined_and_all_others_built(data, finished, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    zero, pipe, scans, outside, bomb, device, huge, *_ = sorted((folder / "jpeg" / "train").iterdir())
    for path in (zero, pipe, scans, outside, bomb, device, huge):
        path.unlink()
    (tmp_path / "secret").write_text("root:x:0:0 password")
    zero.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    scans.write_bytes(many_scans(6000, 4000, 2000))
    outside.symlink_to(tmp_path / "secret")
    bomb.write_bytes(many_scans(30_000, 20_000, 1))
    device.write_bytes(b"<html>")
    with huge.open("wb") as file:
        file.write(SKIN)
        file.truncate(200 << 30)  # sparse: to read it would take longer than this test may
    done = subprocess.run(
        command(folder, tmp_path / "out", "--allow_quarantine"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    link = "a link that leaves the image folder; put the file itself there, e.g. with cp -L"
    assert quarantined(tmp_path / "out") == {
        zero.stem: link,
        pipe.stem: "a pipe; expected a regular file",
        scans.stem: "more than 100 scans, which may take minutes to decode; encode it again",
        outside.stem: link,
        bomb.stem: "30000 x 20000 pixels are over the limit of 100000000",
        device.stem: NO_IMAGE,
        huge.stem: "its size, 204800 MiB, is over the limit of 256 MiB",
    }
    assert "password" not in (tmp_path / "out" / "quarantine.csv").read_text()
    sound = records_of(finished)
    found = records_of(tmp_path / "out")
    assert len(found) == 41
    assert all(record.image == sound[name].image for name, record in found.items())


def test_a_folder_of_mixed_formats_is_built(data, finished, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    sound = records_of(finished)
    kinds = [(".png", "PNG"), (".tif", "TIFF"), (".bmp", "BMP"), (".webp", "WEBP"), (".jpg", "PNG"), (".PNG", "PNG")]
    changed = {}
    for path, (extension, kind) in zip(sorted((folder / "jpeg" / "train").iterdir()), kinds, strict=False):
        image = Image.open(path)
        image.load()
        path.unlink()
        image.save(path.with_suffix(extension), kind, **({"lossless": True} if kind == "WEBP" else {}))
        changed[path.stem] = image.size
    done = subprocess.run(command(folder, tmp_path / "out"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = records_of(tmp_path / "out")
    assert len(changed) == len(kinds)
    for name, size in changed.items():
        assert (found[name].width, found[name].height) == size
        assert psnr(pixels(found[name].image), pixels(sound[name].image)) > 40
    assert all(found[name].image == sound[name].image for name in sound.keys() - changed.keys())


def without_compiled_code(folder):
    """This package as a source tree that nobody has installed, as on PYTHONPATH in a notebook."""
    source = os.path.dirname(tfrecord_tools.__file__)
    shutil.copytree(source, folder / "tfrecord_tools", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    return folder


def test_every_installation_quarantines_the_same_images(real_data, tmp_path):
    """60 real JPEGs, five of them with 600 zeroed bytes, built with and without the compiled resampler."""
    if resample.KIND != "compiled":
        pytest.skip("the resampler is not compiled here")
    source = real_data / "isic2020_512"
    with (source / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rng = random.Random(5)
    chosen = rng.sample(rows, 60)
    images = tmp_path / "jpeg"
    images.mkdir()
    for index, row in enumerate(chosen):
        content = bytearray((source / "jpeg" / f"{row['image_name']}.jpg").read_bytes())
        if index < 5:
            at = rng.randrange(len(content) // 4, len(content) - 700)
            content[at : at + 600] = bytes(600)
        (images / f"{row['image_name']}.jpg").write_bytes(content)
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(chosen)
    where = ["--csv", str(tmp_path / "train.csv"), "--images", str(images), "--size=64", "--shards=5"]
    found = {}
    for kind, root in (("compiled", REPOSITORY), ("NumPy", without_compiled_code(tmp_path / "source"))):
        out = tmp_path / kind
        done = subprocess.run(
            [sys.executable, "-m", "tfrecord_tools.build", "--workers=2", "--allow_quarantine", "--out", out, *where],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        versions = json.loads((out / "manifest.json").read_text())["versions"]
        assert versions.pop("resampler") == kind
        assert f"converted with simplejpeg {versions['simplejpeg']}, Pillow {versions['pillow']}, {kind}" in done.stdout
        shards = {path.name: path.read_bytes() for path in out.glob("*.tfrec")}
        found[kind] = versions, quarantined(out), shards
    assert found["compiled"] == found["NumPy"]
    reasons = found["NumPy"][1]
    assert set(reasons) <= {row["image_name"] for row in chosen[:5]}
    assert len(reasons) >= 3
    assert all(reason.startswith("damaged: ") for reason in reasons.values())


def test_an_image_of_16_bits_keeps_its_levels_in_the_shard(data, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    path = min((folder / "jpeg" / "train").iterdir())
    path.unlink()
    Image.fromarray(np.full((200, 200), 200 * 257, np.uint16)).save(path.with_suffix(".png"))
    done = subprocess.run(command(folder, tmp_path / "out"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.abs(pixels(records_of(tmp_path / "out")[path.stem].image) - 200).max() <= 1


def test_images_of_other_formats_in_tfrecords_are_converted(tmp_path):
    records = patients(8)
    jpeg, png = records[2]["image"], io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(png, "PNG")
    shard(tmp_path, *records[:2], {**records[2], "image": png.getvalue()}, *records[3:])
    build.build(foreign_settings(tmp_path / "train*.tfrec", tmp_path / "out", folds=2, shards=2))
    found = records_of(tmp_path / "out")
    assert len(found) == 8
    assert found["ISIC_2"].image == convert.convert(jpeg, 32, 95).jpeg
    assert (found["ISIC_2"].width, found["ISIC_2"].height) == (96, 80)
