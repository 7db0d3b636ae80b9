"""Custom image sets: tables and folders, and errors that name the row at fault."""

import numpy as np
import pytest

from core.data.datasets.custom import custom_dataset
from core.data.specs import list_images
from core.errors import DataUnavailable
from tests.conftest import as_rows, put


def test_an_own_table_of_classes(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        put(tmp_path / name)
    put(
        tmp_path / "mine.csv",
        "Path,Label,Patient ID,split\na/1.png,sick,p1,train\na/2.png,well,p1,\nb/3.png,well,p2,Test\n",
    )
    spec = custom_dataset(tmp_path / "mine.csv")
    assert (spec.task, spec.labels, spec.positive, spec.caveats) == ("binary", ("sick", "well"), 0, ())
    assert as_rows(list_images(spec)) == {
        "a/1.png": (0, "p1", "train"),
        "a/2.png": (1, "p1", ""),
        "b/3.png": (1, "p2", "test"),
    }


def test_an_own_table_of_findings(tmp_path):
    for name in "12":
        put(tmp_path / f"{name}.png")
    put(tmp_path / "columns.csv", "image,edema,nodule\n1.png,1,\n2.png,0,1\n")
    put(tmp_path / "joined.csv", "image,findings\n1.png,edema|nodule\n2.png,No Finding\n")
    columns, joined = custom_dataset(tmp_path / "columns.csv"), custom_dataset(tmp_path / "joined.csv")
    assert columns.task == joined.task == "multilabel"
    assert columns.labels == joined.labels == ("edema", "nodule")
    assert np.allclose(list_images(columns).labels, [[1, np.nan], [0, 1]], equal_nan=True)
    assert list_images(joined).labels.tolist() == [[1, 1], [0, 0]]


def test_one_label_an_image_is_one_class_even_if_it_is_no_finding(tmp_path):
    for name in "12":
        put(tmp_path / f"{name}.png")
    put(tmp_path / "mine.csv", "path,label\n1.png,Pneumonia\n2.png,No Finding\n")
    spec = custom_dataset(tmp_path / "mine.csv")
    assert (spec.task, spec.labels, spec.positive) == ("binary", ("No Finding", "Pneumonia"), 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label\nsick\n", "no column for the paths"),
        ("path,age\n1.png,40\n", "no column for the labels"),
        ("path,label\n1.png,a\n1.png,b\n", "row 3: '1.png' is a duplicate"),
        ("path,label\n", "a header only"),
        ("path,edema,nodule\n", "a header only"),
        ("path,label\n../1.png,a\n", "row 2: the path '../1.png' leads out"),
        ("path,label\nC:/1.png,a\n", "leads out"),
        ("path,label\n9.png,a\n", "row 2: there is no file '9.png'"),
        ("path,label\n1.png,a\n2.png,a\n", "one class only"),
        ("path,label,split\n1.png,a,later\n2.png,b,test\n", "row 2: 'later' is not a part"),
    ],
)
def test_faults_of_an_own_table_are_named(tmp_path, text, words):
    put(tmp_path / "1.png")
    put(tmp_path / "2.png")
    put(tmp_path / "mine.csv", text)
    with pytest.raises(DataUnavailable, match=words):
        custom_dataset(tmp_path / "mine.csv")


def test_own_class_folders_may_be_spelt_differently_in_each_part(tmp_path):
    for name in ("train/Covid", "train/Healthy", "test/COVID-19", "test/normal"):
        put(tmp_path / name / "1.png")
    assert custom_dataset(tmp_path).labels == ("COVID", "Normal")
    for name in ("Pneumonia", "Viral Pneumonia"):
        for part in ("train", "test"):
            put(tmp_path / part / name / "1.png")
    assert custom_dataset(tmp_path).labels == ("COVID", "Normal", "Pneumonia", "Viral Pneumonia")
