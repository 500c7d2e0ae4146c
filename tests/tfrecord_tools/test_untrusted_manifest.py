"""A manifest from elsewhere: nothing outside its folder is read or deleted."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.support.builds import contents, settings
from tfrecord_tools import build, show, verify
from tfrecord_tools.records.manifest import Manifest
from tfrecord_tools.records.shards import ShardError


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def change(folder, **changes):
    """Changes the first shard's entry of a manifest."""
    content = json.loads((folder / "manifest.json").read_text())
    content["shards"][0] |= changes
    (folder / "manifest.json").write_text(json.dumps(content))


NAMES = ["../victim.txt", "../train00-1.tfrec", "/etc/passwd", "notes.txt", "manifest.json", "train00-1.tfrec/..", ""]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("name", ["../victim.txt", "../train00-1.tfrec", "ABSOLUTE", "notes.txt"])
def test_overwrite_deletes_nothing_that_only_a_manifest_names(data, finished, out, tmp_path, name, complete):
    victims = [tmp_path / "victim.txt", tmp_path / "train00-1.tfrec"]
    for victim in victims:
        victim.write_text("mine")
    change(out, name=str(victims[0]) if name == "ABSOLUTE" else name)
    content = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**content, "complete": complete}))
    build.build(settings(data, out, overwrite=True))
    assert [victim.read_text() for victim in victims] == ["mine", "mine"]
    assert contents(out) == contents(finished)


def test_overwrite_removes_a_link_and_not_what_it_leads_to(data, finished, out, tmp_path):
    shard = next(out.glob("train*.tfrec"))
    shutil.move(shard, tmp_path / "kept.tfrec")
    shard.symlink_to(tmp_path / "kept.tfrec")
    kept = (tmp_path / "kept.tfrec").read_bytes()
    with pytest.raises(build.BuildError, match="is a link to .*kept.tfrec, outside its folder"):
        build.build(settings(data, out, resume=True))
    build.build(settings(data, out, overwrite=True))
    assert (tmp_path / "kept.tfrec").read_bytes() == kept
    assert not shard.is_symlink()
    assert contents(out) == contents(finished)


@pytest.mark.parametrize("name", NAMES)
def test_no_command_opens_what_is_no_shard_of_the_folder(out, name):
    change(out, name=name)
    result = verify.verify([out])
    (problem,) = result.problems
    assert result.shards == 0
    assert "is not allowed as a file name; expected ((?:train|test)" in problem
    assert str(out / "manifest.json") in problem
    with pytest.raises(ShardError, match="is not allowed as a file name"):
        show.make_page(out)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": ""},
        {"sha256": "ab"},
        {"sha256": "AB" * 32},
        {"sha256": None},
        {"records": -1},
        {"records": "7"},
        {"records": True},
        {"bytes": 1.5},
        {"fold": -2},
        {"fold": None},
        {"positives": -1},
        {"split": "../x"},
    ],
    ids=str,
)
def test_an_entry_with_an_impossible_value_is_named(out, changes):
    change(out, **changes)
    ((key, value),) = changes.items()
    with pytest.raises(ShardError) as caught:
        Manifest.read(out)
    assert f"{key}: {value!r}; expected" in str(caught.value)


def test_a_shard_listed_twice_and_settings_that_are_none_are_refused(out):
    content = json.loads((out / "manifest.json").read_text())
    for wrong in (
        {"shards": [*content["shards"], content["shards"][0]]},
        {"settings": [1]},
        {"inputs": None},
        {"complete": "yes"},
    ):
        (out / "manifest.json").write_text(json.dumps({**content, **wrong}))
        with pytest.raises(ShardError, match="manifest.json: not a manifest"):
            Manifest.read(out)


def test_an_absurd_number_of_shards_takes_no_time(data, finished, out):
    content = json.loads((out / "manifest.json").read_text())
    content["settings"]["shards"] = 10**15
    (out / "manifest.json").write_text(json.dumps({**content, "complete": False}))
    build.build(settings(data, out, overwrite=True))
    assert contents(out) == contents(finished)
