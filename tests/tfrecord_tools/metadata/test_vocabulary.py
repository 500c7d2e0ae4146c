import pytest

from tests.support.process import REPOSITORY
from tfrecord_tools import schema
from tfrecord_tools.metadata import markdown, vocabulary
from tfrecord_tools.metadata.words import DIAGNOSIS_WORDS, SEX_WORDS, SITE_WORDS


def test_words_of_kaggle_are_exact_and_others_are_not():
    assert vocabulary.diagnosis_code("isic_archive", "Nevus") == 1
    with pytest.raises(ValueError, match="one of unknown, nevus"):
        vocabulary.diagnosis_code("isic2020", "Nevus")


def test_a_word_of_any_source_means_the_same_in_a_column_map():
    tables = (
        (SEX_WORDS, vocabulary.sex_code),
        (SITE_WORDS, vocabulary.site_code),
        (DIAGNOSIS_WORDS, vocabulary.diagnosis_code),
    )
    for published, code in tables:
        for source, words in published.items():
            for word in words:
                assert code(vocabulary.COLUMN_MAP, word) == code(source, word), (source, word)


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
    text = markdown.mapping_markdown()
    assert "| ham10000 | mel | melanoma | 2 | 1 |" in text
    assert "| isic2019 | BCC | basal cell carcinoma | 9 | 0 |" in text
    assert "| isic_archive | adnexal tumor | unknown | 0 | by benign_malignant |" in text
    assert "| ham10000 | scalp | head/neck | 0 |\n" in text
    assert "| ham10000 | unknown | (missing) | -1 |\n" in text


def test_the_vocabulary_lists_the_words_behind_each_code():
    *_, last = markdown.vocabulary_markdown().splitlines()
    assert last.startswith("| 17 | other malignant | MAL_OTH; merkel cell carcinoma; Malignant; Lymphocytic")
    assert "| 2 | melanoma | MEL; mel; Melanoma; melanoma-in-situ; " in markdown.vocabulary_markdown()


def test_the_documentation_lists_the_mapping():
    folder = REPOSITORY / "docs" / "data"
    assert markdown.vocabulary_markdown() in (folder / "records.md").read_text(encoding="utf-8")
    sources = (folder / "sources.md").read_text(encoding="utf-8")
    assert markdown.forms_markdown() in sources
    assert markdown.mapping_markdown() in sources
