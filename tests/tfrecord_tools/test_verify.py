import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.images import jpeg, textured
from tests.support.process import run_command
from tfrecord_tools import build, schema, synthetic, verify
from tfrecord_tools.dedup import pairs
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.records.manifest import Manifest


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with sound builds: train, 25 images of 10 patients, and test."""
    folder = tmp_path_factory.mktemp("verify")
    synthetic.generate(synthetic.SyntheticSettings(str(folder / "data"), 25, 10, min_size=40))
    for split in ("train", "test"):
        where = (str(folder / "data" / f"{split}.csv"), str(folder / "data" / "jpeg" / split), str(folder / split))
        build.build(build.BuildSettings.of(32, *where, shards=5))
    return folder


@pytest.fixture(scope="module")
def larger(sound):
    """The training build at 48 pixels."""
    where = (str(sound / "data/train.csv"), str(sound / "data/jpeg/train"), str(sound / "48"))
    build.build(build.BuildSettings.of(48, *where, shards=5))
    return sound / "48"


@pytest.fixture
def out(sound, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(sound / "train", tmp_path / "out")


def rewrite(folder, shard, change):
    """Replaces a shard by one whose records went through `change`, and makes the manifest agree with it."""
    manifest = Manifest.read(folder)
    entry = next(entry for entry in manifest.shards if entry.prefix == shard)
    records = change([schema.decode(data) for data in tfrecord.read_records(folder / entry.name)])
    with (folder / entry.name).open("wb") as file:
        for record in records:
            tfrecord.write_record(file, schema.encode(record))
    digest = shards.file_sha256(folder / entry.name)
    positives = None if entry.positives is None else sum(record.target == 1 for record in records)
    patients, size = len({record.patient for record in records} - {""}), (folder / entry.name).stat().st_size
    changed = dataclasses.replace(entry, sha256=digest, positives=positives, patients=patients, bytes=size)
    entries = tuple(changed if each is entry else each for each in manifest.shards)
    dataclasses.replace(manifest, shards=entries).write(folder)
    return entry.name


def change_first(**changes):
    return lambda records: [dataclasses.replace(records[0], **changes), *records[1:]]


def first_record(folder, shard):
    path = next(folder.glob(f"{shard}-*.tfrec"))
    return schema.decode(next(tfrecord.read_records(path)))


def test_a_sound_build_has_no_problem(sound):
    result = verify.verify([sound / "train", sound / "test"])
    assert (result.problems, result.records) == ([], 25 + 4)


def test_a_flipped_byte_is_found_with_shard_and_record(out):
    path = sorted(out.glob("*.tfrec"))[2]
    records = list(tfrecord.read_records(path))
    data = bytearray(path.read_bytes())
    data[len(records[0]) + 16 + 12 + 100] ^= 1  # the 100th byte of record 1
    path.write_bytes(data)
    assert verify.verify([out]).problems == [
        f"{path}: sha256 differs from manifest.json",
        f"{path}: record 1: the checksum of its data is wrong",
    ]


def test_a_patient_in_two_folds_is_a_leak(out):
    patient = first_record(out, "train00").patient
    leak = {"patient": patient, "patient_id": schema.stable_id(patient), "group": schema.stable_id(patient)}
    name = rewrite(out, "train03", change_first(**leak))
    (problem,) = verify.verify([out]).problems
    assert problem.startswith(f"{out / name}: record 0: leak: patient {patient} of {out} train fold 3 is also in {out}")
    assert "train fold 0" in problem


def test_a_group_in_two_folds_is_a_leak_even_of_other_patients(out):
    group = first_record(out, "train00").group
    rewrite(out, "train03", change_first(group=group))
    (problem,) = verify.verify([out]).problems
    assert f"leak: group {group} of" in problem


def test_the_same_source_file_in_two_folds_is_a_leak(out):
    digest = first_record(out, "train00").sha256
    rewrite(out, "train03", change_first(sha256=digest))
    names = [first_record(out, shard).image_name for shard in ("train03", "train00")]
    (problem,) = verify.verify([out]).problems
    assert f"leak: source sha256 {digest.hex()} of" in problem
    assert problem.endswith(f"): images {names[0]} and {names[1]}")


def test_a_lesion_in_two_folds_is_a_leak(out):
    rewrite(out, "train00", change_first(lesion="IL_1"))
    rewrite(out, "train03", change_first(lesion="IL_1"))
    (problem,) = verify.verify([out]).problems
    assert f"leak: lesion IL_1 of {out} train fold 3 is also in {out} train fold 0" in problem


def test_a_near_duplicate_in_two_folds_is_a_leak(out):
    image = textured(0, 32)
    rewrite(out, "train00", change_first(image=jpeg(image)))
    name = rewrite(
        out, "train03", change_first(image=jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=80))
    )
    result = verify.verify([out])
    (problem,) = result.problems
    assert problem.startswith(f"{out / name}: record 0: leak: image ")
    assert "mirrored, similarity" in problem
    (pair,) = result.near_duplicates
    assert pair.where_2 == f"{out / name}: record 0"
    remedy = "1 pair of nearly identical images lies in two folds or folders: "
    build_again = "build again with --duplicates FILE --overwrite"
    assert result.notes == [f"{remedy}list them with --pairs FILE, then {build_again}"]
    assert verify.verify([out], all_pairs=True).notes == [f"{remedy}{build_again}"]
    assert verify.verify([out], near_duplicates=False).problems == []


def test_a_near_duplicate_within_a_fold_is_none(out):
    rewrite(out, "train00", lambda records: [dataclasses.replace(r, image=records[0].image) for r in records])
    assert verify.verify([out]).problems == []


def test_all_pairs_are_listed_for_a_build_that_will_fold_again(out, tmp_path):
    name = rewrite(out, "train00", lambda records: [dataclasses.replace(r, image=records[0].image) for r in records])
    done = run_command("-m", "tfrecord_tools.verify", str(out), "--pairs", str(tmp_path / "pairs.csv"))
    assert done.returncode == 0, done.stdout
    images = {schema.decode(data).image_name for data in tfrecord.read_records(out / name)}
    listed = pairs.read(tmp_path / "pairs.csv")
    assert {name for pair in listed for name in pair[:2]} == images
    assert len(images) > 1


def test_a_list_that_cannot_be_written_keeps_the_findings(out):
    name = rewrite(out, "train03", change_first(sha256=first_record(out, "train00").sha256))
    path = out.parent / "pairs.csv"
    verified = [sys.executable, "-m", "tfrecord_tools.verify", str(out), "--pairs", str(path)]
    full = ["bash", "-c", 'ulimit -f 0; exec "$@"', "-", *verified]  # no file may hold a byte
    done = subprocess.run(full, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{name}: record 0: leak: source sha256" in done.stdout
    assert done.stderr == f"error: --pairs {path}: cannot be written: File too large\n"
    assert not path.exists()


def test_no_list_is_written_of_pairs_that_were_not_looked_for(out, tmp_path):
    path = tmp_path / "pairs.csv"
    done = run_command("-m", "tfrecord_tools.verify", str(out), "--noduplicates", "--pairs", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --pairs and --noduplicates together")
    assert not path.exists()


def test_no_list_is_written_over_the_manifest_or_where_there_is_no_folder(out):
    before = (out / "manifest.json").read_bytes()
    path = out / "manifest.json"
    done = run_command("-m", "tfrecord_tools.verify", str(out), "--pairs", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    message = "refusing to overwrite it: not a list of pairs of this package; choose another"
    assert done.stderr == f"error: --pairs {path}: {message}\n"
    with pytest.raises(pairs.PairsError, match=f"no such folder {out / 'none'}; make it first"):
        pairs.check_output(out / "none" / "pairs.csv")
    assert (out / "manifest.json").read_bytes() == before


def test_builds_are_verified_by_url(sound):
    assert verify.verify([f"file://{sound / 'train'}"]).problems == []


def test_builds_of_one_table_at_two_sizes_do_not_leak_into_each_other(sound, larger):
    assert verify.verify([sound / "train", larger]).problems == []


def test_a_copy_leaks_into_its_original_beside_another_size_too(sound, larger, out):
    for folders in ([sound / "train", out], [sound / "train", larger, out]):
        problems = verify.verify(folders, near_duplicates=False).problems
        assert sum("leak: patient" in problem for problem in problems) == 10
        assert f"of {out} train fold 0 is also in {sound / 'train'} train fold 0" in problems[0]


def test_a_folder_that_is_given_twice_is_reported(out, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(out)
    monkeypatch.chdir(tmp_path)
    result = verify.verify(["out", "./out/", tmp_path / "link"], near_duplicates=False)
    again = "the folder out again; expected each once"
    assert result.problems == [f"out: {again}", f"{tmp_path / 'link'}: {again}"]
    assert result.records == 25


def test_builds_of_one_table_with_other_folds_leak(sound, tmp_path):
    where = (str(sound / "data/train.csv"), str(sound / "data/jpeg/train"), str(tmp_path / "other"))
    build.build(build.BuildSettings.of(32, *where, shards=5, seed=1))
    assert any("leak: patient" in problem for problem in verify.verify([sound / "train", tmp_path / "other"]).problems)


def test_a_test_folder_that_shares_a_patient_with_training_is_a_leak(sound, tmp_path):
    test = shutil.copytree(sound / "test", tmp_path / "test")
    patient = first_record(sound / "train", "train01").patient
    shard = Manifest.read(test).shards[0].prefix
    identity = {"patient": patient, "patient_id": schema.stable_id(patient), "group": schema.stable_id(patient)}
    rewrite(test, shard, change_first(**identity))
    problems = verify.verify([sound / "train", test]).problems
    assert any(f"leak: patient {patient} of {test} test is also in" in problem for problem in problems)


def test_a_repeated_image_name_is_found(out):
    name = first_record(out, "train00").image_name
    rewrite(out, "train03", change_first(image_name=name))
    (problem,) = verify.verify([out]).problems
    assert f"record 0: image_name {name} is also" in problem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": b"\xff\xd8\xff half"}, "truncated: no end-of-image marker"),
        ({"fold": 4}, "fold 4; expected 3"),
        ({"patient_id": 5}, "patient_id 5 is not that of patient IP_"),
    ],
)
def test_a_wrong_record_is_found(out, changes, message):
    name = rewrite(out, "train03", change_first(**changes))
    problems = verify.verify([out]).problems
    assert problems[0].startswith(f"{out / name}: record 0: ")
    assert message in problems[0]


def test_an_image_of_another_size_is_found(out):
    manifest = Manifest.read(out)
    dataclasses.replace(manifest, settings={**manifest.settings, "size": 40}).write(out)
    problems = verify.verify([out]).problems
    assert len(problems) == 25
    assert problems[0].endswith(": 32 x 32 RGB; expected 40 x 40 RGB")


@pytest.mark.parametrize(
    ("key", "number", "count", "message"),
    [
        ("shards", 0, "patients", "{shard}: {was} patients; manifest.json says 99"),
        ("shards", 1, "bytes", "{shard}: {was} bytes; manifest.json says 99"),
        ("folds", 0, "records", "{manifest}: folds[0].records: 99; its shards say {was}"),
        ("folds", 4, "patients", "{manifest}: folds[4].patients: 99; its shards say {was}"),
        ("folds", 2, "positives", "{manifest}: folds[2].positives: 99; its shards say {was}"),
        ("folds", 1, "shards", "{manifest}: folds[1].shards: 99; its shards say 1"),
    ],
)
def test_every_count_of_the_manifest_is_checked(out, key, number, count, message):
    path = out / "manifest.json"
    content = json.loads(path.read_text())
    was, content[key][number][count] = content[key][number][count], 99
    path.write_text(json.dumps(content))
    expected = message.format(shard=out / content["shards"][number]["name"], manifest=path, was=was)
    assert expected.replace(" 1 patients", " 1 patient") in verify.verify([out], near_duplicates=False).problems


@pytest.mark.parametrize(("folds", "found"), [(None, "no list"), ([], "0 folds")])
def test_a_manifest_without_its_folds_is_found(out, folds, found):
    path = out / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "folds": folds}))
    assert verify.verify([out], near_duplicates=False).problems == [f"{path}: folds: {found}; its shards have 5"]


def test_a_build_without_records_is_a_problem_and_an_empty_fold_noted(out):
    for shard in ("train03", "train00", "train01", "train02", "train04"):
        name = rewrite(out, shard, lambda records: [])
        (out / name).rename(out / f"{shard}-0.tfrec")
        manifest = Manifest.read(out)
        entries = (
            dataclasses.replace(e, name=f"{shard}-0.tfrec", records=0) if e.name == name else e for e in manifest.shards
        )
        dataclasses.replace(manifest, shards=tuple(entries)).write(out)
        result = verify.verify([out])
        if shard == "train03":
            text = f"{out}: fold 3 has no record, so no model can be judged on it; see {out / 'quarantine.csv'}"
            assert (result.problems, result.notes) == ([], [text])
    text = f"{out}: no records; expected at least one, see {out / 'quarantine.csv'}"
    assert (result.problems, result.notes) == ([text], [])


def test_a_missing_record_is_found(out):
    name = rewrite(out, "train03", lambda records: records[:-1])
    count = tfrecord.shard_count(name)
    assert verify.verify([out]).problems == [
        f"{out / name}: {count - 1} records; its name says {count}, manifest.json {count}"
    ]


def test_a_missing_shard_a_stray_one_and_an_unfinished_build_are_found(out):
    path = sorted(out.glob("*.tfrec"))[0]
    path.rename(out / "extra-5.tfrec")
    dataclasses.replace(Manifest.read(out), complete=False).write(out)
    problems = verify.verify([out]).problems
    assert problems[0] == f"{out}: the build is not complete; go on with its --resume"
    assert problems[1] == f"{out / 'extra-5.tfrec'}: not in manifest.json; expected only the shards listed there"
    assert problems[2].startswith(f"{path}: missing; manifest.json lists it with ")


def test_a_folder_without_manifest_is_found(tmp_path):
    (problem,) = verify.verify([tmp_path]).problems
    assert (
        problem == f"{tmp_path / 'manifest.json'}: No such file or directory; expected the folder of a finished build"
    )


def test_the_parent_of_builds_of_several_sizes_names_them(out):
    (problem,) = verify.verify([out.parent]).problems
    assert problem.endswith(f"finished build; {out.parent} holds builds, so name one of them: {out}")


def test_a_missing_quarantine_list_is_found(out):
    (out / "quarantine.csv").unlink()
    (problem,) = verify.verify([out]).problems
    assert problem.startswith(f"{out / 'quarantine.csv'}: missing; expected in every build")
    dataclasses.replace(Manifest.read(out), complete=False).write(out)
    assert verify.verify([out]).problems == [f"{out}: the build is not complete; go on with its --resume"]


def test_json_has_pairs_only_on_demand(out, tmp_path):
    base = ["-m", "tfrecord_tools.verify", "--json", str(out)]
    keys = ["folders", "shards", "records", "near_duplicates"]
    assert list(json.loads(run_command(*base).stdout)) == [*keys, "notes", "problems"]
    assert list(json.loads(run_command(*base, "--pairs", str(tmp_path / "p.csv")).stdout)) == [
        *keys,
        "pairs",
        "notes",
        "problems",
    ]


def test_the_command_exits_with_0_only_if_all_is_sound(sound, out):
    base = [sys.executable, "-m", "tfrecord_tools.verify"]
    good = subprocess.run([*base, str(sound / "train"), str(sound / "test")], capture_output=True, text=True)
    assert good.returncode == 0
    assert good.stdout.endswith("all sound, no leak between folds\n")
    sorted(out.glob("*.tfrec"))[0].unlink()
    bad = subprocess.run([*base, "--json", str(out)], capture_output=True, text=True)
    assert bad.returncode == 1
    assert len(json.loads(bad.stdout)["problems"]) == 1
    assert subprocess.run(base, capture_output=True).returncode == 2  # no folder given
