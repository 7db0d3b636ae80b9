"""Dermatoscopic images of the ISIC archive (challenges of 2016 to 2018) that are not in HAM10000: an external test set.

References:
    Codella et al. 2018, Skin lesion analysis toward melanoma detection (ISIC 2017), arXiv:1710.05006.
"""

from itertools import repeat
from pathlib import Path

from core.data.datasets.folders import list_named_images
from core.data.label_tables import read_table, refuse_rows, row_location
from core.data.listing import UNLABELED, Listing
from core.data.specs import DATASETS, DatasetSpec, DemographicsTable
from core.errors import DataUnavailable

CLASSES = ("bkl", "mel", "nv")
TABLE, PAIRS = "labels.csv", "near_duplicates.csv"


def load(folder: Path) -> Listing:
    """Read `labels.csv` and the images below the folder; an image with an empty `dx` has no label.

    The publisher does not state which images show the same lesion. Pairs of near copies in `near_duplicates.csv` share
    a group.

    Raises:
        DataUnavailable: naming the file and the invalid row.
    """
    table = folder / TABLE
    rows = read_table(table, ("image_id", "dx"), unique="image_id")
    reason = (
        f"dx is {{!r}}; expected {', '.join(CLASSES)}, or nothing where the image has no label. Correct the row or "
        "remove it."
    )
    refuse_rows(rows["dx"], ~rows["dx"].isin(("", *CLASSES)), table, reason.format)
    group_of = _grouped(folder, rows["image_id"].tolist())
    labels = [CLASSES.index(dx) if dx else UNLABELED for dx in rows["dx"]]
    listed = zip(rows["image_id"], labels, rows["image_id"].map(group_of), repeat(""))
    return list_named_images(folder, listed, table, CLASSES)


def _grouped(folder: Path, images: list[str]) -> dict[str, str]:
    """Return the group of each image: its own name, or the name of the first of its near copies."""
    group_of = {image: image for image in images}
    path = folder / PAIRS
    if not path.is_file():
        return group_of
    pairs = read_table(path, ("a", "b"))
    for row, (first, second) in enumerate(zip(pairs["a"], pairs["b"], strict=True)):
        if missing := [image for image in (first, second) if image not in group_of]:
            raise DataUnavailable(f"{row_location(path, row)}: {missing[0]!r} is not in {TABLE}. Replace both files.")
        joined, absorbed = group_of[first], group_of[second]
        group_of = {image: joined if group == absorbed else group for image, group in group_of.items()}
    return group_of


DATASETS.add(
    DatasetSpec(
        name="isic2017-dermoscopy",
        title="Skin lesions (ISIC 2016 to 2018)",
        question="Melanoma, nevus or keratosis?",
        population="Patients of several centers of the ISIC archive.",
        modality="dermatoscopic image",
        task="multiclass",
        labels=CLASSES,
        titles={
            "bkl": "seborrheic keratosis (bkl)",
            "mel": "melanoma (mel)",
            "nv": "melanocytic nevus (nv)",
        },
        suspicious=("mel",),
        load=load,
        folders=("isic2017_dermoscopy",),
        channels=3,
        licence="CC0 for the most part; 102 labels from ISIC 2019 under CC BY-NC 4.0",
        citation="Codella et al. 2018, arXiv:1710.05006; Codella et al. 2019, arXiv:1902.03368",
        url="https://challenge.isic-archive.com/data/",
        demographics=DemographicsTable((TABLE,), image="image_id", age="age", sex="sex"),
        caveats=(
            "bkl is narrower than in HAM10000: seborrheic keratoses only.",
            "568 images have no label; they are used for pretraining only.",
            "Lesions and patients are not identified; six pairs of near copies are kept together.",
            "Images were squashed to squares.",
        ),
    )
)
