"""NIH ChestX-ray14: 112,120 frontal chest radiographs of 30,805 patients, 14 findings mined from reports.

References:
    Wang et al. 2017, ChestX-ray8, arXiv:1705.02315.
"""

from pathlib import Path

import numpy as np

from core.data.datasets.folders import list_named_images
from core.data.label_tables import checked_paths, read_table, refuse_rows, row_location
from core.data.listing import TEST, TRAIN, Listing, listing_of_files
from core.data.specs import DATASETS, DatasetSpec, DemographicsTable, Remote
from core.errors import DataUnavailable

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
NONE = "No Finding"
ADULT_LABELS, ADULT_FOLDERS, ADULT_TABLE = ("Normal", "Pneumonia"), ("NORMAL", "PNEUMONIA"), "labels.csv"
TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
LISTS = {"train_val_list.txt": TRAIN, "test_list.txt": TEST}


def parse_findings(cells: np.ndarray, table: Path) -> np.ndarray:
    """Convert cells of findings joined by `|` to (N, 14) labels of 0 and 1.

    Raises:
        DataUnavailable: naming the first row with an unknown finding.
    """
    column = {name: index for index, name in enumerate(FINDINGS)}
    labels = np.zeros((len(cells), len(FINDINGS)), np.float32)
    for row, cell in enumerate(cells):
        for name in cell.split("|"):
            if name in column:
                labels[row, column[name]] = 1
            elif name != NONE:
                raise DataUnavailable(
                    f"{row_location(table, row)}: {name!r} is not one of the 14 findings or {NONE!r}. "
                    "Take the publisher's file."
                )
    return labels


def load(folder: Path) -> Listing:
    """Read `Data_Entry_2017.csv` and the images, in one folder or in `images_001/images` to `images_012/images`.

    Rows without a file and files without a row are left out. The publisher's lists of training and test images are
    used if present.
    """
    table = next((folder / name for name in TABLES if (folder / name).exists()), folder / TABLES[0])
    rows = read_table(table, ("Image Index", "Finding Labels", "Patient ID"), unique="Image Index")
    labels = parse_findings(rows["Finding Labels"].to_numpy(), table)
    lists = {part: (folder / name).read_text() for name, part in LISTS.items() if (folder / name).exists()}
    parts = {line.rsplit(".", 1)[0]: part for part, text in lists.items() for line in text.split()}
    stems = rows["Image Index"].str.rsplit(".", n=1).str[0]
    listed = zip(stems, labels, rows["Patient ID"], (parts.get(stem, "") for stem in stems), strict=True)
    return list_named_images(folder, listed, table)


def load_adult_pneumonia(folder: Path) -> Listing:
    """Read `labels.csv` and the images that it lists, grouped by NIH patient.

    Raises:
        DataUnavailable: naming the file and the invalid row.
    """
    table = folder / ADULT_TABLE
    rows = read_table(table, ("image", "label", "patient"), unique="image")
    reason = "label is {!r}; expected NORMAL or PNEUMONIA. Correct the row or remove it."
    refuse_rows(rows["label"], ~rows["label"].isin(ADULT_FOLDERS), table, reason.format)
    images = checked_paths(folder, rows["image"], table)
    listed = [
        (image, ADULT_FOLDERS.index(label), patient, "")
        for image, label, patient in zip(images, rows["label"], rows["patient"], strict=True)
        if (folder / image).is_file()
    ]
    return listing_of_files(folder, listed, ADULT_LABELS, table.name)


DATASETS.add(
    DatasetSpec(
        name="nih-chestxray14",
        title="NIH ChestX-ray14",
        question="Which of 14 findings on a chest X-ray?",
        population="Patients of one hospital, the NIH Clinical Center in Bethesda.",
        modality="chest radiograph",
        task="multilabel",
        labels=FINDINGS,
        titles={"Pleural_Thickening": "Pleural thickening"},
        load=load,
        folders=("nih_chestxray14", "ChestX-ray14", "nih-chest-xrays", "CXR8"),
        group_key="patient",
        test_share=2,  # rare findings also need enough positive test images
        min_positives=100,
        licence="free use with credit to the NIH Clinical Center",
        citation="Wang et al. 2017, arXiv:1705.02315",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        demographics=DemographicsTable(TABLES, image="Image Index", age="Patient Age", sex="Patient Gender"),
        caveats=(
            "Labels were mined from reports by text rules; about one in ten is wrong when a reader checks the image.",
        ),
        remote=Remote("kaggle", "nih-chest-xrays/data"),
    ),
    DatasetSpec(
        name="nih-adult-pneumonia",
        title="Pneumonia, mostly adults (NIH ChestX-ray14)",
        question="Pneumonia on an adult's chest X-ray?",
        population="Mostly adults, from one hospital, the NIH Clinical Center in Bethesda.",
        modality="chest radiograph",
        task="binary",
        labels=ADULT_LABELS,
        positive=1,
        load=load_adult_pneumonia,
        folders=("nih_adult_pneumonia",),
        group_key="patient",
        licence="free use with credit to the NIH Clinical Center",
        citation="Wang et al. 2017, arXiv:1705.02315",
        url="https://github.com/muhammedtalo/COVID-19",
        demographics=DemographicsTable(
            (ADULT_TABLE,), image="image", age="age", sex="sex", view="view", reader="expert_airspace_opacity"
        ),
        caveats=(
            "Labels were mined from reports by text rules; of 39 images that a radiologist read, 11 of 21 pneumonias "
            "and 16 of 18 normal images were confirmed.",
            "Views are confounded with the label: 342 of 500 normal images are AP, 225 of 500 pneumonias.",
            "657 of the 1,000 images are also in nih-chestxray14: an encoder trained on their patients is not "
            "evaluated here.",
        ),
        derived_from="nih-chestxray14",
    ),
)
