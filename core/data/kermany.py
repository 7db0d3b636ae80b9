"""Chest X-Ray Images (Pneumonia): children one to five years old, Guangzhou.

References:
    Kermany et al. 2018, Cell 172(5), doi:10.1016/j.cell.2018.02.010; data doi:10.17632/rscbjbr9sj
"""

from __future__ import annotations

import re
from pathlib import Path

from core.data.folders import list_class_folders
from core.data.listing import TEST, Listing
from core.data.specs import DATASETS, DatasetSpec

_PATIENT = re.compile(r"(?:NORMAL2-)?(IM-\d+)|(person\d+)", re.IGNORECASE)


def patient_of(part: str, label: str, stem: str) -> str:
    """The group of an image from its name.

    Numbering restarts between the classes and between training and test. `IM-0115` and `NORMAL2-IM-0115` may or may
    not be one child: they are kept together.
    """
    found = _PATIENT.match(stem)
    number = found.group(0).upper().removeprefix("NORMAL2-") if found else stem
    return f"{'test' if part == TEST else 'train'}/{label}/{number}"


def load(folder: Path) -> Listing:
    """Reads `train|val|test / NORMAL|PNEUMONIA`."""
    return list_class_folders(
        folder, {"Normal": ("NORMAL", "Healthy"), "Pneumonia": ("PNEUMONIA", "Viral Pneumonia")}, patient_of
    )


DATASETS.add(
    DatasetSpec(
        name="kermany",
        title="Chest X-rays of children (Kermany)",
        modality="chest radiograph",
        task="binary",
        labels=("Normal", "Pneumonia"),
        positive=1,
        load=load,
        folders=("kermany", "chest_xray", "chest-xray-pneumonia"),
        group_key="patient number in the file name",
        licence="CC BY 4.0",
        citation="Kermany et al. 2018, doi:10.17632/rscbjbr9sj",
        url="https://data.mendeley.com/datasets/rscbjbr9sj",
        caveats=(
            "Children of one hospital; the test set has fewer pneumonias (62.5%) than the training set (74%).",
            "The publisher's 16 validation images are too few to use and join the training images.",
        ),
    )
)
