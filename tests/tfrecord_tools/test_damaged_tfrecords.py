"""TFRecords of others that are damaged: what is sound is built, the rest stands in the quarantine with its place."""

# ruff: noqa: PT017 -- which inputs raise is not known beforehand
import csv
import gzip
import hashlib
import itertools
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builds import contents, records_of, replaced
from tests.support.foreign import KAGGLE_CODES, example, foreign_settings, patients, shard, values
from tests.support.images import SKIN, flat_jpeg, mutated
from tests.support.process import run_command
from tfrecord_tools import build, show, verify
from tfrecord_tools.builder import report
from tfrecord_tools.foreign import codes, reader
from tfrecord_tools.records import tfrecord


def read(path: Path, **arguments: Any) -> tuple[list[str], list[reader.Unusable]]:
    """The names of the records that can be used, and what cannot."""
    names: list[str] = []
    unusable = []
    for each in reader.read(path, **arguments):
        if isinstance(each, reader.Unusable):
            unusable.append(each)
        else:
            names.append(str(each.row["image_name"]))
    return names, unusable


def framed(*records: bytes) -> bytes:
    """A shard of these bytes with sound checksums."""
    with tempfile.TemporaryFile() as file:
        for data in records:
            tfrecord.write_record(file, data)
        file.seek(0)
        return file.read()


def three(folder: Path, name: str = "train00-3.tfrec") -> Path:
    return shard(folder, *(values(f"ISIC_{number}") for number in range(3)), name=name)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# -------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sex": 2}, "key 'sex': 2 is not allowed; expected 0 to 1, or -1 for missing"),
        ({"sex": b"woman"}, "key 'sex': b'woman' is not allowed; expected one of male, female, unknown"),
        ({"age_approx": 45.5}, "key 'age_approx': 45.5 is not allowed; expected 0 to 120"),
        ({"age_approx": b"old"}, "key 'age_approx': b'old' is not allowed"),
        ({"target": 2}, "key 'target': 2 is not allowed; expected 0 to 1"),
        ({"target": [1, 1]}, "key 'target': 2 values; expected one, or a single 1 among zeros"),
        ({"age_approx": [1, 0]}, "key 'age_approx': 2 values; expected one"),
        ({"image_name": b"a b"}, "key 'image_name': 'a b' does not match"),
        ({"image_name": b"train/"}, "key 'image_name': '' names no image"),
        ({"image_name": b"\xff"}, r"key 'image_name': b'\xff' is not text"),
        ({"patient_id": b"IP\0"}, r"key 'patient_id': 'IP\x00' has a control character; expected none"),
        ({"lesion_id": b"a\nb"}, r"key 'lesion_id': 'a\nb' has a control character"),
        ({"image_name": ...}, "key image_name is missing; found age_approx"),
        ({"image": ...}, "key image is missing; found age_approx"),
        ({"image": 5}, "key 'image': expected the bytes of an image file, found 5"),
        ({"image": b""}, "key 'image': expected the bytes of an image file"),
    ],
)
def test_a_record_with_a_bad_value_is_named_and_the_others_are_read(tmp_path, changes, reason):
    path = shard(tmp_path, values(), values(**{"image_name": b"ISIC_2", **changes}), values("ISIC_3"))
    names, (bad,) = read(path, codes=codes.parse_codes(KAGGLE_CODES))
    assert names == ["ISIC_1", "ISIC_3"]
    assert bad.file == "train00-3.tfrec: record 1"
    assert bad.reason.startswith(reason)
    vocabulary = changes in ({"sex": 2}, {"sex": b"woman"}, {"target": 2})
    assert bad.code_of == (next(iter(changes)) if vocabulary else "")
    assert bad.image_name == ("" if "image_name" in changes else "ISIC_2")


def test_codes_without_a_word_are_bad_values_only_where_they_are_rare(tmp_path):
    stated = codes.parse_codes(KAGGLE_CODES)
    rare = [*patients(20), *(values(f"ISIC_{n}", target=0, diagnosis=1, patient_id=n, sex=5) for n in (20,))]
    assert reader.read_shards([shard(tmp_path, *rare)], codes=stated).doubts == ()
    many = [*rare, values("ISIC_21", target=0, diagnosis=1, patient_id=21, sex=5)]
    (doubt,) = reader.read_shards([shard(tmp_path, *many)], codes=stated).doubts
    assert doubt == (
        "2 of 22 records have a code of sex without a word, first train00-22.tfrec: record 20: "
        "key 'sex': 5 is not allowed; expected 0 to 1, or -1 for missing"
    )
    with pytest.raises(build.BuildError, match="cannot be trusted"):
        build.build(foreign_settings(tmp_path / "train00-22.tfrec", tmp_path / "out", codes=KAGGLE_CODES))
    build.build(foreign_settings(tmp_path / "train00-22.tfrec", tmp_path / "out", codes="sex="))
    assert len(records_of(tmp_path / "out")) == 22


def test_values_that_a_table_tells_are_not_looked_at(tmp_path):
    path = shard(tmp_path, values(sex=9, diagnosis=b"?"), values("ISIC_2", target=[0.5, 0.5], age_approx=b"old"))
    assert read(path, images_only=True) == (["ISIC_1", "ISIC_2"], [])


def test_a_record_that_is_no_example_costs_itself(tmp_path):
    path = tmp_path / "train00-3.tfrec"
    path.write_bytes(framed(b"noise", example(values()), b"\x0a\xff"))
    names, unusable = read(path)
    assert names == ["ISIC_1"]
    assert [each.file for each in unusable] == ["train00-3.tfrec: record 0", "train00-3.tfrec: record 2"]
    assert all(each.reason.startswith("not a tf.train.Example") for each in unusable)


def test_a_flipped_byte_in_the_data_costs_one_record(tmp_path):
    path = three(tmp_path)
    flip(path, path.stat().st_size // 2)
    assert read(path) == (
        ["ISIC_0", "ISIC_2"],
        [reader.Unusable("", "train00-3.tfrec: record 1", "the checksum of its data is wrong")],
    )


def test_a_flipped_byte_in_a_length_costs_the_rest_of_the_file(tmp_path):
    path = three(tmp_path)
    third = path.stat().st_size // 3
    flip(path, third + 2)
    names, (lost,) = read(path)
    assert names == ["ISIC_0"]
    assert (lost.file, lost.lost) == ("train00-3.tfrec: record 1", 2)
    assert lost.reason == (
        "the checksum of its length is wrong; the start of the next record is unknown, so the rest of the file is "
        f"lost: {2 * third} bytes, 2 of the 3 records in its name"
    )


@pytest.mark.parametrize("cut", [5, 100])
def test_a_shard_that_is_cut_off_keeps_what_is_whole(tmp_path, cut):
    path = three(tmp_path, "train.tfrecords")
    third = path.stat().st_size // 3
    path.write_bytes(path.read_bytes()[: third + cut])
    names, (lost,) = read(path)
    assert names == ["ISIC_0"]
    assert lost.reason.startswith("cut off: ")
    assert lost.reason.endswith(f"so the rest of the file is lost: {cut} bytes")
    assert lost.lost == 0  # for all that is known


def test_a_count_in_the_file_name_that_is_wrong_is_named_and_all_are_read(tmp_path):
    names, unusable = read(three(tmp_path, "train00-4.tfrec"))
    assert names == ["ISIC_0", "ISIC_1", "ISIC_2"]
    assert unusable == [reader.Unusable("", "train00-4.tfrec", "3 records; the file name says 4", lost=1)]
    assert [each.lost for each in read(three(tmp_path, "train00-2.tfrec"))[1]] == [0]
    assert read(three(tmp_path, "train.tfrecords"))[1] == []


def test_a_compressed_file_and_one_that_is_not_there_are_refused(tmp_path):
    path = tmp_path / "train00-3.tfrec"
    path.write_bytes(gzip.compress(three(tmp_path, "x.tfrec").read_bytes()))
    with pytest.raises(reader.ForeignError, match="compressed with gzip"):
        read(path)
    with pytest.raises(reader.ForeignError, match=r"nothing\.tfrec: cannot be read: No such file"):
        read(tmp_path / "nothing.tfrec")
    with pytest.raises(reader.ForeignError, match="no file matches"):
        reader.find(str(tmp_path / "*.nothing"))


def test_shards_of_which_nothing_can_be_used_are_refused_with_the_first_reason(tmp_path):
    path = tmp_path / "train00-1.tfrec"
    path.write_bytes(framed(b"noise"))
    with pytest.raises(reader.ForeignError, match=r"the first: train00-1\.tfrec: record 0: not a tf\.train\.Example"):
        reader.read_shards([path])


# ------------------------------------------------------------------------------------------------- building


def damage(folder: Path) -> list[dict[str, Any]]:
    """Three shards of 24 patients: a flipped byte, a bad value and an image that is cut off; one cut; a wrong count.

    Returns the records that are sound.
    """
    records = patients(24)
    records[1]["sex"] = b"?!"
    records[2]["image"] = records[2]["image"][:-200]
    first = shard(folder, *records[:8], name="a-8.tfrec")
    flip(first, first.stat().st_size - 20)  # in the last record
    second = shard(folder, *records[8:16], name="b-8.tfrec")
    second.write_bytes(second.read_bytes()[:-30])
    shard(folder, *records[16:], name="c-9.tfrec")
    return [each for number, each in enumerate(records) if number not in (1, 2, 7, 15)]


def quarantine_of(folder: Path) -> list[list[str]]:
    with (folder / "quarantine.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_what_is_sound_in_damaged_shards_is_built_and_the_rest_listed(tmp_path):
    sound = damage(tmp_path)
    manifest = build.build(foreign_settings(tmp_path / "*.tfrec", tmp_path / "out"))
    assert set(records_of(tmp_path / "out")) == {each["image_name"].decode() for each in sound}
    assert manifest.lost == 2  # the last of b, and the ninth that c's name tells of
    header, *listed = quarantine_of(tmp_path / "out")
    assert header == ["image_name", "file", "reason"]
    assert [line[:2] for line in listed] == [
        ["ISIC_1", "a-8.tfrec: record 1"],
        ["", "a-8.tfrec: record 7"],
        ["", "b-8.tfrec: record 7"],
        ["", "c-9.tfrec"],
        ["ISIC_2", "a-8.tfrec: record 2"],  # only its image is no good, as was seen when it was decoded
    ]
    assert len(manifest.quarantined) == 5
    assert verify.verify([tmp_path / "out"], near_duplicates=False).problems == []
    page = show.make_page(tmp_path / "out")
    assert "b-8.tfrec: record 7" in page
    assert "8 records; the file name says 9" in page


def test_a_damaged_build_is_a_function_of_its_input(tmp_path):
    damage(tmp_path)
    given = foreign_settings(tmp_path / "*.tfrec", tmp_path / "one")
    build.build(given)
    build.build(foreign_settings(tmp_path / "*.tfrec", tmp_path / "two", workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    next((tmp_path / "two").glob("train*.tfrec")).unlink()
    build.build(foreign_settings(tmp_path / "*.tfrec", tmp_path / "two", resume=True))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_damaged_shard_with_its_table(tmp_path):
    sound = damage(tmp_path)
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,target\n"
    rows = [f"ISIC_{n},IP_{n},male,45,torso,{int(n % 4 == 0)}\n" for n in range(24)]
    (tmp_path / "train.csv").write_text(header + "".join(rows))
    build.build(foreign_settings(tmp_path / "*.tfrec", tmp_path / "out", csv=str(tmp_path / "train.csv")))
    found = records_of(tmp_path / "out")
    assert set(found) == {each["image_name"].decode() for each in sound} | {"ISIC_1"}  # the table tells its sex
    assert found["ISIC_1"].patient == "IP_1"
    assert len(quarantine_of(tmp_path / "out")) == 5


def test_the_command_exits_with_1_and_says_what_to_do_unless_quarantine_is_allowed(tmp_path):
    damage(tmp_path)
    given = ["--size", "32", "--from_tfrecords", str(tmp_path / "*.tfrec"), "--out", str(tmp_path / "out")]
    done = run_command("-m", "tfrecord_tools.build", *given, "--workers", "1")
    assert done.returncode == 1
    assert "20 images at 32 x 32, 5 quarantined (2 records lost), " in done.stdout
    assert "5 images or records could not be used, and 2 records are lost from damaged files, see" in done.stderr
    assert "build again with --overwrite, or pass --allow_quarantine" in done.stderr
    done = run_command("-m", "tfrecord_tools.build", *given, "--workers", "1", "--overwrite", "--allow_quarantine")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_shard_that_is_cut_off_early_tells_how_many_records_are_gone(tmp_path):
    path = shard(tmp_path, *patients(32), name="a-32.tfrec")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 14 // 32 + 200])
    given = foreign_settings(path, tmp_path / "out")
    manifest = build.build(given)
    made = sum(entry.records for entry in manifest.shards)
    assert (made, len(manifest.quarantined), manifest.lost) == (14, 1, 18)
    assert "14 images at 32 x 32, 1 quarantined (18 records lost), " in report.summary(
        tmp_path / "out", manifest, 14, 1
    )
    said = report.complaint(given, manifest)
    assert said.startswith("1 image or record could not be used, and 18 records are lost from damaged files, see ")
    next((tmp_path / "out").glob("*.tfrec")).unlink()
    assert build.build(replaced(given, resume=True)).lost == 18


# ----------------------------------------------------------------------------------------------------- fuzz

# Images that differ in their bytes; what a record says of its image must stay with it.
IMAGES = [SKIN, flat_jpeg(170, 120, 100), flat_jpeg(150, 110, 90)]
RECORDS = [example(values(f"ISIC_{number}", image=image)) for number, image in enumerate(IMAGES)]
HASHES = {hashlib.sha256(image).digest(): f"ISIC_{number}" for number, image in enumerate(IMAGES)}


def changed(seed: int, inside: bool) -> bytes:
    """The shard with a few bytes changed; inside: within a record, with new checksums."""
    rng, records = random.Random(seed), list(RECORDS)
    if not inside:
        return mutated(framed(*records), rng)
    number = rng.randrange(len(records))
    records[number] = mutated(records[number], rng)
    return framed(*records)


def check_shard(data: bytes) -> None:
    """Reads a shard; a record is the one written, or differs in what was changed, or it is named as unusable."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train00-3.tfrec"
        path.write_bytes(data)
        try:
            found = list(reader.read(path))
        except reader.ForeignError as error:
            assert "train00-3.tfrec" in str(error)
            return
        usable = [each for each in found if isinstance(each, reader.ForeignRecord)]
        for record in usable:
            place = record.place.part
            lies = data[place.offset : place.offset + place.length]
            assert lies == record.image
            assert place.sha256 == hashlib.sha256(lies).digest()
            # An image that is whole comes under its own name, unless the name is what was changed.
            name = str(record.row["image_name"])
            assert name not in HASHES.values() or HASHES.get(place.sha256, name) == name
        for each in found:
            if isinstance(each, reader.Unusable):
                assert each.file.startswith("train00-3.tfrec")
                assert each.reason
        assert len(usable) == 3 or len(found) > len(usable)  # nothing is lost without a word


@given(st.integers(), st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_300_damaged_shards_give_the_records_written_or_what_is_wrong(seed, inside):
    check_shard(changed(seed, inside))


@pytest.mark.slow
@given(st.integers(), st.booleans())
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_10000_damaged_shards_give_the_records_written_or_what_is_wrong(seed, inside):
    check_shard(changed(seed, inside))


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_noise_is_no_record(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train00-1.tfrec"
        path.write_bytes(struct.pack("<Q", len(data)) + data)
        names, unusable = read(path)
        assert names == []
        assert len(unusable) == 1


def test_builds_of_damaged_shards_hold_no_other_records_image(tmp_path):
    """Through the whole build: each image is that of its name, as an undamaged build has it."""
    whole = shard(tmp_path, *patients(20), name="train.tfrecords")
    build.build(foreign_settings(whole, tmp_path / "whole"))
    expected, data = records_of(tmp_path / "whole"), whole.read_bytes()
    numbers, built = random.Random(6), 0
    for number in itertools.count():
        whole.write_bytes(mutated(data, numbers))
        try:
            build.build(foreign_settings(whole, tmp_path / "out", overwrite=True))
        except build.USERS_ERRORS:
            continue
        finally:
            assert number < 30
        built += 1
        found = records_of(tmp_path / "out")
        assert len(found) < 20
        assert all(record.image == expected[name].image for name, record in found.items())
        if built == 3:
            break
