"""Data sets: from a publisher's files to arrays of pixels, labels and groups, split so that nothing leaks.

Importing the package fills `DATASETS`: a new set is one module or row, imported here.
"""

from core.data.datasets import kermany, phantom  # isort: skip  (what is shown first)
from core.data.datasets import chexpert, covid, ham10000, isic, medmnist, nih, small_public
from core.data.specs import DATASETS

__all__ = [
    "DATASETS", "chexpert", "covid", "ham10000", "isic", "kermany", "medmnist", "nih", "phantom",
    "phantom_more", "small_public",
]  # fmt: skip
