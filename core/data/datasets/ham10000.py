"""HAM10000: 10,015 dermatoscopic images of 7,470 pigmented skin lesions, seven diagnoses.

References:
    Tschandl et al. 2018, Scientific Data 5:180161, doi:10.1038/sdata.2018.161; data doi:10.7910/DVN/DBW86T.
"""

from itertools import repeat
from pathlib import Path

from core.data.datasets.folders import list_class_folders, list_named_images
from core.data.label_tables import read_table, refuse_rows
from core.data.listing import Listing
from core.data.specs import DATASETS, DatasetSpec, DemographicsTable, External, Remote

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
TABLE = "HAM10000_metadata"
_TABLES = (f"{TABLE}.csv", TABLE, f"{TABLE}.tab")


def load(folder: Path) -> Listing:
    """Read `HAM10000_metadata.csv` and the images, grouped by lesion, or `train|val|test / akiec ... vasc`.

    Class folders do not identify lesions: without the table every image is its own group, and only copies are united.
    """
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is None:
        return list_class_folders(folder, CLASSES)
    rows = read_table(table, ("lesion_id", "image_id", "dx"), unique="image_id")
    reason = f"{{!r}} is not one of {', '.join(CLASSES)}. Take the publisher's file."
    refuse_rows(rows["dx"], ~rows["dx"].isin(CLASSES), table, reason.format)
    listed = zip(rows["image_id"], map(CLASSES.index, rows["dx"]), rows["lesion_id"], repeat(""))
    return list_named_images(folder, listed, table, CLASSES)


DATASETS.add(
    DatasetSpec(
        name="ham10000",
        title="Skin lesions (HAM10000)",
        question="Which kind of pigmented skin lesion?",
        population="Patients of two centers, in Vienna and in Queensland.",
        modality="dermatoscopic image",
        task="multiclass",
        labels=CLASSES,
        titles={
            "akiec": "actinic keratosis or Bowen's disease (akiec)",
            "bcc": "basal cell carcinoma (bcc)",
            "bkl": "benign keratosis (bkl)",
            "df": "dermatofibroma (df)",
            "mel": "melanoma (mel)",
            "nv": "melanocytic nevus (nv)",
            "vasc": "vascular lesion (vasc)",
        },
        suspicious=("akiec", "bcc", "mel"),
        load=load,
        folders=("ham10000", "skin-cancer-mnist-ham10000"),
        group_key="lesion",
        channels=3,
        licence="CC BY-NC 4.0",
        citation="Tschandl et al. 2018, doi:10.1038/sdata.2018.161",
        url="https://doi.org/10.7910/DVN/DBW86T",
        demographics=DemographicsTable(_TABLES, image="image_id", age="age", sex="sex"),
        caveats=("Two thirds of the images are nevi; half of the lesions were confirmed without histology.",),
        remote=Remote("dataverse", "doi:10.7910/DVN/DBW86T", ("HAM10000_images_part_", TABLE)),
        external=(
            External(
                "isic2017-dermoscopy",
                {label: label for label in ("bkl", "mel", "nv")},
                "bkl is narrower there: seborrheic keratoses only.",
            ),
        ),
    )
)
