"""Words of the published tables, by source, in terms of the vocabularies of `schema`.

Word as published -> word of the vocabulary, "" for missing. Case is ignored, except in ISIC 2020. A source without
words of its own uses those of the ISIC Archive. A word means the same in all sources, because a table with a column map
may have those of any. docs/data/sources.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tfrecord_tools.schema import DIAGNOSIS, SEX, SITE

Words = Mapping[str, Mapping[str, str]]

_BOTH_SEXES: Final = {**{word: word for word in SEX}, "unknown": ""}
SEX_WORDS: Final[Words] = {
    "isic2020": {word: word for word in SEX},
    "isic2019": _BOTH_SEXES,
    "ham10000": _BOTH_SEXES,
    "isic_archive": _BOTH_SEXES,
}

# ISIC 2019 and the ISIC Archive divide the torso.
_DIVIDED_TORSO: Final = {
    **{word: word for word in SITE},
    **dict.fromkeys(("anterior torso", "posterior torso", "lateral torso"), "torso"),
}
SITE_WORDS: Final[Words] = {
    "isic2020": {word: word for word in SITE},
    "isic2019": _DIVIDED_TORSO,
    "isic_archive": {
        **_DIVIDED_TORSO,
        # `anatom_site_1` to `anatom_site_5` (AnatomSiteEnum): the deepest level in this table counts.
        "Head and neck": "head/neck",
        "Mouth": "oral/genital",
        "Trunk": "torso",
        "Palm of hand": "palms/soles",
        "Sole of foot": "palms/soles",
        "Anogenital region": "oral/genital",
    },
    # As ISIC 2019 maps the same images, except trunk and genital, which it leaves empty.
    "ham10000": {
        "scalp": "head/neck",
        "face": "head/neck",
        "ear": "head/neck",
        "neck": "head/neck",
        "upper extremity": "upper extremity",
        "hand": "upper extremity",
        "lower extremity": "lower extremity",
        "foot": "lower extremity",
        "trunk": "torso",
        "chest": "torso",
        "abdomen": "torso",
        "back": "torso",
        "acral": "palms/soles",
        "genital": "oral/genital",
        "unknown": "",
    },
    # Hand and foot as in HAM10000, whose authors published both.
    "milk10k": {
        "head_neck_face": "head/neck",
        "upper_extremity": "upper extremity",
        "hand": "upper extremity",
        "lower_extremity": "lower extremity",
        "foot": "lower extremity",
        "trunk": "torso",
        "genital": "oral/genital",
    },
    # https://doi.org/10.1016/j.dib.2020.106221; in capitals there.
    "pad_ufes_20": {
        **dict.fromkeys(("scalp", "face", "ear", "nose", "lip", "neck"), "head/neck"),
        **dict.fromkeys(("arm", "forearm", "hand"), "upper extremity"),
        **dict.fromkeys(("thigh", "foot"), "lower extremity"),
        **dict.fromkeys(("chest", "abdomen", "back"), "torso"),
    },
}

# The archive's categories of malignancies other than melanoma: one of them says that it is none, even without the name
# of the tumor. "Collision - At least one malignant proliferation" may hold one.
_OTHER_MALIGNANT: Final = (
    "Lymphocytic proliferations - B-Cell",
    "Lymphocytic proliferations - T-Cell/NK",
    "Malignant adnexal epithelial proliferations - Apocrine or Eccrine",
    "Malignant adnexal epithelial proliferations - Follicular",
    "Malignant adnexal epithelial proliferations - Sebaceous",
    "Malignant epidermal proliferations",
    "Malignant soft tissue proliferations - Adipocytic",
    "Malignant soft tissue proliferations - Cartilagenous and ossifying",
    "Malignant soft tissue proliferations - Fibro-histiocytic",
    "Malignant soft tissue proliferations - Muscle tissue or myofibroblastic",
    "Malignant soft tissue proliferations - Myoepithelial",
    "Malignant soft tissue proliferations - Neural",
    "Malignant soft tissue proliferations - Unknown or other histiogenesis",
    "Malignant soft tissue proliferations - Vascular",
    "Merkel cell proliferation",
    "Skin metastasis of internal solid cancer - non-hematological",
)
_ISIC2019: Final = {
    "MEL": "melanoma",
    "NV": "nevus",
    "BCC": "basal cell carcinoma",
    "AK": "actinic keratosis",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
    "SCC": "squamous cell carcinoma",
    "UNK": "unknown",
}
DIAGNOSIS_WORDS: Final[Words] = {
    "isic2020": {word: word for word in DIAGNOSIS},
    # https://challenge.isic-archive.com/landing/2017/44: nevus where both columns are 0
    "isic2017": {"melanoma": "melanoma", "seborrheic_keratosis": "seborrheic keratosis", "nevus": "nevus"},
    # https://challenge.isic-archive.com/landing/2018/47
    "isic2018": {
        "MEL": "melanoma",
        "NV": "nevus",
        "BCC": "basal cell carcinoma",
        "AKIEC": "actinic keratosis or intraepithelial carcinoma",
        "BKL": "benign keratosis",
        "DF": "dermatofibroma",
        "VASC": "vascular lesion",
    },
    # https://challenge.isic-archive.com/landing/2019/
    "isic2019": _ISIC2019,
    "bcn20000": {word: meaning for word, meaning in _ISIC2019.items() if word != "UNK"},
    # Tschandl et al. 2018, https://doi.org/10.1038/sdata.2018.161. Of the 327 akiec, ISIC 2019 has 130 as AK and 197
    # as SCC.
    "ham10000": {
        "akiec": "actinic keratosis or intraepithelial carcinoma",
        "bcc": "basal cell carcinoma",
        "bkl": "benign keratosis",
        "df": "dermatofibroma",
        "mel": "melanoma",
        "nv": "nevus",
        "vasc": "vascular lesion",
    },
    # https://challenge.isic-archive.com/landing/milk10k
    "milk10k": {
        "AKIEC": "actinic keratosis or intraepithelial carcinoma",
        "BCC": "basal cell carcinoma",
        "BEN_OTH": "other benign",
        "BKL": "benign keratosis",
        "DF": "dermatofibroma",
        "INF": "other benign",
        "MAL_OTH": "other malignant",
        "MEL": "melanoma",
        "NV": "nevus",
        "SCCKA": "squamous cell carcinoma",
        "VASC": "vascular lesion",
    },
    # https://doi.org/10.17632/zr7vgbcyr2.1; SCC includes Bowen's disease
    "pad_ufes_20": {
        "ACK": "actinic keratosis",
        "BCC": "basal cell carcinoma",
        "MEL": "melanoma",
        "NEV": "nevus",
        "SCC": "squamous cell carcinoma",
        "SEK": "seborrheic keratosis",
    },
    # https://www.fc.up.pt/addi/ph2%20database.html
    "ph2": {"Common Nevus": "nevus", "Atypical Nevus": "nevus", "Melanoma": "melanoma"},
    # https://ddi-dataset.github.io: other words become other benign or other malignant, as its `malignant` says.
    "ddi": {
        **dict.fromkeys(
            ("melanoma", "melanoma-in-situ", "melanoma-acral-lentiginous", "nodular-melanoma-(nm)"), "melanoma"
        ),
        **dict.fromkeys(
            (
                *("melanocytic-nevi", "dysplastic-nevus", "blue-nevus"),
                *("pigmented-spindle-cell-nevus-of-reed", "atypical-spindle-cell-nevus-of-reed"),
            ),
            "nevus",
        ),
        **dict.fromkeys(
            ("basal-cell-carcinoma", "basal-cell-carcinoma-superficial", "basal-cell-carcinoma-nodular"),
            "basal cell carcinoma",
        ),
        **dict.fromkeys(
            (
                *("squamous-cell-carcinoma", "squamous-cell-carcinoma-in-situ"),
                "squamous-cell-carcinoma-keratoacanthoma",
            ),
            "squamous cell carcinoma",
        ),
        **dict.fromkeys(("seborrheic-keratosis", "seborrheic-keratosis-irritated"), "seborrheic keratosis"),
        "actinic-keratosis": "actinic keratosis",
        "benign-keratosis": "benign keratosis",
        "lichenoid-keratosis": "lichenoid keratosis",
        "solar-lentigo": "solar lentigo",
        "dermatofibroma": "dermatofibroma",
        **dict.fromkeys(("angioma", "arteriovenous-hemangioma", "pyogenic-granuloma"), "vascular lesion"),
    },
    # The archive's `diagnosis` (LegacyDxEnum of isic-metadata 4.12) ...
    "isic_archive": {
        "unknown": "unknown",
        "other": "unknown",
        "adnexal tumor": "unknown",  # may be benign or malignant
        "nevus": "nevus",
        "nevus spilus": "nevus",
        "melanoma": "melanoma",
        "melanoma metastasis": "melanoma",
        "seborrheic keratosis": "seborrheic keratosis",
        "lentigo NOS": "lentigo NOS",
        "lentigo simplex": "lentigo NOS",
        "lichenoid keratosis": "lichenoid keratosis",
        "solar lentigo": "solar lentigo",
        "cafe-au-lait macule": "cafe-au-lait macule",
        "atypical melanocytic proliferation": "atypical melanocytic proliferation",
        "AIMP": "atypical melanocytic proliferation",
        "atypical spitz tumor": "atypical melanocytic proliferation",
        "basal cell carcinoma": "basal cell carcinoma",
        "squamous cell carcinoma": "squamous cell carcinoma",
        "actinic keratosis": "actinic keratosis",
        "pigmented benign keratosis": "benign keratosis",
        "dermatofibroma": "dermatofibroma",
        "vascular lesion": "vascular lesion",
        "angioma": "vascular lesion",
        "angiokeratoma": "vascular lesion",
        "pyogenic granuloma": "vascular lesion",
        "acrochordon": "other benign",
        "angiofibroma or fibrous papule": "other benign",
        "clear cell acanthoma": "other benign",
        "ephelis": "other benign",
        "epidermal nevus": "other benign",
        "mucosal melanosis": "other benign",
        "neurofibroma": "other benign",
        "scar": "other benign",
        "sebaceous adenoma": "other benign",
        "sebaceous hyperplasia": "other benign",
        "verruca": "other benign",
        "merkel cell carcinoma": "other malignant",
        # ... and its `diagnosis_1` to `diagnosis_5` (DiagnosisEnum): the deepest level in this table counts.
        "Benign": "other benign",
        "Indeterminate": "unknown",
        "Malignant": "other malignant",
        **dict.fromkeys(_OTHER_MALIGNANT, "other malignant"),
        "Collision - At least one malignant proliferation": "unknown",
        "Benign soft tissue proliferations - Vascular": "vascular lesion",
        "Hemorrhagic lesions": "vascular lesion",  # as HAM10000's vasc
        "Indeterminate melanocytic proliferations": "atypical melanocytic proliferation",
        "Malignant melanocytic proliferations (Melanoma)": "melanoma",
        "Lichen planus like keratosis": "lichenoid keratosis",
        "Cafe au lait macule or patch": "cafe-au-lait macule",
        "Solar or actinic keratosis": "actinic keratosis",
        "Solar or actinic cheilitis": "actinic keratosis",  # that of the lip
        "Keratoacanthoma": "squamous cell carcinoma",  # as in MILK10k
        "Squamous cell carcinoma in situ": "squamous cell carcinoma",
        "Squamous cell carcinoma, Invasive": "squamous cell carcinoma",
        "Squamous cell carcinoma, NOS": "squamous cell carcinoma",
    },
}
