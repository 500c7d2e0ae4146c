"""One image under two names, in the list of duplicates or in another build, through the whole build."""

import subprocess

import pytest

from tests.support.builds import NO_IMAGE, command, copy_with_links, quarantined, records_of, replaced, settings
from tfrecord_tools import build
from tfrecord_tools.metadata import table

WHICH = "differences:\n  train: the assignment of images to shards; images were added or removed\n"


def pairs_csv(folder, *pairs):
    path = folder / "pairs.csv"
    path.write_text("image_name_1,image_name_2\n" + "".join(f"{one},{other}\n" for one, other in pairs))
    return str(path)


@pytest.fixture(scope="module")
def strangers(finished):
    """Two images of one target, of patients in different folds."""
    benign = sorted((r for r in records_of(finished).values() if r.target == 0), key=lambda r: r.image_name)
    return next((a.image_name, b.image_name) for a in benign for b in benign if a.fold != b.fold)


def test_published_duplicates_are_kept_in_one_fold(data, strangers, tmp_path):
    build.build(settings(data, tmp_path / "out", duplicates=pairs_csv(tmp_path, strangers)))
    one, other = (records_of(tmp_path / "out")[name] for name in strangers)
    assert one.group == other.group
    assert one.fold == other.fold
    assert len(records_of(tmp_path / "out")) == 48


def test_published_duplicates_are_dropped_if_asked(data, strangers, tmp_path, capsys):
    listed = pairs_csv(tmp_path, strangers, ("ISIC_0", "ISIC_1"))  # the second pair is of no image here
    build.build(settings(data, tmp_path / "out", duplicates=listed, on_duplicates="drop"))
    kept = records_of(tmp_path / "out")
    assert [name in kept for name in sorted(strangers)] == [True, False]
    assert len(kept) == 47
    assert "left out, as duplicates of others: 1 of 48 images" in capsys.readouterr().out


def test_of_duplicates_the_one_with_an_image_stays(data, strangers, tmp_path):
    images = copy_with_links(data, tmp_path / "data")
    first = min(strangers)
    (images / "jpeg" / "train" / f"{first}.jpg").unlink()
    listed = pairs_csv(tmp_path, strangers)
    manifest = build.build(settings(images, tmp_path / "out", duplicates=listed, on_duplicates="drop"))
    assert sum(entry.records for entry in manifest.shards) == 47
    assert not any(entry.quarantined for entry in manifest.shards)
    # With the image back the other one goes, and shards made before could not be kept beside new ones.
    (images / "jpeg" / "train" / f"{first}.jpg").symlink_to(data / "jpeg" / "train" / f"{first}.jpg")
    with pytest.raises(build.BuildError, match=WHICH):
        build.build(settings(images, tmp_path / "out", duplicates=listed, on_duplicates="drop", resume=True))


def test_a_kept_copy_that_is_of_no_use_names_those_that_were_dropped_for_it(data, strangers, tmp_path):
    images = copy_with_links(data, tmp_path / "data")
    first, second = sorted(strangers)
    broken = images / "jpeg" / "train" / f"{first}.jpg"
    broken.unlink()
    broken.write_bytes(b"<html>")
    given = settings(images, tmp_path / "out", duplicates=pairs_csv(tmp_path, strangers), on_duplicates="drop")
    build.build(given)
    advice = f"its duplicate {second} was dropped for it: fix it and --resume"
    assert quarantined(tmp_path / "out") == {first: f"{NO_IMAGE}; {advice}"}
    broken.write_bytes((data / "jpeg" / "train" / f"{first}.jpg").read_bytes())
    build.build(replaced(given, resume=True))
    assert quarantined(tmp_path / "out") == {}
    assert {first, second} & records_of(tmp_path / "out").keys() == {first}


def test_training_images_that_are_in_the_test_set_are_left_out(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data)
    train, test = (table.read_table(data / f"{kind}.csv", kind == "train") for kind in ("train", "test"))
    listed = pairs_csv(tmp_path, (train.image_name[0], test.image_name[0]))
    manifest = build.build(build.BuildSettings.of(32, out="out", duplicates=listed))
    left_out = (train["patient"] == train["patient"][0]).sum()
    assert f"lesion are in the test set: {left_out} of 48 training images" in capsys.readouterr().out
    built = {split: sum(e.records for e in manifest.shards if e.split == split) for split in ("train", "test")}
    assert built == {"train": len(train) - left_out, "test": len(test)}


def test_a_list_of_duplicates_of_other_images_is_warned_of(data, tmp_path, capsys):
    build.build(settings(data, tmp_path / "out", duplicates=pairs_csv(tmp_path, ("ISIC_x", "ISIC_y"))))
    assert "1 pair, none of two images in these tables" in capsys.readouterr().out


def test_a_bad_list_of_duplicates_writes_nothing(data, tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    done = subprocess.run(
        command(data, tmp_path / "out", "--duplicates", str(tmp_path / "pairs.csv")), capture_output=True, text=True
    )
    assert done.returncode == 1
    expected = "line 1: missing column(s) image_name_1, image_name_2; found a, b"
    assert f"error: {tmp_path / 'pairs.csv'}: {expected}" in done.stderr
    assert not (tmp_path / "out").exists()
