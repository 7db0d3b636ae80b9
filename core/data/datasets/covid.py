"""COVID-19 Radiography Database: a compilation of public chest radiographs in four classes that differ in source.

References:
    Chowdhury et al. 2020, arXiv:2003.13145; Rahman et al. 2021, arXiv:2012.02238.
    Class confounded with source: DeGrave et al. 2021, doi:10.1038/s42256-021-00338-7.
"""

from pathlib import Path

from core.data.datasets.folders import list_class_folders
from core.data.listing import Listing
from core.data.specs import DATASETS, DatasetSpec, Remote

CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def load(folder: Path) -> Listing:
    """Read `CLASS / [images /] image` for the classes present; `masks/` folders are skipped."""
    return list_class_folders(folder, CLASSES, allow_missing=True)


DATASETS.add(
    DatasetSpec(
        name="covid-radiography",
        title="COVID-19 Radiography Database",
        question="COVID-19 or another viral pneumonia on a chest X-ray?",
        population="Patients of many hospitals; the source differs with the class.",
        modality="chest radiograph",
        task="multiclass",
        labels=CLASSES,
        titles={"COVID": "COVID-19", "Lung_Opacity": "Lung opacity", "Viral Pneumonia": "Viral pneumonia"},
        suspicious=("COVID", "Lung_Opacity", "Viral Pneumonia"),
        load=load,
        folders=("covid_radiography", "COVID-19_Radiography_Dataset", "covid19-radiography-database"),
        licence="research use; terms of each source",
        citation="Chowdhury et al. 2020, arXiv:2003.13145; Rahman et al. 2021, arXiv:2012.02238",
        url="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
        caveats=(
            "A compilation: classes differ in source, and it contains copies of images in other public data sets.",
        ),
        remote=Remote("kaggle", "tawsifurrahman/covid19-radiography-database"),
    )
)
