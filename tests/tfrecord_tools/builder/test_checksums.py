"""--checksums: against what sha256sum writes."""

import csv
import hashlib
import json
import shutil
import subprocess

import pytest

from tests.support.builds import copy_with_links, quarantined, records_of, replaced, settings
from tfrecord_tools import build
from tfrecord_tools.builder import checksums, inputs
from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.dedup import pairs

ANOTHER = "its SHA-256 is not the one that --checksums gives: another file, or a damaged one"


def sums_of(folder, *options):
    """What the system's command says of all files below a folder."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    return subprocess.run(
        ["sha256sum", *options, *files], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def csv_of(folder):
    rows = [(path.stem, hashlib.sha256(path.read_bytes()).hexdigest().upper()) for path in folder.rglob("*.jpg")]
    return "sha256,image_name,note\n" + "".join(f"{digest},{name},x\n" for name, digest in rows)


FORMS = {
    "sha256sum": lambda folder: sums_of(folder),
    "binary": lambda folder: sums_of(folder, "-b").replace("\n", "\r\n"),
    "tag": lambda folder: sums_of(folder, "--tag"),
    "csv": csv_of,
}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
@pytest.mark.parametrize("form", FORMS)
def test_images_that_differ_or_are_not_listed_are_quarantined(data, tmp_path, form, capsys):
    folder = copy_with_links(data, tmp_path / "data")
    images = sorted((folder / "jpeg" / "train").iterdir())
    listed = tmp_path / "sums.txt"
    text = FORMS[form](folder)
    changed, unlisted, gone = images[3], images[7], images[9]
    listed.write_text("".join(line for line in text.splitlines(keepends=True) if unlisted.stem not in line))
    # Another sound image under this name, which no decoder can notice.
    changed.unlink()
    changed.write_bytes(images[0].read_bytes())
    gone.unlink()
    build.build(settings(folder, tmp_path / "out", checksums=str(listed)))
    assert quarantined(tmp_path / "out") == {
        changed.stem: ANOTHER,
        unlisted.stem: "not listed in sums.txt, which --checksums gives",
        gone.stem: "file is missing",
    }
    assert len(records_of(tmp_path / "out")) == 45
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]["train"]["checksums"] == {
        "name": "sums.txt",
        "sha256": hashlib.sha256(listed.read_bytes()).hexdigest(),
        "images": 47,
    }
    assert "sums.txt: has a checksum of 47 of 48 train images" in capsys.readouterr().out


def test_a_changed_image_and_another_list_are_noticed_on_resume(data, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    listed = tmp_path / "sums.csv"
    listed.write_text(csv_of(folder / "jpeg" / "train"))
    given = settings(folder, tmp_path / "out", checksums=str(listed))
    build.build(given)
    assert quarantined(tmp_path / "out") == {}
    build.build(replaced(given, resume=True))
    with listed.open("a") as file:
        csv.writer(file).writerow(["0" * 64, "ISIC_9", ""])
    for changes in ({"resume": True}, {"resume": True, "checksums": None}):
        with pytest.raises(BuildError, match="train input checksums: "):
            build.build(replaced(given, **changes))


def test_files_of_one_name_in_two_folders_each_have_a_sum(tmp_path):
    one, two = "1" * 64, "2" * 64
    (tmp_path / "sums").write_text(f"{one}  benign/a.jpg\n{two}  .\\malignant\\a.jpg\n{one}  deep/b.tar.jpg\n")
    found = checksums.read(tmp_path / "sums").sums
    assert found == {"a": (one, two), "b.tar": (one,)}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", ": empty"),
        ("\n\n", ": empty"),
        ("image_name,md5\na,b\n", ": line 1"),
        ("image_name,sha256\nISIC_1,12\n", ": line 2"),
        ("image_name,sha256\nISIC_1\n", ": line 2"),
        (f"{'a' * 64}  ISIC_1.jpg\n\nnonsense\n", ": line 3"),
        (f"{'a' * 64}  ISIC_1.jpg\nMD5 (b) = 12\n", ": line 2"),
        ("\x00\xff", ": line 1"),
    ],
)
def test_what_is_no_list_of_checksums_is_an_error_that_names_the_line(tmp_path, text, where):
    (tmp_path / "sums").write_text(text, encoding="latin-1")
    with pytest.raises(BuildError) as caught:
        checksums.read(tmp_path / "sums")
    message = str(caught.value)
    assert message.startswith(f"--checksums {tmp_path / 'sums'}")
    assert message.endswith("expected lines of sha256sum, or a CSV with the columns image_name and sha256")
    assert where in message or "\xff" in text


@pytest.mark.parametrize(
    ("flag", "message"),
    [("checksums", "--checksums .*list: line 1: expected"), ("duplicates", "list: line 1: missing")],
)
def test_a_bad_list_is_reported_before_a_table_or_image_is_read(data, tmp_path, monkeypatch, flag, message):
    (tmp_path / "list").write_text("a,b\n1,2\n")
    monkeypatch.setattr(inputs, "find", None)  # would fail
    with pytest.raises((BuildError, pairs.PairsError), match=message):
        build.build(settings(data, tmp_path / "out", **{flag: str(tmp_path / "list")}))


def test_a_list_that_is_missing_is_an_error_before_anything_is_written(data, tmp_path):
    with pytest.raises(BuildError, match="--checksums .*: cannot be read: No such file"):
        build.build(settings(data, tmp_path / "out", checksums=str(tmp_path / "none")))
    assert not (tmp_path / "out").exists()
