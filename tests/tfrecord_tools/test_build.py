import contextlib
import csv
import dataclasses
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import PIL
import pytest
import simplejpeg

from tests.support.builds import (
    NO_IMAGE,
    command,
    contents,
    copy_with_links,
    quarantined,
    records_of,
    replaced,
    settings,
)
from tests.support.process import descendants, is_running, wait_for, workers_of
from tfrecord_tools import build, schema
from tfrecord_tools.builder import inputs, report
from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.imaging import resample
from tfrecord_tools.metadata import table
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.records.manifest import Manifest

# ------------------------------------------------------------------------------------------ what is built


def test_every_image_is_in_one_shard_with_the_metadata_of_its_row(data, finished):
    frame = table.read_table(data / "train.csv", labelled=True).set_index("image_name")
    paths = sorted(finished.glob("*.tfrec"))
    records = {
        record.image_name: (record, path)
        for path in paths
        for record in map(schema.decode, tfrecord.read_records(path))
    }
    assert len(records) == len(frame) == sum(map(tfrecord.shard_count, paths))
    for name, row in frame.iterrows():
        record, path = records[str(name)]
        assert (record.patient, record.sex, record.age_approx, record.target) == (
            row["patient"],
            row["sex"],
            row["age_approx"],
            row["target"],
        )
        assert record.fold == int(path.name[5:7]) % 5
    fold_of_patient = {(record.patient, record.fold) for record, _ in records.values()}
    assert len(fold_of_patient) == frame["patient"].nunique()


def test_the_manifest_counts_what_is_there(data, finished):
    manifest = Manifest.read(finished)
    assert manifest.complete
    assert {entry.name for entry in manifest.shards} == {path.name for path in finished.glob("*.tfrec")}
    assert sum(entry.positives or 0 for entry in manifest.shards) == 12
    inputs = dict(manifest.inputs["train"])
    assert len(inputs.pop("plan")) == 64
    assert inputs == {
        "name": "train.csv",
        "sha256": shards.file_sha256(data / "train.csv"),
        "rows": 48,
        "form": "isic2020",
        "sources": ["isic2020"],
        "target_rule": "1 = melanoma, as its column target says",
    }
    text = (finished / "manifest.json").read_text()
    assert str(data) not in text
    assert str(finished) not in text


def test_the_manifest_has_the_totals_of_each_fold(data, finished):
    content = json.loads((finished / "manifest.json").read_text())
    records = list(records_of(finished).values())
    assert content["folds"] == [
        {
            "split": "train",
            "fold": fold,
            "records": sum(record.fold == fold for record in records),
            "positives": sum(record.target for record in records if record.fold == fold),
            "patients": len({record.patient for record in records if record.fold == fold}),
            "shards": len({path for path in finished.glob("train*.tfrec") if int(path.name[5:7]) % 5 == fold}),
        }
        for fold in range(5)
    ]


def test_two_workers_make_the_same_bytes_as_one(data, finished, tmp_path):
    build.build(settings(data, tmp_path / "out", workers=2))
    assert contents(tmp_path / "out") == contents(finished)


def test_a_table_without_labels_becomes_test_shards(data, tmp_path):
    inputs = {"csv": str(data / "test.csv"), "images": str(data / "jpeg" / "test")}
    manifest = build.build(settings(data, tmp_path / "out", **inputs))
    assert {(entry.split, entry.fold, entry.positives) for entry in manifest.shards} == {("test", -1, None)}
    path = next((tmp_path / "out").glob("test*.tfrec"))
    record = schema.decode(next(tfrecord.read_records(path)))
    assert (record.fold, record.target, record.diagnosis) == (-1, -1, -1)
    (totals,) = manifest.folds
    assert (totals.split, totals.fold, totals.records, totals.positives) == ("test", -1, 7, None)
    assert report.summary(tmp_path / "out", manifest, 7, 2.0).splitlines() == [
        f"{tmp_path / 'out'}: 7 images at 32 x 32, 0 quarantined, 2.0 s, 3.5 images/s",
        f"  test: 7 images, {counted(totals.patients, 'patient')}, {counted(totals.shards, 'shard')}",
        f"  converted with simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}, {resample.KIND} resampler",
        f"next: python -m tfrecord_tools.verify {tmp_path / 'out'}",
        f"      python -m melanoma_tf.predict --workdir RUN --data {tmp_path / 'out'}",
    ]


def test_few_patients_leave_out_shards_that_would_be_empty(data, tmp_path):
    manifest = build.build(settings(data, tmp_path / "out", folds=5, shards=100))
    assert 5 <= len(manifest.shards) <= 24
    assert all(entry.records for entry in manifest.shards)


def test_an_existing_build_is_refused_and_overwritten_if_asked(data, tmp_path):
    out = tmp_path / "out"
    build.build(settings(data, out))
    before = contents(out)
    with pytest.raises(build.BuildError, match="holds a finished build of 24 shards at size 32; pass --resume"):
        build.build(settings(data, out, size=40))
    assert contents(out) == before
    (out / "notes.txt").write_text("mine")
    manifest = build.build(settings(data, out, size=40, shards=5, overwrite=True))
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        "quarantine.csv",
        "notes.txt",
        *(entry.name for entry in manifest.shards),
    }


@pytest.mark.parametrize("changes", [{}, {"overwrite": True}, {"resume": True}])
def test_a_folder_with_something_else_is_never_touched(data, tmp_path, changes):
    (tmp_path / "train00-5.tfrec").write_text("not ours")
    (tmp_path / f".beam-{'0' * 32}").mkdir()  # of a build that runs there, for all that is known
    with pytest.raises(build.BuildError, match="is not empty and was not written by tfrecord_tools.build"):
        build.build(settings(data, tmp_path, **changes))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".beam-{'0' * 32}", "train00-5.tfrec"]


def test_overwriting_a_complete_build_spares_a_shard_of_someone_else(data, finished, tmp_path):
    for name, content in contents(finished).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "test00-2.tfrec").write_bytes(b"not ours")
    build.build(settings(data, tmp_path, overwrite=True))
    assert contents(tmp_path) == contents(finished) | {"test00-2.tfrec": b"not ours"}


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_out_that_is_a_file_is_one_message(data, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    done = subprocess.run(command(data, tmp_path / "file" / below), capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


# ------------------------------------------------------------------------------------------ sizes and fit


@pytest.fixture(scope="module")
def two_sizes(data, tmp_path_factory):
    """One uninterrupted build of 32 and 48 pixels."""
    out = tmp_path_factory.mktemp("sizes") / "out"
    build.build_sizes(settings(data, out, size=(32, 48)))
    return out


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_several_sizes_are_a_build_each_the_largest_as_if_alone(data, finished, two_sizes, tmp_path):
    assert sorted(path.name for path in two_sizes.iterdir()) == ["32", "48"]
    build.build(settings(data, tmp_path / "alone", size=48))
    assert contents(two_sizes / "48") == contents(tmp_path / "alone")
    small, alone = Manifest.read(two_sizes / "32"), Manifest.read(finished)
    assert small.settings == {**alone.settings, "decoded_for_size": 48}
    assert [(entry.name, entry.records) for entry in small.shards] == [
        (entry.name, entry.records) for entry in alone.shards
    ]


def test_two_workers_make_the_same_bytes_of_several_sizes(data, two_sizes, tmp_path):
    build.build_sizes(settings(data, tmp_path, size=(48, 32), workers=2))
    assert tree(tmp_path) == tree(two_sizes)


def test_resume_makes_only_the_size_that_is_missing(data, two_sizes, tmp_path):
    for name, content in tree(two_sizes).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    gone, *rest = sorted((tmp_path / "32").glob("*.tfrec"))
    gone.unlink()
    kept = {path: path.stat().st_mtime_ns for path in [*rest, *(tmp_path / "48").glob("*.tfrec")]}
    build.build_sizes(settings(data, tmp_path, size=(32, 48), resume=True))
    assert tree(tmp_path) == tree(two_sizes)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_one_size_that_cannot_be_built_leaves_the_other_untouched(data, two_sizes, tmp_path):
    (tmp_path / "32").mkdir()
    (tmp_path / "48").mkdir()
    (tmp_path / "48" / "notes.txt").write_text("mine")
    with pytest.raises(build.BuildError, match="48 is not empty and was not written by tfrecord_tools.build"):
        build.build_sizes(settings(data, tmp_path, size=(32, 48)))
    assert tree(tmp_path) == {"48/notes.txt": b"mine"}


def test_the_command_takes_sizes_fit_and_subsampling(data, tmp_path):
    args = ["--size=32,40", "--fit=pad", "--subsampling=4:4:4", "--quality=80"]
    done = subprocess.run([*command(data, tmp_path / "out"), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for size in (32, 40):
        manifest = Manifest.read(tmp_path / "out" / str(size))
        found = [manifest.settings[key] for key in ("size", "decoded_for_size", "fit", "subsampling", "quality")]
        assert found == [size, 40, "pad", "4:4:4", 80]
        assert f"out/{size}: 48 images at {size} x {size}" in done.stdout


def test_a_size_that_is_no_number_is_named(data, tmp_path):
    done = subprocess.run([*command(data, tmp_path / "out"), "--size=32,big"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --size 32,big; expected whole numbers, as 384 or 256,384,512; see --help\n",
    )


# ------------------------------------------------------------------------------------------ bad input


def test_unusable_images_are_quarantined_and_the_exit_code_says_so(data, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    missing, cut, page, *_ = sorted((folder / "jpeg" / "train").iterdir())
    whole = cut.read_bytes()
    for path in (missing, cut, page):
        path.unlink()
    cut.write_bytes(whole[: len(whole) // 2])
    page.write_bytes(b"<html>")
    done = subprocess.run(command(folder, tmp_path / "out"), capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: 3 images could not be used, see" in done.stderr
    assert quarantined(tmp_path / "out") == {
        missing.stem: "file is missing",
        cut.stem: "truncated: no end-of-image marker after the last scan",
        page.stem: NO_IMAGE,
    }
    manifest = Manifest.read(tmp_path / "out")
    assert sum(entry.records for entry in manifest.shards) == 45
    again = subprocess.run(
        command(folder, tmp_path / "out", "--resume", "--allow_quarantine"), capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr


def test_resume_takes_in_images_that_were_fixed(data, finished, tmp_path):
    folder = copy_with_links(data, tmp_path / "data")
    missing = sorted((folder / "jpeg" / "train").iterdir())[0]
    away = missing.rename(tmp_path / missing.name)
    build.build(settings(folder, tmp_path / "out"))
    assert list(quarantined(tmp_path / "out")) == [missing.stem]
    away.rename(missing)
    build.build(settings(folder, tmp_path / "out", resume=True))
    assert contents(tmp_path / "out") == contents(finished)


def test_bad_metadata_writes_nothing(data, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text((data / "train.csv").read_text().replace("ISIC_", "../ISIC_", 1))
    done = subprocess.run([*command(data, tmp_path / "out"), "--csv", str(bad)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {bad}: 1 problem\n  line 2: column image_name: '../ISIC_")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 31}, "--size 31; expected 32 to 1024 pixels"),
        ({"size": 1025}, "--size 1025; expected 32 to 1024 pixels"),
        ({"size": (32, 64, 32)}, "--size 32,64,32; expected one or several different sizes"),
        ({"size": ()}, "expected one or several different sizes"),
        ({"fit": "zoom"}, "--fit zoom; expected one of: crop, pad, stretch"),
        ({"subsampling": "4:1:1"}, "--subsampling 4:1:1; expected one of: 4:2:0, 4:2:2, 4:4:4"),
        ({"quality": 0}, "--quality 0; expected 1 to 100"),
        ({"workers": 0}, "--workers 0; expected at least 1"),
        ({"source": "a\tb"}, "--source 'a\\tb'; expected a name without control characters"),
        ({"source": ""}, "--source ''; expected a name"),
        ({"csv": "a.csv,"}, "--csv 'a.csv,'; expected one path or several with commas between them, none empty"),
        ({"csv": "a.csv, ,b.csv"}, "--csv 'a.csv, ,b.csv'; expected one path or several"),
        ({"against": "ham,"}, "--against 'ham,'; expected one path or several"),
        ({"against": ""}, "--against ''; expected one path or several"),
        ({"out": ""}, "--out ''; expected a path"),
        ({"images": " "}, "--images ' '; expected one path or several"),
        ({"images": "a,,b"}, "--images 'a,,b'; expected one path or several"),
        ({"duplicates": ""}, "--duplicates ''; expected a path"),
        ({"images": None}, "--csv without --images"),
        ({"csv": None}, "--images without --csv"),
        ({"images": "/nowhere"}, "/nowhere: No such file or directory; expected the folder of the images"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite together"),
        ({"swap_rb": True}, "--dialect, --codes and --swap_rb without --from_tfrecords; expected"),
        ({"on_duplicates": "merge"}, "--on_duplicates merge; expected one of: group, drop, keep"),
    ],
)
def test_a_bad_setting_is_named(data, tmp_path, changes, message):
    with pytest.raises(build.BuildError) as caught:
        build.build(replaced(settings(data, tmp_path / "out"), **changes))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_none_of_the_images_is_refused(data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        build.BuildError, match=r"holds none of the images of train\.csv, 48 in all; expected files like ISIC_"
    ):
        build.build(settings(data, tmp_path / "out", images=str(tmp_path / "empty")))


# ------------------------------------------------------------------------------------------ finding the data


def test_synthetic_data_in_the_working_folder_are_found_train_and_test(data, tmp_path):
    (tmp_path / "data").symlink_to(data)
    done = subprocess.run(
        [sys.executable, "-m", "tfrecord_tools.build", "--size=32"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    manifest = Manifest.read(tmp_path / "tfrecords" / "32")
    images = {split: sum(e.records for e in manifest.shards if e.split == split) for split in ("train", "test")}
    assert images == {"train": 48, "test": 7}
    assert "train fold 4: " in done.stdout
    assert "next: python -m tfrecord_tools.verify tfrecords/32\n" in done.stdout


def test_finding_nothing_says_what_was_looked_for_and_what_to_do(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tfrecord_tools.build", "--size=384"], cwd=tmp_path, capture_output=True, text=True
    )
    if Path(inputs.PLACES[0]).exists():
        pytest.skip(f"{inputs.PLACES[0]} exists here")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: no data found. Looked for:\n  /kaggle/input/siim-isic-melanoma-classification/"
    )
    assert "kaggle competitions download -c siim-isic-melanoma-classification" in done.stderr
    assert "python -m tfrecord_tools.synthetic --out data" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------ interrupted builds


def interrupt(data, out, signal_number):
    """Starts a build and signals it once it has a shard; returns its standard error when all its processes ended."""
    # Tests that run in the background of a shell ignore SIGINT, and so would what they start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command(data, out), stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    wait_for(lambda: list(out.glob("train*.tfrec")) or process.poll() is not None)
    workers = descendants(process.pid)
    process.send_signal(signal_number)
    message = process.communicate()[1]
    wait_for(lambda: not any(map(is_running, workers)))
    return message


@pytest.mark.integration
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_build_killed_anywhere_resumes_to_the_same_bytes(data, finished, tmp_path, signal_number):
    for attempt in range(10):  # a stalled machine may deliver the signal after the build's end
        out = tmp_path / f"out{attempt}"
        message = interrupt(data, out, signal_number)
        if not Manifest.read(out).complete:
            break
    assert "Traceback" not in message
    assert not Manifest.read(out).complete
    for path in out.glob("*.tfrec"):
        assert path.read_bytes() == (finished / path.name).read_bytes()
    if signal_number != signal.SIGKILL:
        assert message.endswith("error: interrupted; the finished shards are kept, go on with --resume\n")
        assert not paths.temporary_files(out)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrec")}
    listed = {entry.name for entry in Manifest.read(out).shards}
    build.build(settings(data, out, resume=True))
    assert contents(out) == contents(finished)
    assert all((out / name).stat().st_mtime_ns == kept[name] for name in listed)  # not built again


def none_is_running(pids):
    return not any(map(is_running, pids))


def kill_and_resume(data, out, moments, whole):
    """Kills parent or worker with SIGKILL at each moment (a share of `whole` seconds), going on with --resume."""
    for index, moment in enumerate(moments):
        process = subprocess.Popen(
            [*command(data, out, "--resume"), "--workers=2", "--size=32,48"], stderr=subprocess.PIPE, text=True
        )
        time.sleep(moment * whole)
        processes = descendants(process.pid)
        victims = workers_of(process.pid) if index % 3 == 2 else []
        for pid in victims or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        message = process.communicate()[1]
        assert "Traceback" not in message
        wait_for(functools.partial(none_is_running, processes))
        for path in out.rglob("*.tfrec"):  # whatever has a final name is whole
            assert sum(1 for _ in tfrecord.read_records(path)) == tfrecord.shard_count(path)


def check_kills(data, two_sizes, out, count, seed):
    started = time.monotonic()
    build.build_sizes(settings(data, out.with_name("timed"), size=(32, 48), workers=2))
    whole = time.monotonic() - started + 1.0  # and a second to start the interpreter
    numbers = random.Random(seed)
    kill_and_resume(data, out, [numbers.random() for _ in range(count)], whole)
    build.build_sizes(settings(data, out, size=(32, 48), workers=2, resume=True))
    assert tree(out) == tree(two_sizes)


@pytest.mark.integration
def test_kills_at_random_moments_lose_nothing(data, two_sizes, tmp_path):
    check_kills(data, two_sizes, tmp_path / "out", count=6, seed=0)


@pytest.mark.slow
def test_100_kills_at_random_moments_lose_nothing(data, two_sizes, tmp_path):
    for seed in range(10):
        check_kills(data, two_sizes, tmp_path / str(seed) / "out", count=10, seed=seed)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_in_truth_is_a_clear_error_and_leaves_whole_shards_only(data, small_disk):
    out = small_disk / "out"
    done = subprocess.run([*command(data, out), "--size=256"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left on device (" in done.stderr
    assert "MB free); the finished shards are kept, go on with --resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert not paths.temporary_files(out)
    for path in out.glob("*.tfrec"):
        assert sum(1 for _ in tfrecord.read_records(path)) == tfrecord.shard_count(path)
    assert not Manifest.read(out).complete


def test_resume_on_an_empty_folder_starts(data, finished, tmp_path):
    build.build(settings(data, tmp_path, resume=True))
    assert contents(tmp_path) == contents(finished)


@pytest.mark.parametrize("complete", [True, False])
def test_resume_builds_a_damaged_shard_again_and_removes_what_a_kill_left(data, finished, tmp_path, complete, capsys):
    for name, content in contents(finished).items():
        (tmp_path / name).write_bytes(content)
    dataclasses.replace(Manifest.read(tmp_path), complete=complete).write(tmp_path)
    damaged, gone, *_ = sorted(tmp_path.glob("*.tfrec"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    gone.unlink()
    (tmp_path / "train03-999.tfrec").write_bytes(b"not in the manifest")
    (tmp_path / "train99-1.tfrec").write_bytes(b"of another build: this one has 24 shards")
    (tmp_path / ".train04.tfrec.123.tmp").write_bytes(b"left by a kill")
    build.build(settings(data, tmp_path, resume=True))
    said = f"{tmp_path}: built again, as they do not match the manifest: 2 shards, first {damaged.name}\n"
    assert said in capsys.readouterr().out
    # A kill leaves a shard that is not listed only in a build that is not complete.
    assert (tmp_path / "train99-1.tfrec").exists()
    (tmp_path / "train99-1.tfrec").unlink()
    stray = {"train03-999.tfrec": b"not in the manifest"} if complete else {}
    assert contents(tmp_path) == contents(finished) | stray


def test_resume_of_another_build_names_what_differs(data, finished, tmp_path):
    with pytest.raises(build.BuildError, match=r"differences:\n  quality: 95 then, 90 now\n  seed: 0 then, 7 now"):
        build.build(settings(data, finished, resume=True, seed=7, quality=90))
    changed = tmp_path / "train.csv"
    changed.write_text((data / "train.csv").read_text().replace("torso", "head/neck", 1))
    with pytest.raises(build.BuildError, match=r"differences:\n  train input sha256: '[0-9a-f]{64}' then"):
        build.build(settings(data, finished, resume=True, csv=str(changed)))
    before = json.loads((finished / "manifest.json").read_text())
    del before["versions"]["converter"]  # as written before images were decoded in another way
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text(json.dumps(before))
    with pytest.raises(build.BuildError, match=r"differences:\n  converter: None then, '2' now"):
        build.build(settings(data, tmp_path / "out", resume=True))


def test_a_full_disk_is_a_clear_error_and_leaves_no_shard(data, tmp_path):
    """A limit on file size stands for the disk: the system refuses the write in a worker in the same way."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    done = subprocess.run(command(data, tmp_path / "out"), capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert "cannot write shard train" in done.stderr
    assert "File too large (" in done.stderr
    assert "MB free)" in done.stderr
    assert "Traceback" not in done.stderr
    assert [name for name in os.listdir(tmp_path / "out") if name.endswith((".tfrec", ".tmp"))] == []


def test_building_does_not_import_tensorflow_nor_keras(data, tmp_path):
    code = (
        "import sys; from tfrecord_tools import build, verify, synthetic; "
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'keras', 'melanoma_tf')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("module", ["build", "verify", "synthetic"])
def test_help_shows_the_usage_and_the_flags(module):
    done = subprocess.run([sys.executable, "-m", f"tfrecord_tools.{module}", "--help"], capture_output=True, text=True)
    assert f"python -m tfrecord_tools.{module}" in done.stdout
    assert {"build": "--[no]resume", "verify": "--[no]json", "synthetic": "--prevalence"}[module] in done.stdout


# --------------------------------------------------------------------------------- other forms


def test_a_table_in_another_form_is_built_by_a_column_map(data, finished, tmp_path):
    with (data / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "person", "bad"])
        writer.writerows([row["image_name"], row["patient_id"], row["target"]] for row in rows)
    columns = "image_name=file,patient_id=person,target=bad"
    plain = settings(data, tmp_path / "out", csv=str(tmp_path / "mine.csv"), columns=columns, source="mine")
    build.build(plain)
    before, after = records_of(finished), records_of(tmp_path / "out")
    assert {n: (r.patient, r.target, r.fold) for n, r in before.items()} == {
        n: (r.patient, r.target, r.fold) for n, r in after.items()
    }
    assert {r.source for r in after.values()} == {"mine"}
    assert {r.sex for r in after.values()} == {-1}
