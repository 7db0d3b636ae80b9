"""Small public data sets in class folders: knee, blood smear, breast ultrasound; tasks, and corpus for pretraining."""

import re
from pathlib import Path

import numpy as np

from core.data.datasets.folders import list_class_folders
from core.data.listing import Listing, listing_of_files
from core.data.specs import DATASETS, DatasetSpec

GRADES = tuple("01234")
CELLS = ("Parasitized", "Uninfected")
TUMORS = ("benign", "malignant", "normal")
_SEGMENTATION = re.compile(r"_mask(_\d+)?\.\w+$")
_SLIDE = re.compile(r"C\d+P\d+")


def load_knee(folder: Path) -> Listing:
    """Read `train|val|test / 0..4`; both knees of a person are one group."""
    return list_class_folders(folder, GRADES, lambda part, label, stem: stem.split("_")[0].rstrip("LR"))


def load_malaria(folder: Path) -> Listing:
    """Read `Parasitized / Uninfected`; the file name may begin with the patient."""
    return list_class_folders(
        folder, CELLS, lambda part, label, stem: match.group(0) if (match := _SLIDE.match(stem)) else stem
    )


def load_ultrasound(folder: Path) -> Listing:
    """Read `benign / malignant / normal`; the publisher's segmentation masks in the same folders are left out."""
    listing = list_class_folders(folder, TUMORS)
    kept = np.array([not _SEGMENTATION.search(name) for name in listing.ids])
    rows = zip(listing.ids[kept], listing.labels[kept], listing.groups[kept], listing.parts[kept], strict=True)
    return listing_of_files(folder, list(rows), TUMORS)


DATASETS.add(
    DatasetSpec(
        name="knee-osteoarthritis",
        title="Knee radiographs (OAI)",
        question="Which grade of osteoarthritis on a knee X-ray?",
        population="Adults of 45 to 79 years, from the Osteoarthritis Initiative.",
        modality="knee radiograph",
        task="multiclass",
        labels=GRADES,
        titles={grade: f"Kellgren-Lawrence grade {grade}" for grade in GRADES},
        load=load_knee,
        folders=("knee_osteoarthritis",),
        group_key="person",
        licence="CC BY 4.0 at Mendeley; the OAI's own terms also apply",
        citation="Chen 2018, doi:10.17632/56rmx5bjcr",
        url="https://data.mendeley.com/datasets/56rmx5bjcr",
        caveats=("Kellgren-Lawrence grades; readers disagree on adjacent grades.",),
    ),
    DatasetSpec(
        name="malaria",
        title="Malaria blood-smear cells (NLM)",
        question="Malaria parasite in a blood cell?",
        population="Patients with malaria and healthy people, from one hospital in Chittagong.",
        modality="blood-smear cell",
        task="binary",
        labels=CELLS,
        positive=0,
        load=load_malaria,
        folders=("malaria", "cell_images"),
        group_key="patient",
        licence="public domain",
        citation="Rajaraman et al. 2018, doi:10.7717/peerj.4568",
        url="https://lhncbc.nlm.nih.gov/LHC-research/LHC-projects/image-processing/malaria-datasheet.html",
    ),
    DatasetSpec(
        name="breast-ultrasound",
        title="Breast ultrasound (BUSI)",
        question="Benign, malignant or no mass on a breast ultrasound image?",
        population="Women of 25 to 75 years, from one hospital in Cairo.",
        modality="breast ultrasound",
        task="multiclass",
        labels=TUMORS,
        load=load_ultrasound,
        folders=("breast_ultrasound", "Dataset_BUSI_with_GT"),
        licence="CC BY 4.0, as listed by MedMNIST",
        citation="Al-Dhabyani et al. 2020, doi:10.1016/j.dib.2019.104863",
        url="https://doi.org/10.1016/j.dib.2019.104863",
        caveats=("Patients are not identified: only copies of an image are kept together.",),
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
        citation="BCCD, github.com/Shenggan/BCCD_Dataset",
        url="https://github.com/Shenggan/BCCD_Dataset",
        caveats=("Rotated copies of about 365 originals.",),
        corpus_only="its images are rotated copies of about 365 originals, not identified, so no valid split exists",
    ),
)
