"""Published metadata tables: their columns in terms of ours. The meaning of their words is in `words`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

# Our columns, as a column map names them.
COLUMNS = (
    "image_name",
    "patient_id",
    "lesion_id",
    "sex",
    "age_approx",
    "anatom_site_general_challenge",
    "diagnosis",
    "benign_malignant",
    "target",
    "image_type",
)
LABELS = ("target", "diagnosis", "benign_malignant")  # a table with any of these is labelled
ARCHIVE_LEVELS = tuple(
    f"diagnosis_{level}" for level in range(1, 6)
)  # of the ISIC Archive's hierarchy, general to exact
ISIC2024_LEVELS = tuple(f"iddx_{level}" for level in range(1, 6))
ISIC2024_MARK = "tbp_lv_A"  # a column of no other table
_SITES = tuple(f"anatom_site_{level}" for level in range(1, 6))
_CLASSES_2018 = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
_CLASSES_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
_CLASSES_MILK = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")


@dataclasses.dataclass(frozen=True)
class Form:
    """A published table: its columns, its words and its use.

    Attributes:
      name: Its name, a value of --form.
      title: Its description.
      source: Name of the data set, for its records.
      required: Our column -> its column, all of which the header has.
      optional: Our column -> its column, used if the header has it.
      meaning: What its own label means, for the documentation; "" without labels.
      classes: One-hot columns in place of a diagnosis.
      more_classes: Further ones, which not all copies have.
      rest: Class of a row in which no class is marked.
      levels: Columns of the levels of a diagnosis, used where no diagnosis is given.
      sites: Columns of the levels of a site, used where no site is given.
      marks: Further columns that only its header has.
      forbidden: Columns of another table, with another meaning.
      target_words: Values of its target column, beside numbers.
      header: Names for the columns of a file without a header.
      words: The source of its words, see `words`.
      external: Not the evaluated data set, so for training only.
      has_patients: Every labelled image must have a patient.
      modality: The image_type of the images that are built unless others are asked for.
    """

    name: str
    title: str
    source: str
    required: Mapping[str, str]
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)
    meaning: str = ""
    classes: tuple[str, ...] = ()
    more_classes: tuple[str, ...] = ()
    rest: str | None = None
    levels: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    target_words: Mapping[str, int] = dataclasses.field(default_factory=dict)
    header: tuple[str, ...] = ()
    words: str = "isic_archive"
    external: bool = True
    has_patients: bool = False
    modality: str = "dermoscopic"

    def columns(self, header: Iterable[str]) -> dict[str, str]:
        """Returns {our column: its column} of the columns in the header."""
        have = set(header)
        return {ours: theirs for ours, theirs in {**self.optional, **self.required}.items() if theirs in have}

    @property
    def known(self) -> set[str]:
        """All columns that it reads."""
        lists = (self.classes, self.more_classes, self.levels, self.sites)
        return {*self.required.values(), *self.optional.values(), *(column for each in lists for column in each)}

    @property
    def label_columns(self) -> set[str]:
        """The columns that it reads labels from."""
        named = {**self.optional, **self.required}
        return {named[ours] for ours in LABELS if ours in named} | {*self.classes, *self.levels}

    def missing(self, header: Iterable[str]) -> list[str]:
        """Returns its required columns that the header lacks."""
        have = set(header)
        return [column for column in (*self.required.values(), *self.classes, *self.marks) if column not in have]

    def refused(self, header: Sequence[str]) -> list[str]:
        """Returns the columns of the header that a table of this form does not have."""
        return [column for column in self.forbidden if column in header]

    def is_labelled(self, header: Sequence[str]) -> bool:
        """Whether a table with this header has labels."""
        return any(column in header for column in self.label_columns)

    def rule(self, header: Sequence[str]) -> str:
        """Returns where the targets of a table with this header come from, as a clause."""
        at = self.columns(header)
        if "target" in at:
            return f"1 = melanoma, as its column {at['target']} says"
        if self.classes:
            return f"1 = melanoma, by its columns {self.classes[0]} to {self.classes[-1]}"
        levels = [level for level in self.levels if level in header]
        names = [at["diagnosis"]] if "diagnosis" in at else []
        names += [f"{levels[0]} to {levels[-1]}" if len(levels) > 1 else levels[0]] if levels else []
        verdict = at.get("benign_malignant")
        if not names:
            return f"0 where its column {verdict} says benign; a malignancy may be another than a melanoma"
        also = f"; its column {verdict} means any malignancy, and counts where that leaves it open" if verdict else ""
        return f"1 = melanoma, by its diagnosis ({' or '.join(names)}){also}"


def _same(*columns: str) -> dict[str, str]:
    return {column: column for column in columns}


_META: Final = {"age_approx": "age_approx", "anatom_site_general_challenge": "anatom_site_general", "sex": "sex"}
_MILK: Final = {"image_name": "isic_id", "lesion_id": "lesion_id", "image_type": "image_type"}
_MILK_META: Final = {"age_approx": "age_approx", "anatom_site_general_challenge": "site", "sex": "sex"}
_MELANOMA = "melanoma or not"
_DIAGNOSIS = "the diagnosis"

# The first match is used, so the forms with more required columns come before those that they include.
FORMS: Final = (
    Form(
        name="isic2020",
        title="ISIC 2020: Kaggle's train.csv and test.csv, the ISIC site's Training_GroundTruth",
        source="isic2020",
        required=_same("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"),
        optional=_same("lesion_id", "diagnosis", "benign_malignant", "target"),
        meaning=_MELANOMA,
        words="isic2020",
        external=False,
        has_patients=True,
    ),
    Form(
        name="isic2020_test",
        title="ISIC 2020: the ISIC site's Test_Metadata",
        source="isic2020",
        required={"image_name": "image", "patient_id": "patient", **_META},
        words="isic2020",
        external=False,
    ),
    Form(
        name="isic2019",
        title="ISIC 2019: GroundTruth and Metadata of Training or Test, both files together",
        source="isic2019",
        required={"image_name": "image", **_META},
        optional=_same("lesion_id"),
        meaning=_DIAGNOSIS,
        classes=_CLASSES_2019,
        more_classes=("UNK",),
        words="isic2019",
    ),
    Form(
        name="isic2019_test",
        title="ISIC 2019: Test_Metadata, without labels",
        source="isic2019",
        required={"image_name": "image", **_META},
        forbidden=(*_CLASSES_2019, "lesion_id"),  # a column of Training_Metadata, which is not a test set
    ),
    Form(
        name="isic2018",
        title="ISIC 2018 task 3: GroundTruth, together with LesionGroupings where there is one",
        source="isic2018",
        required={"image_name": "image"},
        optional=_same("lesion_id"),
        meaning=_DIAGNOSIS,
        classes=_CLASSES_2018,
        words="isic2018",
    ),
    Form(
        name="isic2017",
        title="ISIC 2017 part 3: GroundTruth, together with Data_metadata where there is one",
        source="isic2017",
        required={"image_name": "image_id"},
        optional={"age_approx": "age_approximate", "sex": "sex"},
        meaning="melanoma, seborrheic keratosis, or neither: nevus",
        classes=("melanoma", "seborrheic_keratosis"),
        rest="nevus",
        words="isic2017",
    ),
    Form(
        name="isic2017_test",
        title="ISIC 2017: Data_metadata, without labels",
        source="isic2017",
        required={"image_name": "image_id", "age_approx": "age_approximate", "sex": "sex"},
        words="isic2017",
    ),
    Form(
        name="isic2016",
        title="ISIC 2016 part 3: GroundTruth, two columns without a header",
        source="isic2016",
        required={"image_name": "image", "target": "class"},
        meaning="malignant, which the challenge defines as melanoma",
        target_words={"benign": 0, "malignant": 1},
        header=("image", "class"),
    ),
    Form(
        name="isic2024",
        title="ISIC 2024 (SLICE-3D): Kaggle's train-metadata.csv",
        source="isic2024",
        required={"image_name": "isic_id", "benign_malignant": "target", "diagnosis": "iddx_full"},
        optional={**_same("patient_id", "lesion_id", "image_type"), **_META},
        meaning="any malignancy, also basal and squamous cell carcinomas",
        levels=ISIC2024_LEVELS,
        modality="TBP tile",
    ),
    Form(
        name="isic2024_test",
        title="ISIC 2024 (SLICE-3D): Kaggle's test-metadata.csv",
        source="isic2024",
        required={"image_name": "isic_id", "image_type": "image_type"},
        optional={**_same("patient_id"), **_META},
        marks=(ISIC2024_MARK,),
        forbidden=("target", "iddx_full"),
        modality="TBP tile",
    ),
    Form(
        name="ham10000",
        title="HAM10000: HAM10000_metadata, as CSV or Dataverse's .tab",
        source="ham10000",
        required={
            "image_name": "image_id",
            "lesion_id": "lesion_id",
            "diagnosis": "dx",
            "age_approx": "age",
            "sex": "sex",
            "anatom_site_general_challenge": "localization",
        },
        meaning=_DIAGNOSIS,
        words="ham10000",
    ),
    Form(
        name="bcn20000",
        title="BCN20000: figshare's edition, labelled or not",
        source="bcn20000",
        required={"image_name": "bcn_filename"},
        optional={**_same("lesion_id", "diagnosis"), **_META},
        meaning=_DIAGNOSIS,
        words="bcn20000",
    ),
    Form(
        name="milk10k",
        title="MILK10k: Training_GroundTruth and Training_Metadata, both files together",
        source="milk10k",
        required=_MILK,
        optional=_MILK_META,
        meaning=_DIAGNOSIS,
        classes=_CLASSES_MILK,
        words="milk10k",
    ),
    Form(
        name="milk10k_test",
        title="MILK10k: Test_Metadata, without labels",
        source="milk10k",
        required={**_MILK, "anatom_site_general_challenge": "site"},
        optional=_MILK_META,
        words="milk10k",
    ),
    Form(
        name="pad_ufes_20",
        title="PAD-UFES-20: metadata.csv",
        source="pad_ufes_20",
        required={
            "image_name": "img_id",
            "patient_id": "patient_id",
            "lesion_id": "lesion_id",
            "diagnosis": "diagnostic",
            "age_approx": "age",
            "sex": "gender",
            "anatom_site_general_challenge": "region",
        },
        meaning=_DIAGNOSIS,
        words="pad_ufes_20",
    ),
    Form(
        name="ddi",
        title="DDI: ddi_metadata.csv",
        source="ddi",
        required={"image_name": "DDI_file", "diagnosis": "disease", "benign_malignant": "malignant"},
        meaning="any malignancy (malignant), and a disease",
        words="ddi",
    ),
    Form(
        name="ph2",
        title="PH2: PH2_dataset.xlsx, saved as CSV",
        source="ph2",
        required={"image_name": "Image Name"},
        meaning=_DIAGNOSIS,
        classes=("Common Nevus", "Atypical Nevus", "Melanoma"),
        words="ph2",
    ),
    Form(
        name="isic_archive",
        title="ISIC Archive: an export of its site, or of isic-cli's `isic metadata download`",
        source="isic_archive",
        required={"image_name": "isic_id"},
        optional={**_same("patient_id", "lesion_id", "diagnosis", "benign_malignant", "image_type"), **_META},
        meaning="the diagnosis, general to exact",
        levels=ARCHIVE_LEVELS,
        sites=_SITES,
        forbidden=("target", "iddx_full", *ISIC2024_LEVELS),  # in ISIC 2024 target means any malignancy
    ),
    Form(
        name="isic_archive_labels",
        title="ISIC Archive: a label file by image_name, without patients",
        source="isic_archive",
        required=_same("image_name", "benign_malignant", "diagnosis", "sex", "age_approx"),
        optional={**_same("lesion_id", "image_type"), **_META},
        meaning="the diagnosis, and any malignancy (benign_malignant)",
        forbidden=("target", "patient_id", "anatom_site_general_challenge"),  # a Kaggle table that lost a column
    ),
)
