"""Every word that the ISIC Archive may publish has a stated answer, held to the archive's own package."""

import pytest

from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.schema import DIAGNOSIS, SITE

isic_metadata = pytest.importorskip("isic_metadata", reason="isic-metadata is in the dev extra: make setup")
fields = pytest.importorskip("isic_metadata.fields")

COLLISION = "Malignant:Collision - At least one malignant proliferation"
# Too little is said: none of these names a tumor.
UNDECIDED = {"Malignant", "Indeterminate", "Indeterminate:Indeterminate epidermal proliferations", COLLISION}
MALIGNANT = {"basal cell carcinoma", "squamous cell carcinoma", "other malignant"}
INDETERMINATE = {"actinic keratosis", "atypical melanocytic proliferation"}


def answer(path: str) -> tuple[str, int]:
    word = vocabulary.deepest_level(path.split(":"))
    code = vocabulary.diagnosis_code("isic_archive", word)
    return DIAGNOSIS[code], vocabulary.target_of(word, code, "")


@pytest.mark.parametrize("kind", ["Benign", "Indeterminate", "Malignant"])
def test_every_diagnosis_path_has_the_answer_that_the_archive_implies(kind):
    paths = [each.value for each in fields.DiagnosisEnum if each.value.startswith(kind)]
    for path in set(paths) - UNDECIDED:
        diagnosis, target = answer(path)
        assert target == int(fields.DiagnosisEnum.is_melanoma(path)), path
        assert (diagnosis == "melanoma") == (target == 1), path
        if not target:
            assert (diagnosis in MALIGNANT) == (kind == "Malignant"), path
            assert (diagnosis in INDETERMINATE) == (kind == "Indeterminate"), path


def test_a_path_that_says_too_little_has_no_target():
    assert {each.value for each in fields.DiagnosisEnum if answer(each.value)[1] == -1} == UNDECIDED


def test_the_answers_are_all_there():
    targets = [answer(each.value)[1] for each in fields.DiagnosisEnum]
    assert len(targets) >= 418  # of 4.12
    melanomas = sum(map(fields.DiagnosisEnum.is_melanoma, fields.DiagnosisEnum)) - 1  # the collision
    assert (targets.count(1), targets.count(-1)) == (melanomas, len(UNDECIDED))


@pytest.mark.parametrize("word", [each.value for each in fields.LegacyDxEnum])
def test_every_legacy_diagnosis_has_a_meaning(word):
    code = vocabulary.diagnosis_code("isic_archive", word)
    expected = -1 if word in ("other", "adnexal tumor") else int("melanoma" in word)
    assert vocabulary.target_of(word, code, "") == expected


def test_every_site_of_an_export_has_a_code():
    for each in fields.AnatomSiteGeneralEnum:
        assert vocabulary.site_code("isic_archive", each.value) >= 0


def test_every_site_path_has_a_code():
    regions = {
        "Head and neck": "head/neck",
        "Trunk": "torso",
        "Upper extremity": "upper extremity",
        "Lower extremity": "lower extremity",
        "Anogenital region": "oral/genital",
    }
    parts = {"Mouth": "oral/genital", "Palm of hand": "palms/soles", "Sole of foot": "palms/soles"}
    for each in fields.AnatomSiteEnum:
        first, *below = each.value.split(":")
        expected = next((parts[part] for part in below if part in parts), regions[first])
        code = vocabulary.site_code("isic_archive", vocabulary.deepest_site([first, *below]))
        assert SITE[code] == expected, each.value
