"""Tables of other data sets as they are published: a few lines of each, made up."""

import pytest

from tests.support.tables import rows_of, write_tables
from tfrecord_tools import schema
from tfrecord_tools.metadata import formats, table

MILK_TRUTH = "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC"
MILK_META = (
    "lesion_id,image_type,isic_id,attribution,copyright_license,image_manipulation,age_approx,sex,skin_tone_class,site,"
    "MONET_ulceration_crust"
)
PAD = (
    "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,skin_cancer_history,"
    "cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,diameter_1,diameter_2,diagnostic,itch,grew,"
    "hurt,changed,bleed,elevation,img_id,biopsed"
)
SLICE = (
    "isic_id,target,patient_id,age_approx,sex,anatom_site_general,clin_size_long_diam_mm,image_type,tbp_tile_type,"
    "tbp_lv_A,attribution,copyright_license,lesion_id,iddx_full,iddx_1,iddx_2,iddx_3,iddx_4,iddx_5,mel_mitotic_index"
)
MELANOMA = "Malignant melanocytic proliferations (Melanoma)"


def slice_3d(name: str, target: int, *levels: str) -> str:
    """A line of ISIC 2024."""
    path = ["Benign"] if levels == ("Benign",) else levels
    columns = [*levels, *[""] * (5 - len(levels))]
    return (
        f"{name},{target},IP_1,40.0,male,posterior torso,3.0,TBP tile: close-up,3D: XP,20.2,A,CC-BY,,{'::'.join(path)},"
        + (",".join([*columns, ""]))
    )


# Form, files, and (image, lesion, diagnosis, target) of each row.
CASES = {
    "isic2016": (
        ["ISIC_0000000,benign\nISIC_0000004,malignant\n"],
        [("ISIC_0000000", "", "", 0), ("ISIC_0000004", "", "", 1)],
    ),
    "isic2016 test": (
        ["ISIC_0000003,0.0\nISIC_0000012,1.0\n"],
        [("ISIC_0000003", "", "", 0), ("ISIC_0000012", "", "", 1)],
    ),
    "isic2017": (
        [
            "image_id,melanoma,seborrheic_keratosis\nISIC_1,1.0,0.0\nISIC_2,0.0,1.0\nISIC_3,0.0,0.0\n",
            "image_id,age_approximate,sex\nISIC_1,55,female\nISIC_2,unknown,unknown\nISIC_3,30,male\n",
        ],
        [("ISIC_1", "", "melanoma", 1), ("ISIC_2", "", "seborrheic keratosis", 0), ("ISIC_3", "", "nevus", 0)],
    ),
    "isic2018": (
        [
            "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0.0,0.0,0.0,1.0,0.0,0.0,0.0\nISIC_2,1.0,0.0,0.0,0.0,0.0,0.0,0.0\n",
            "image,lesion_id,diagnosis_confirm_type\nISIC_2,HAM_2,histopathology\nISIC_1,HAM_1,histopathology\n",
        ],
        [
            ("ISIC_1", "HAM_1", "actinic keratosis or intraepithelial carcinoma", 0),
            ("ISIC_2", "HAM_2", "melanoma", 1),
        ],
    ),
    "isic2018 test": (
        ["image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0.0,0.0,0.0,0.0,0.0,0.0,1.0\n"],
        [("ISIC_1", "", "vascular lesion", 0)],
    ),
    "isic2019 test": (
        [
            "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK,score_weight,validation_weight\nISIC_1,0,0,0,0,0,0,0,0,1,1,0\n",
            "image,age_approx,anatom_site_general,sex\nISIC_1,75.0,anterior torso,male\n",
        ],
        [("ISIC_1", "", "unknown", 0)],
    ),
    "isic2024": (
        [
            "\n".join(
                [
                    SLICE,
                    slice_3d("ISIC_1", 0, "Benign"),
                    slice_3d("ISIC_2", 1, "Malignant", MELANOMA, "Melanoma in situ", "Melanoma in situ, NOS"),
                    slice_3d(
                        "ISIC_3",
                        1,
                        "Malignant",
                        "Malignant adnexal epithelial proliferations - Follicular",
                        "Basal cell carcinoma",
                    ),
                    slice_3d(
                        "ISIC_4",
                        0,
                        "Indeterminate",
                        "Indeterminate melanocytic proliferations",
                        "Atypical melanocytic neoplasm",
                    ),
                    slice_3d("ISIC_5", 0, "Benign", "Benign melanocytic proliferations", "Nevus"),
                ]
            )
        ],
        [
            ("ISIC_1", "", "other benign", 0),
            ("ISIC_2", "", "melanoma", 1),
            ("ISIC_3", "", "basal cell carcinoma", 0),
            ("ISIC_4", "", "atypical melanocytic proliferation", 0),
            ("ISIC_5", "", "nevus", 0),
        ],
    ),
    "ham10000": (
        ['"lesion_id"\t"image_id"\t"dx"\t"dx_type"\t"age"\t"sex"\t"localization"\t"dataset"\n'
         '"HAM_1"\t"ISIC_1"\t"mel"\t"histo"\t80.0\t"male"\t"scalp"\t"rosendahl"\n'],
        [("ISIC_1", "HAM_1", "melanoma", 1)],
    ),
    "bcn20000": (
        [
            "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split\n"
            "BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train\n"
            "BCN_0000000003.jpg,50.0,,SCC,BCN_0000019,2015-07-09,female,train\n"
        ],
        [
            ("BCN_0000000001", "BCN_0003884", "melanoma", 1),
            ("BCN_0000000003", "BCN_0000019", "squamous cell carcinoma", 0),
        ],
    ),
    "milk10k": (
        [
            f"{MILK_TRUTH}\nIL_1,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0\n"
            "IL_2,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0\n",
            f"{MILK_META}\nIL_1,clinical: close-up,ISIC_1,A,CC-BY-NC,instrument only,60,male,3,trunk,0.1\n"
            "IL_1,dermoscopic,ISIC_2,A,CC-BY-NC,instrument only,60,male,3,trunk,0.1\n"
            "IL_2,dermoscopic,ISIC_3,A,CC0,instrument only,40,female,4,head_neck_face,0\n",
        ],
        [
            ("ISIC_1", "IL_1", "melanoma", 1),
            ("ISIC_2", "IL_1", "melanoma", 1),
            ("ISIC_3", "IL_2", "other malignant", 0),
        ],
    ),
    "pad_ufes_20": (
        [
            f"{PAD}\nPAT_1516,1765,,,,,8,,,,,,,,ARM,,,NEV,False,False,False,False,False,False,PAT_1516_1765_530.png,False\n"
            "PAT_46,881,False,False,POMERANIA,POMERANIA,55,False,FEMALE,True,True,True,True,3.0,NECK,6.0,5.0,MEL,True,True,"
            "False,True,True,True,PAT_46_881_939.png,True\n"
        ],
        [("PAT_1516_1765_530", "1765", "nevus", 0), ("PAT_46_881_939", "881", "melanoma", 1)],
    ),
    "ddi": (
        [
            ",DDI_ID,DDI_file,skin_tone,malignant,disease\n0,1,000001.png,56,True,melanoma-in-situ\n"
            "1,2,000002.png,12,True,mycosis-fungoides\n2,3,000003.png,34,False,melanocytic-nevi\n"
            "3,4,000004.png,34,False,coccidioidomycosis\n4,5,000005.png,34,True,basal-cell-carcinoma\n"
            "5,6,000006.png,34,True,amelanotic-melanoma\n"
        ],
        [
            ("000001", "", "melanoma", 1),
            ("000002", "", "other malignant", 0),
            ("000003", "", "nevus", 0),
            ("000004", "", "other benign", 0),
            ("000005", "", "basal cell carcinoma", 0),
            ("000006", "", "melanoma", 1),
        ],
    ),
    "ph2": (
        [
            "Legends,,,,,\n,,,,,\nAsymmetry,\"0 - fully symmetric, 1 - in one axis\",,,,\n"
            "Image Name,Histological Diagnosis,Common Nevus,Atypical Nevus,Melanoma,Asymmetry\n"
            "IMD003,,X,,,0\nIMD058,Melanoma,,,X,2\nIMD009,,,X,,1\n"
        ],
        [("IMD003", "", "nevus", 0), ("IMD058", "", "melanoma", 1), ("IMD009", "", "nevus", 0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_published_table_is_recognized_and_read(tmp_path, name):
    texts, expected = CASES[name]
    opened = table.Table(write_tables(tmp_path, *texts))
    assert (opened.form.name, opened.split) == (name.partition(" ")[0], "train")
    frame, undecided = opened.read(labelled=True)
    assert not undecided
    found = [
        (
            row["image_name"],
            row["lesion"],
            schema.DIAGNOSIS[row["diagnosis"]] if row["diagnosis"] >= 0 else "",
            row["target"],
        )
        for row in rows_of(frame)
    ]
    assert found == expected


@pytest.mark.parametrize("name", CASES)
def test_files_to_be_joined_may_come_in_any_order(tmp_path, name):
    texts, expected = CASES[name]
    frame, _ = table.Table(write_tables(tmp_path, *reversed(texts))).read(labelled=True)
    assert sorted(frame["image_name"]) == sorted(image for image, *_ in expected)


def test_sex_age_and_site_of_the_published_tables_are_read(tmp_path):
    sites = {
        name: [(row["sex"], row["age_approx"], row["anatom_site_general_challenge"]) for row in rows_of(frame)]
        for name in ("isic2017", "isic2024", "ham10000", "bcn20000", "milk10k", "pad_ufes_20")
        for frame in [table.Table(write_tables(tmp_path, *CASES[name][0])).read(labelled=True).frame]
    }
    head, arm, torso = (schema.SITE.index(word) for word in ("head/neck", "upper extremity", "torso"))
    assert sites == {
        "isic2017": [(1, 55, -1), (-1, -1, -1), (0, 30, -1)],
        "isic2024": [(0, 40, torso)] * 5,
        "ham10000": [(0, 80, head)],
        "bcn20000": [(0, 55, torso), (1, 50, -1)],
        "milk10k": [(0, 60, torso), (0, 60, torso), (1, 40, head)],
        "pad_ufes_20": [(-1, 8, arm), (1, 55, head)],
    }


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("image,age_approx,anatom_site_general,sex", "isic2019_test"),
        ("image_id,age_approximate,sex", "isic2017_test"),
        (SLICE.replace("target,", "").partition(",lesion_id")[0], "isic2024_test"),
        (MILK_META, "milk10k_test"),
    ],
)
def test_tables_without_labels_are_test_sets(tmp_path, header, form):
    line = ",".join("" if column not in ("image", "image_id", "isic_id") else "ISIC_1" for column in header.split(","))
    opened = table.Table(write_tables(tmp_path, f"{header}\n{line}\n"))
    assert (opened.form.name, opened.split) == (form, "test")
    assert opened.read(labelled=False).frame["target"].tolist() == [-1]


# ---------------------------------------------------------------------------------------- what a target means


def test_a_malignancy_without_a_name_is_undecided_in_isic_2024(tmp_path):
    lines = [SLICE, slice_3d("ISIC_1", 1, "Malignant"), slice_3d("ISIC_2", 0, "Indeterminate")]
    frame, undecided = table.Table(write_tables(tmp_path, "\n".join(lines))).read(labelled=True)
    assert (list(undecided), frame["target"].tolist()) == (["ISIC_1"], [0])


def test_a_target_that_contradicts_the_diagnosis_of_isic_2024_is_an_error(tmp_path):
    lines = [SLICE, slice_3d("ISIC_1", 1, "Benign"), slice_3d("ISIC_2", 0, "Malignant", MELANOMA)]
    with pytest.raises(table.TableError) as caught:
        table.read_table(write_tables(tmp_path, "\n".join(lines)), labelled=True)
    assert "line 2: column target: '1' is not allowed; expected 'benign' for the diagnosis other benign" in str(
        caught.value
    )
    assert "line 3: column target: '0' is not allowed; expected 'malignant' for the diagnosis melanoma" in str(
        caught.value
    )


def test_a_column_map_does_not_make_melanomas_of_other_malignancies(tmp_path):
    """The diagnoses beside the target show that it means any malignancy."""
    path = write_tables(tmp_path, *CASES["isic2024"][0])
    with pytest.raises(table.TableError) as caught:
        table.read_table(path, labelled=True, columns={"image_name": "isic_id"})
    message = "line 4: column target: '1' contradicts the diagnosis 'Basal cell carcinoma'; expected 0, because only a"
    assert message in str(caught.value)
    assert "pass --columns ...,benign_malignant=target,target=" in str(caught.value)
    columns = {"image_name": "isic_id", "benign_malignant": "target", "target": ""}
    opened = table.Table(path, columns=columns)
    assert opened.read(labelled=True).frame["target"].tolist() == [0, 1, 0, 0, 0]
    assert opened.target_rule.startswith(
        "1 = melanoma, by its diagnosis (iddx_1 to iddx_5); its column target means any"
    )


def test_a_target_of_isic_2024_without_its_diagnoses_is_an_error(tmp_path):
    text = f"{SLICE.partition(',attribution')[0]}\nISIC_1,1,IP_1,40,male,,3.0,TBP tile: close-up,3D: XP,20.2\n"
    with pytest.raises(table.TableError, match=r"isic2024: .*\(missing iddx_full\)"):
        table.Table(write_tables(tmp_path, text))
    with pytest.raises(table.TableError, match="column target of ISIC 2024 means any malignancy, and no diagnosis is"):
        table.Table(write_tables(tmp_path, text), columns={"image_name": "isic_id"})
    opened = table.Table(write_tables(tmp_path, text), columns={"image_name": "isic_id", "target": ""})
    assert opened.read(labelled=False).frame["target"].tolist() == [-1]


@pytest.mark.parametrize(
    ("diagnosis", "verdict", "target", "message"),
    [
        ("basal cell carcinoma", "malignant", 0, ""),
        ("squamous cell carcinoma", "malignant", 0, ""),
        ("other malignant", "malignant", 0, ""),
        ("melanoma", "malignant", 1, ""),
        ("basal cell carcinoma", "malignant", 1, "contradicts the diagnosis 'basal cell carcinoma'; expected 0"),
        ("", "malignant", 0, "'malignant' contradicts target 0; expected 'benign'"),
        ("nevus", "malignant", 0, "expected 'benign' for the diagnosis nevus"),
        ("basal cell carcinoma", "benign", 0, "expected 'malignant' for the diagnosis basal cell carcinoma"),
    ],
)
def test_a_target_of_melanomas_beside_a_verdict_of_malignancies(tmp_path, diagnosis, verdict, target, message):
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
    path = write_tables(tmp_path, f"{header}\nISIC_1,IP_1,male,45,torso,{diagnosis},{verdict},{target}\n")
    if not message:
        assert table.read_table(path, labelled=True)["target"].tolist() == [target]
        return
    with pytest.raises(table.TableError) as caught:
        table.read_table(path, labelled=True)
    assert message in str(caught.value)


@pytest.mark.parametrize("form", [form.name for form in formats.FORMS if form.meaning])
def test_every_labelled_form_states_its_rule(form):
    chosen = next(each for each in formats.FORMS if each.name == form)
    rule = chosen.rule([*chosen.required.values(), *chosen.optional.values(), *chosen.classes, *chosen.levels])
    assert rule.startswith("1 = melanoma, ")


# ------------------------------------------------------------------------------------------- labels not read


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [
        (
            "isic_archive",
            "isic2024",
            "column(s) target, iddx_full, iddx_1, iddx_2, iddx_3, iddx_4, iddx_5, which a table of",
        ),
        ("isic_archive", "isic2024", "it is of form isic2024; leave out --form"),
        (
            "milk10k_test",
            "milk10k",
            "column(s) AKIEC, BCC, BEN_OTH, BKL, DF, INF, MAL_OTH, MEL, NV, SCCKA, VASC look like",
        ),
        (
            "isic2017_test",
            "isic2017",
            "column(s) melanoma, seborrheic_keratosis look like labels, which form isic2017_test",
        ),
    ],
)
def test_naming_a_form_does_not_turn_a_labelled_table_into_a_test_set(tmp_path, form, name, message):
    with pytest.raises(table.TableError) as caught:
        table.Table(write_tables(tmp_path, *CASES[name][0]), form=form).split  # noqa: B018
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "image"), [("ham10000", "image_id"), ("ddi", "DDI_file"), ("pad_ufes_20", "img_id")])
def test_a_column_map_that_leaves_out_the_labels_makes_no_test_set(tmp_path, name, image):
    opened = table.Table(write_tables(tmp_path, *CASES[name][0]), columns={"image_name": image, "patient_id": ""})
    with pytest.raises(table.TableError, match="look like labels, which --columns does not read; name them there, or"):
        opened.split  # noqa: B018
    assert opened.read(labelled=False).frame["target"].unique().tolist() == [-1]  # with --split test


# ------------------------------------------------------------------------------------------- ISIC Archive


def test_sites_of_todays_exports_are_read(tmp_path):
    header = "isic_id,anatom_site_1,anatom_site_2,anatom_site_3,anatom_site_4,anatom_site_5,diagnosis_1"
    sites = {
        "Head and neck,Head,Face,Cheek,Upper cheek": "head/neck",
        "Trunk,Posterior trunk,,,": "torso",
        "Upper extremity,Hand,Palm of hand,Central palm,": "palms/soles",
        "Lower extremity,Foot,Toes,,": "lower extremity",
        "Anogenital region,,,,": "oral/genital",
        ",,,,": "",
    }
    text = "\n".join([header, *(f"ISIC_{index},{site},Benign" for index, site in enumerate(sites))])
    frame = table.read_table(write_tables(tmp_path, text), labelled=True)
    found = [schema.SITE[code] if code >= 0 else "" for code in frame["anatom_site_general_challenge"]]
    assert found == list(sites.values())


def test_the_general_site_goes_before_its_levels(tmp_path):
    header = "isic_id,anatom_site_general,anatom_site_1,anatom_site_2"
    text = f"{header}\nISIC_1,palms/soles,Lower extremity,Foot\nISIC_2,,Trunk,"
    frame = table.read_table(write_tables(tmp_path, text), labelled=False)
    assert frame["anatom_site_general_challenge"].tolist() == [4, 3]


def test_an_unknown_site_is_an_error(tmp_path):
    path = write_tables(tmp_path, "isic_id,anatom_site_1,anatom_site_2\nISIC_1,Moon,Crater")
    with pytest.raises(table.TableError, match="line 2: column anatom_site_1: 'Moon' is not allowed; expected one of"):
        table.read_table(path, labelled=False)


def test_a_path_in_one_cell_is_read(tmp_path):
    words = [
        "Malignant:Malignant epidermal proliferations:Keratoacanthoma",
        f"Malignant::{MELANOMA}::Melanoma Invasive",
    ]
    path = write_tables(tmp_path, "\n".join(["file,dx", *(f"a{at},{word}" for at, word in enumerate(words))]))
    columns = {"image_name": "file", "diagnosis": "dx", "patient_id": ""}
    assert table.read_table(path, labelled=True, columns=columns)["target"].tolist() == [0, 1]


def test_a_row_of_a_lesion_belongs_to_all_its_images_but_an_image_has_one(tmp_path):
    truth, meta = CASES["milk10k"][0]
    with pytest.raises(table.TableError, match=r"column lesion_id: 'IL_1' is also in line 2; expected once"):
        table.Table(write_tables(tmp_path, truth + "IL_1,0,0,0,0,0,0,0,0,1,0,0\n", meta)).read(labelled=True)
    with pytest.raises(table.TableError, match=r"column isic_id: 'ISIC_3' is also in line 4"):
        table.Table(write_tables(tmp_path, truth, meta + meta.splitlines()[-1])).read(labelled=True)
