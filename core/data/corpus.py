"""Rows of the sets that so far serve only as material for pretraining: every image, no split of their own."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from core.data.folders import image_files, list_class_folders
from core.data.listing import Listing, listing_of_files
from core.data.specs import DATASETS, DatasetSpec
from core.errors import DataUnavailable

NIH_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
HAM_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.exists():
        raise DataUnavailable(f"{path.name} is missing in {path.parent.name}; take the publisher's file.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataUnavailable(f"{path.name} lacks the column {missing[0]!r}; take the publisher's file.")
        return list(reader)


def load_nih(folder: Path) -> Listing:
    """Reads `Data_Entry_2017.csv` beside `images/`; rows without a file are left out."""
    files = {path.name: path.relative_to(folder).as_posix() for path in image_files(folder)}
    rows: list[tuple[str, object, str, str]] = []
    for row in _table(folder / "Data_Entry_2017.csv", ("Image Index", "Finding Labels", "Patient ID")):
        if name := files.get(row["Image Index"]):
            found = row["Finding Labels"].split("|")
            rows.append((name, [float(finding in found) for finding in NIH_FINDINGS], row["Patient ID"], ""))
    return listing_of_files(folder, rows)


def load_ham(folder: Path) -> Listing:
    """Reads `HAM10000_metadata.csv` beside `images/`, grouped by lesion."""
    files = {path.stem: path.relative_to(folder).as_posix() for path in image_files(folder)}
    rows: list[tuple[str, object, str, str]] = []
    for row in _table(folder / "HAM10000_metadata.csv", ("lesion_id", "image_id", "dx")):
        if name := files.get(row["image_id"]):
            if row["dx"] not in HAM_CLASSES:
                raise DataUnavailable(
                    f"{row['image_id']} has the diagnosis {row['dx']!r}, which HAM10000 does not have."
                )
            rows.append((name, HAM_CLASSES.index(row["dx"]), row["lesion_id"], ""))
    return listing_of_files(folder, rows)


def load_knee(folder: Path) -> Listing:
    """Reads `train|val|test / 0..4`; both knees of a person are one group."""
    grades: dict[str, tuple[str, ...]] = {str(grade): (str(grade),) for grade in range(5)}
    return list_class_folders(folder, grades, lambda part, label, stem: stem.split("_")[0].rstrip("LR"))


def load_malaria(folder: Path) -> Listing:
    """Reads `Parasitized / Uninfected`; the patient is in the file name."""
    slide = re.compile(r"C\d+P\d+")

    def patient_of(part: str, label: str, stem: str) -> str:
        found = slide.match(stem)
        return found.group(0) if found else stem

    return list_class_folders(folder, None, patient_of)


def _medmnist(folder: Path, name: str) -> Listing:
    from core.data.images import encode_png
    from core.storage import sha256_of_file

    path = folder / f"{name}.npz"
    if not path.exists():
        raise DataUnavailable(f"Expected {path.name} in {folder.name}; fetch it from https://medmnist.com.")
    with np.load(path, allow_pickle=False) as file:
        parts = [part for part in ("train", "val", "test") if f"{part}_images" in file]
        images = np.concatenate([file[f"{part}_images"] for part in parts])
        labels = np.concatenate([file[f"{part}_labels"][:, 0] for part in parts])
        counts = [len(file[f"{part}_images"]) for part in parts]
    ids = np.array([f"{part}/{i:06d}" for part, count in zip(parts, counts, strict=True) for i in range(count)])
    names = np.repeat([{"val": "validation"}.get(part, part) for part in parts], counts)
    return Listing(ids, labels.astype(int), ids, names, lambda i: encode_png(images[i]), sha256_of_file(path))


_ROWS = (
    DatasetSpec(
        name="nih-chestxray14",
        title="NIH ChestX-ray14 (part)",
        modality="chest radiograph",
        task="multilabel",
        labels=NIH_FINDINGS,
        load=load_nih,
        folders=("nih_chestxray14",),
        group_key="patient",
        licence="free use with credit to the NIH Clinical Center",
        citation="Wang et al. 2017, arXiv:1705.02315",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        corpus_only=True,
    ),
    DatasetSpec(
        name="ham10000",
        title="HAM10000 skin lesions",
        modality="dermatoscopic image",
        task="multiclass",
        labels=HAM_CLASSES,
        load=load_ham,
        folders=("ham10000",),
        group_key="lesion",
        channels=3,
        licence="CC BY-NC 4.0",
        citation="Tschandl et al. 2018, doi:10.7910/DVN/DBW86T",
        url="https://doi.org/10.7910/DVN/DBW86T",
        corpus_only=True,
    ),
    DatasetSpec(
        name="covid-radiography",
        title="COVID-19 Radiography Database",
        modality="chest radiograph",
        task="multiclass",
        labels=("COVID", "Normal", "Viral Pneumonia"),
        load=lambda folder: list_class_folders(
            folder, {name: (name,) for name in ("COVID", "Normal", "Viral Pneumonia")}
        ),
        folders=("covid_radiography", "COVID-19_Radiography_Dataset"),
        licence="research use; terms of each source",
        citation="Chowdhury et al. 2020, Rahman et al. 2021",
        url="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
        caveats=("A compilation: classes differ in source, and it holds copies of other public sets.",),
        corpus_only=True,
    ),
    DatasetSpec(
        name="knee-osteoarthritis",
        title="Knee radiographs (OAI)",
        modality="knee radiograph",
        task="multiclass",
        labels=tuple("01234"),
        load=load_knee,
        folders=("knee_osteoarthritis",),
        group_key="person",
        licence="CC BY 4.0 at Mendeley; the OAI's own terms also apply",
        citation="Chen 2018, doi:10.17632/56rmx5bjcr",
        corpus_only=True,
    ),
    DatasetSpec(
        name="malaria",
        title="Malaria blood-smear cells (NLM)",
        modality="blood-smear cell",
        task="binary",
        labels=("Parasitized", "Uninfected"),
        positive=0,
        load=load_malaria,
        folders=("malaria",),
        group_key="patient",
        licence="public domain",
        citation="Rajaraman et al. 2018, doi:10.7717/peerj.4568",
        corpus_only=True,
    ),
    DatasetSpec(
        name="breast-ultrasound",
        title="Breast ultrasound (BUSI)",
        modality="breast ultrasound",
        task="multiclass",
        labels=("benign", "malignant", "normal"),
        load=list_class_folders,
        folders=("breast_ultrasound",),
        licence="CC BY 4.0, as listed by MedMNIST",
        citation="Al-Dhabyani et al. 2020, doi:10.1016/j.dib.2019.104863",
        corpus_only=True,
    ),
    DatasetSpec(
        name="blood-cells",
        title="White blood cells (BCCD, augmented)",
        modality="blood-smear cell",
        task="multiclass",
        labels=("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"),
        load=list_class_folders,
        folders=("blood_cells",),
        channels=3,
        licence="MIT",
        citation="BCCD",
        caveats=("Rotated copies of about 365 originals: never split at random.",),
        corpus_only=True,
    ),
    DatasetSpec(
        name="pneumoniamnist",
        title="PneumoniaMNIST",
        modality="chest radiograph",
        task="binary",
        labels=("Normal", "Pneumonia"),
        positive=1,
        load=lambda folder: _medmnist(folder, "pneumoniamnist"),
        folders=("medmnist",),
        licence="CC BY 4.0",
        citation="Yang et al. 2023, doi:10.1038/s41597-022-01721-8",
        url="https://medmnist.com",
        derived_from="kermany",
        corpus_only=True,
    ),
)
for _row in _ROWS:
    DATASETS.add(_row)
