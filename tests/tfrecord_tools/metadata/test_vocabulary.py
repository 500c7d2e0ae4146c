import re

import pytest

from tests.support.process import REPOSITORY
from tfrecord_tools import schema
from tfrecord_tools.metadata import vocabulary

# LegacyDxEnum of isic-metadata 4.12, what the archive's `diagnosis` may be.
ARCHIVE = (
    "actinic keratosis|adnexal tumor|AIMP|angiokeratoma|angioma|basal cell carcinoma|cafe-au-lait macule|"
    "dermatofibroma|ephelis|lentigo NOS|lentigo simplex|lichenoid keratosis|melanoma|melanoma metastasis|"
    "merkel cell carcinoma|mucosal melanosis|nevus|nevus spilus|seborrheic keratosis|solar lentigo|"
    "squamous cell carcinoma|clear cell acanthoma|atypical spitz tumor|acrochordon|angiofibroma or fibrous papule|"
    "neurofibroma|pyogenic granuloma|scar|sebaceous adenoma|sebaceous hyperplasia|verruca|"
    "atypical melanocytic proliferation|epidermal nevus|pigmented benign keratosis|vascular lesion|other"
)


@pytest.mark.parametrize("word", ARCHIVE.split("|"))
def test_every_diagnosis_of_the_archive_has_a_meaning(word):
    code = vocabulary.diagnosis_code("isic_archive", word)
    assert vocabulary.target_of(word, code, "") == (
        -1 if word in ("other", "adnexal tumor") else int("melanoma" in word)
    )


def test_words_of_kaggle_are_exact_and_others_are_not():
    assert vocabulary.diagnosis_code("isic_archive", "Nevus") == 1
    with pytest.raises(ValueError, match="one of unknown, nevus"):
        vocabulary.diagnosis_code("isic2020", "Nevus")


def test_a_word_of_any_source_means_the_same_in_a_column_map():
    for source in ("isic2019", "ham10000", "isic_archive"):
        for word in re.findall(rf"^\| {source} \| (.*?) \|", vocabulary.mapping_markdown(), re.MULTILINE):
            for code in (vocabulary.sex_code, vocabulary.site_code, vocabulary.diagnosis_code):
                try:
                    meaning = code(source, word)
                except ValueError:
                    continue
                assert code(vocabulary.COLUMN_MAP, word) == meaning


@pytest.mark.parametrize(
    ("word", "verdict", "target"),
    [
        ("melanoma", "malignant", 1),
        ("melanoma", "", 1),
        ("basal cell carcinoma", "malignant", 0),  # malignant, yet no melanoma
        ("actinic keratosis", "indeterminate", 0),
        ("nevus", "", 0),
        ("", "benign", 0),
        ("", "malignant", -1),
        ("other", "malignant", -1),
        ("", "", -1),
        ("Malignant", "", -1),
    ],
)
def test_the_target_is_melanoma(word, verdict, target):
    assert vocabulary.target_of(word, vocabulary.diagnosis_code("isic_archive", word), verdict) == target


def test_the_most_exact_level_that_is_known_counts():
    melanoma = "Malignant melanocytic proliferations (Melanoma)"
    assert (
        vocabulary.deepest_level(["Malignant", melanoma, "Melanoma Invasive", "Melanoma Invasive, Nodular", ""])
        == melanoma
    )
    assert vocabulary.deepest_level(["", "", "", "", ""]) == ""
    assert vocabulary.deepest_level(["Odd", "Odder"]) == "Odd"


def test_the_first_codes_are_those_of_isic_2020():
    assert schema.DIAGNOSIS[:9] == (
        *("unknown", "nevus", "melanoma", "seborrheic keratosis", "lentigo NOS", "lichenoid keratosis"),
        *("solar lentigo", "cafe-au-lait macule", "atypical melanocytic proliferation"),
    )


def test_the_mapping_lists_source_word_code_and_target():
    text = vocabulary.mapping_markdown()
    assert "| ham10000 | mel | melanoma | 2 | 1 |" in text
    assert "| isic2019 | BCC | basal cell carcinoma | 9 | 0 |" in text
    assert "| isic_archive | adnexal tumor | unknown | 0 | by benign_malignant |" in text
    assert "| ham10000 | scalp | head/neck | 0 |\n" in text
    assert "| ham10000 | unknown | (missing) | -1 |\n" in text


def test_the_vocabulary_lists_the_words_behind_each_code():
    *_, last = vocabulary.vocabulary_markdown().splitlines()
    assert last == "| 17 | other malignant | merkel cell carcinoma; Malignant |"
    assert "| 2 | melanoma | MEL; mel; melanoma metastasis; Malignant" in vocabulary.vocabulary_markdown()


def test_the_documentation_lists_the_mapping():
    folder = REPOSITORY / "docs" / "data"
    assert vocabulary.vocabulary_markdown() in (folder / "records.md").read_text(encoding="utf-8")
    assert vocabulary.mapping_markdown() in (folder / "sources.md").read_text(encoding="utf-8")
