import pytest

from tfrecord_tools.metadata import formats

KAGGLE = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge"


@pytest.mark.parametrize(
    ("header", "form", "external"),
    [
        (KAGGLE, "isic2020", False),
        (KAGGLE + ",diagnosis,benign_malignant,target,tfrecord,width,height,patient_code", "isic2020", False),
        ("image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,target", "isic2020", False),
        ("image,patient,age_approx,anatom_site_general,sex", "isic2020_test", False),
        ("image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,age_approx,anatom_site_general,lesion_id,sex", "isic2019", True),
        ("image,age_approx,anatom_site_general,sex", "isic2019_test", True),
        ("lesion_id,image_id,dx,dx_type,age,sex,localization,dataset", "ham10000", True),
        ("isic_id,attribution,copyright_license,age_approx,diagnosis_1,sex", "isic_archive", True),
        ("image_name,bytes,full,benign_malignant,diagnosis,sex,age_approx", "isic_archive_labels", True),
    ],
)
def test_a_form_is_recognized_by_its_header(header, form, external):
    assert formats.recognize(header.split(",")) == form
    assert formats.form_of(header.split(",")).external == external


def test_an_unknown_header_lists_the_forms_nearest_first():
    with pytest.raises(formats.TableError) as caught:
        formats.recognize(KAGGLE.replace("sex,", "").split(","))
    first, second, *_ = str(caught.value).splitlines()
    assert first.startswith("unknown header image_name, patient_id, age_approx")
    assert second.startswith("  isic2020: ISIC 2020: Kaggle's train.csv")
    assert second.endswith("(missing sex)")
    assert all(form.name in str(caught.value) for form in formats.FORMS)
    assert len(str(caught.value).splitlines()) == 7


def test_a_kaggle_table_without_patients_is_not_taken_for_another():
    with pytest.raises(formats.TableError, match=r"isic2020: .*\(missing patient_id\)"):
        formats.recognize([*KAGGLE.replace("patient_id,", "").split(","), "diagnosis", "benign_malignant", "target"])


def test_a_column_map_is_parsed():
    assert formats.parse_columns("patient_id=patient, image_name=file,lesion_id=") == {
        "patient_id": "patient",
        "image_name": "file",
        "lesion_id": "",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient", "--columns 'patient': expected OURS=THEIRS with OURS one of image_name, patient_id"),
        ("name=file", "--columns 'name=file': expected OURS=THEIRS"),
        ("sex=a,sex=b", "--columns: sex occurs twice"),
        ("", "--columns '': expected"),
    ],
)
def test_a_bad_column_map_is_named(text, message):
    with pytest.raises(formats.TableError, match=message):
        formats.parse_columns(text)


def test_a_form_and_a_column_map_exclude_each_other():
    with pytest.raises(formats.TableError, match="form 'ham10000' and a column map together"):
        formats.form_of(["file"], "ham10000", {"image_name": "file"})
