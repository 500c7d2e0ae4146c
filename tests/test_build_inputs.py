"""What a build reads is not what it replaces, and there is something to build."""

import shutil

import pytest

from tests.test_build import contents, settings
from tests.test_from_tfrecords import foreign_settings
from tfrecord_tools import build

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
