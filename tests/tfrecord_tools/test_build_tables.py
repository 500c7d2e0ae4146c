"""Builds from tables of other sources: what their targets mean, and rows that leave it open."""

import json
import subprocess
import sys

import pytest

from tests.support.builds import contents, quarantined, records_of
from tests.support.images import flat_jpeg
from tests.support.tables import write_tables
from tfrecord_tools import build
from tfrecord_tools.builder.settings import BuildSettings
from tfrecord_tools.records.manifest import Manifest

pytestmark = pytest.mark.integration

EXPORT = "isic_id,patient_id,lesion_id,image_type,diagnosis_1,diagnosis_2,diagnosis_3"
LEVELS = (
    "Benign,Benign melanocytic proliferations,Nevus",
    "Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma in situ",
    "Malignant,Malignant soft tissue proliferations - Vascular,Kaposi sarcoma",
    "Malignant,Collision - At least one malignant proliferation,",
    "Indeterminate,,",
    ",,",
)


@pytest.fixture(name="export")
def fixture_export(tmp_path):
    """An export of the ISIC Archive: 24 images, 12 of them without a target."""
    lines = [f"ISIC_{at},IP_{at % 8},IL_{at},dermoscopic,{LEVELS[at % 6]}" for at in range(24)]
    (path,) = write_tables(tmp_path, "\n".join([EXPORT, *lines]))
    (tmp_path / "jpeg").mkdir()
    for at in range(24):
        (tmp_path / "jpeg" / f"ISIC_{at}.jpg").write_bytes(flat_jpeg(200, 100 + at, 90))
    return path


def settings(export, **changes):
    given = {"csv": str(export), "images": str(export.parent / "jpeg"), "out": str(export.parent / "out"), "folds": 2}
    return BuildSettings.of(**{"size": 32, "shards": 2, "workers": 1, **given, **changes})


def command(export, *more):
    where = [f"--csv={export}", f"--images={export.parent / 'jpeg'}", f"--out={export.parent / 'out'}"]
    args = ["-m", "tfrecord_tools.build", "--size=32", "--folds=2", "--shards=2", "--workers=1", *where, *more]
    return subprocess.run([sys.executable, *args], capture_output=True, text=True)


def test_undecided_rows_are_left_out_and_listed(export):
    done = command(export)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 12 images or rows could not be used, see ")
    assert done.stderr.endswith("build again with --overwrite, or pass --allow_quarantine\n")
    assert "form isic_archive; target: 1 = melanoma, by its diagnosis (diagnosis_1 to diagnosis_3)" in done.stdout
    out = export.parent / "out"
    records = records_of(out)
    assert {name: record.target for name, record in records.items()} == {
        f"ISIC_{at}": int(at % 6 == 1) for at in range(24) if at % 6 < 3
    }
    reasons = quarantined(out)
    assert len(reasons) == 12
    assert reasons["ISIC_3"].startswith(
        "line 5: column diagnosis_1: 'Collision - At least one malignant proliferation' "
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["inputs"]["train"]["target_rule"] == "1 = melanoma, by its diagnosis (diagnosis_1 to diagnosis_3)"
    before = contents(out)
    done = command(export, "--resume", "--allow_quarantine")
    assert (done.returncode, done.stderr, contents(out)) == (0, "", before)


def test_an_image_of_an_undecided_row_needs_not_exist(export):
    (export.parent / "jpeg" / "ISIC_3.jpg").unlink()
    (export.parent / "jpeg" / "ISIC_1.jpg").write_bytes(b"damaged")
    manifest = build.build(settings(export))
    assert len(manifest.quarantined) == 13
    assert [image.image_name for image in manifest.quarantined if "JPEG" in image.reason] == ["ISIC_1"]


def test_a_test_set_keeps_all_rows(export):
    manifest = build.build(settings(export, split="test"))
    assert (sum(result.records for result in manifest.shards), manifest.quarantined) == (24, [])
    assert "target_rule" not in manifest.inputs["test"]


def test_shards_with_a_table_leave_out_its_undecided_rows(export):
    build.build(settings(export, split="test", out=str(export.parent / "old")))
    manifest = build.build(settings(export, images=None, from_tfrecords=str(export.parent / "old" / "*.tfrec")))
    assert sum(result.records for result in manifest.shards) == 12
    assert [image.file for image in manifest.quarantined] == [export.name] * 12
    assert Manifest.read(export.parent / "out").quarantined == manifest.quarantined


def test_a_table_whose_labels_are_not_read_becomes_no_test_set(export):
    (path,) = write_tables(export.parent, export.read_text().replace("diagnosis_1", "iddx_1"))
    for changes in ({"form": "isic_archive"}, {"columns": "image_name=isic_id,diagnosis="}):
        with pytest.raises(build.table.TableError, match=r"column\(s\) iddx_1"):
            build.build(settings(path, **changes))
    assert not (export.parent / "out").exists()
