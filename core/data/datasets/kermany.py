"""Chest X-Ray Images (Pneumonia): children one to five years old, from one hospital in Guangzhou.

References:
    Kermany et al. 2018, Cell 172(5), doi:10.1016/j.cell.2018.02.010; data doi:10.17632/rscbjbr9sj
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.data.datasets.folders import list_class_folders
from core.data.listing import TEST, Listing
from core.data.specs import DATASETS, DatasetSpec, External, Remote
from core.errors import DataUnavailable

LABELS = ("Normal", "Pneumonia")
LABELS_OF_THREE = ("Normal", "Bacterial pneumonia", "Viral pneumonia")

_PATIENT = re.compile(r"(?:NORMAL2-)?(IM-\d+)|(person\d+)", re.IGNORECASE)


def patient_of(part: str, label: str, stem: str) -> str:
    """Return the group of an image, derived from its name.

    Numbering restarts for each class, and for training and test. `IM-0115` and `NORMAL2-IM-0115` may be the same child,
    so they are kept together.
    """
    match = _PATIENT.match(stem)
    number = match.group(0).upper().removeprefix("NORMAL2-") if match else stem
    return f"{'test' if part == TEST else 'train'}/{label}/{number}"


def load(folder: Path) -> Listing:
    """Read `train|val|test / NORMAL|PNEUMONIA`."""
    return list_class_folders(folder, LABELS, patient_of)


def load_three(folder: Path) -> Listing:
    """Read the same images in three classes; file names of pneumonia images contain `bacteria` or `virus`.

    Raises:
        DataUnavailable: if the file name of a pneumonia image contains neither.
    """
    two = load(folder)
    is_type = [("bacteria" in name.casefold(), "virus" in name.casefold()) for name in two.ids]
    for name, label, (bacterial, viral) in zip(two.ids, two.labels, is_type, strict=True):
        if label and bacterial == viral:
            raise DataUnavailable(f"{name}: the name says neither bacteria nor virus. Take the publisher's files.")
    labels = np.array([label and 1 + viral for label, (_, viral) in zip(two.labels, is_type, strict=True)], int)
    return replace(two, labels=labels, class_names=LABELS_OF_THREE)


_ROW = DatasetSpec(
    name="kermany",
    title="Chest X-rays of children (Kermany)",
    question="Pneumonia on a child's chest X-ray?",
    population="Children of one to five years, from one hospital in Guangzhou.",
    modality="chest radiograph",
    task="binary",
    labels=LABELS,
    positive=1,
    load=load,
    folders=("kermany", "chest_xray", "chest-xray-pneumonia"),
    group_key="patient number in the file name",
    licence="CC BY 4.0",
    citation="Kermany et al. 2018, doi:10.17632/rscbjbr9sj",
    url="https://data.mendeley.com/datasets/rscbjbr9sj",
    caveats=(
        "Children from one hospital; the test set has fewer pneumonias (62.5%) than the training set (74%).",
        "The publisher's 16 validation images are too few and were added to the training images.",
    ),
    remote=Remote("kaggle", "paultimothymooney/chest-xray-pneumonia"),
    external=(
        External(
            "nih-adult-pneumonia",
            {label: label for label in LABELS},
            "Adults instead of children, and labels mined from reports.",
        ),
    ),
)
DATASETS.add(
    _ROW,
    replace(
        _ROW,
        name="kermany-3",
        title="Chest X-rays of children (Kermany), bacterial and viral apart",
        question="Bacterial or viral pneumonia on a child's chest X-ray?",
        task="multiclass",
        labels=LABELS_OF_THREE,
        suspicious=LABELS_OF_THREE[1:],
        positive=None,
        load=load_three,
        derived_from="kermany",
        external=(),  # no other data set distinguishes bacterial from viral pneumonia
    ),
)
