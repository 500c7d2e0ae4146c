import json

import pytest

from tfrecord_tools.records.manifest import FoldTotals, Manifest
from tfrecord_tools.records.shards import Quarantined, ShardError, ShardResult


def entry(name, split, fold, records, positives, patients, *quarantined):
    return ShardResult(name, split, fold, records, positives, patients, 1000, "ab" * 32, quarantined)


SHARDS = (
    entry("train00-2.tfrec", "train", 0, 2, 1, 2, Quarantined("ISIC_1", "ISIC_1.jpg", "file is missing")),
    entry("test00-5.tfrec", "test", -1, 5, None, 4),
    entry("train01-3.tfrec", "train", 0, 3, 0, 1),
)
LOST = {"quarantined": [{"image_name": "", "file": "a.tfrec", "reason": "cut off"}], "lost_records": 7}


def test_a_manifest_reads_as_it_was_written(tmp_path):
    manifest = Manifest({"size": 32}, {"pillow": "1"}, {"train": {"rows": 3}}, SHARDS, True)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


def test_totals_are_those_of_the_shards():
    manifest = Manifest({}, {}, {"train": LOST}, SHARDS)
    assert manifest.folds == [FoldTotals("train", 0, 5, 1, 3, 2), FoldTotals("test", -1, 5, None, 4, 1)]
    assert manifest.lost == 7
    assert [each.reason for each in manifest.quarantined] == ["cut off", "file is missing"]


def test_a_folder_of_builds_names_them(tmp_path):
    (tmp_path / "256").mkdir()
    Manifest({}, {}, {}).write(tmp_path / "256")
    with pytest.raises(ShardError, match=r"expected the folder of a finished build; .* holds builds, .*: .*/256"):
        Manifest.read(tmp_path)


def test_warnings_are_those_of_all_inputs(tmp_path):
    manifest = Manifest({}, {}, {"train": {"warnings": ["a", "b"]}, "test": {"warnings": ["c"]}}, SHARDS)
    assert manifest.warnings == ["a", "b", "c"]
    Manifest({}, {}, {"train": {"warnings": 5}}, SHARDS).write(tmp_path)
    with pytest.raises(ShardError, match="not a manifest"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a manifest"),
        ('{"inputs":\n' + "[" * 200_000, r"not a manifest: nested more .*: line 2 column 100 \(char 110\); restore it"),
        ("[]", "not a manifest"),
        (json.dumps({"schema_version": 1}), "not a manifest"),
        (json.dumps({"schema_version": 99}), "schema_version 99; this version reads 1"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, content, message):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ShardError, match=rf"manifest\.json: {message}"):
        Manifest.read(tmp_path)
