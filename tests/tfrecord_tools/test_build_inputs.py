"""What a build reads is not what it replaces, and there is something to build."""

import shutil

import pytest

from tests.support.builds import contents, copy_with_links, quarantined, records_of, replaced, settings
from tests.support.foreign import foreign_settings
from tfrecord_tools import build
from tfrecord_tools.records.manifest import Manifest

OWN = "the build reads what it would replace in .*; choose another --out"


@pytest.fixture
def old(finished, tmp_path):
    """A finished build that may be overwritten."""
    shutil.copytree(finished, tmp_path / "old")
    return tmp_path / "old"


def check_refused(given, old):
    before = contents(old)
    with pytest.raises(build.BuildError, match=OWN):
        build.build_sizes(given)
    assert contents(old) == before


@pytest.mark.parametrize("flag", ["overwrite", "resume"])
def test_a_build_does_not_replace_the_shards_that_it_reads(old, flag):
    check_refused(foreign_settings(old / "*.tfrec", old, **{flag: True}), old)


def test_links_do_not_hide_that_a_build_reads_what_it_replaces(old, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "48").symlink_to(old)
    check_refused(foreign_settings(old / "*.tfrec", tmp_path / "out", size=(48, 32), overwrite=True), old)
    assert not (tmp_path / "out" / "32").exists()
    (tmp_path / "links").mkdir()
    for path in old.glob("*.tfrec"):
        (tmp_path / "links" / f"of_{path.name}").symlink_to(path)
    check_refused(foreign_settings(tmp_path / "links" / "*.tfrec", old, overwrite=True), old)


def test_a_build_is_not_compared_with_itself(data, old):
    check_refused(settings(data, old, against=str(old), overwrite=True), old)


@pytest.mark.parametrize("flag", ["csv", "duplicates"])
def test_a_table_under_a_name_that_would_be_removed_is_refused(data, old, flag):
    for name in ("quarantine.csv", "train00-7.tfrec"):
        (old / name).write_bytes((data / "train.csv").read_bytes())
        check_refused(settings(data, old, overwrite=True, **{flag: str(old / name)}), old)


def test_a_table_beside_the_shards_is_read_and_stays(data, old):
    table = old / "train.csv"
    table.write_bytes((data / "train.csv").read_bytes())
    build.build(settings(data, old, csv=str(table), overwrite=True))
    assert table.exists()


# ------------------------------------------------------------------------------------- something to build


def test_images_that_are_all_left_out_are_none(data, finished, tmp_path):
    """As ISIC 2019 with the images of HAM10000, which are in another build."""
    held = {name for name, record in records_of(finished).items() if record.fold == 0}
    text = (data / "train.csv").read_text().splitlines(keepends=True)
    rows = [row for row in text[1:] if row.split(",")[0] in held]
    (tmp_path / "held.csv").write_text("".join([text[0], *rows]))
    build.build(settings(data, tmp_path / "held", csv=str(tmp_path / "held.csv"), folds=1, shards=1))
    folder = tmp_path / "images"
    folder.mkdir()
    for name in held:
        (folder / f"{name}.jpg").symlink_to(data / "jpeg" / "train" / f"{name}.jpg")
    given = settings(data, tmp_path / "out", images=str(folder), against=str(tmp_path / "held"))
    left = f"holds none of the images of train.csv, {48 - len(held)} without those that are left out; expected files"
    with pytest.raises(build.BuildError, match=left):
        build.build(given)
    assert not (tmp_path / "out").exists()


def test_a_training_set_that_the_test_set_holds_leaves_nothing_to_build(data, tmp_path, monkeypatch):
    folder = copy_with_links(data, tmp_path / "data")
    (folder / "jpeg" / "test").symlink_to(folder / "jpeg" / "train")
    rows = [row.split(",") for row in (folder / "train.csv").read_text().splitlines()]
    header = rows[0]
    keep = [header.index(name) for name in header if name not in ("target", "diagnosis", "benign_malignant")]
    (folder / "test.csv").write_text("".join(",".join(row[at] for at in keep) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(build.BuildError, match=r"train\.csv: nothing is left to build"):
        build.build(build.BuildSettings.of(32, out="out"))


def test_images_that_are_all_of_no_use_are_no_build_but_can_be_fixed(data, finished, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (data / "jpeg" / "train").iterdir():
        (folder / path.name).write_bytes(b"<html>")
    given = settings(data, tmp_path / "out", images=str(folder), allow_quarantine=True)
    with pytest.raises(
        build.BuildError, match=r"none of 48 images can be used, see .*quarantine\.csv; the first: ISIC_"
    ):
        build.build(given)
    assert len(quarantined(tmp_path / "out")) == 48
    assert not Manifest.read(tmp_path / "out").complete
    build.build(replaced(given, images=str(data / "jpeg" / "train"), resume=True))
    assert contents(tmp_path / "out") == contents(finished)
