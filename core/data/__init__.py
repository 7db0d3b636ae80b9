"""Data sets: from a publisher's files to arrays of pixels, labels and groups, split without leakage.

Importing the package fills `DATASETS`. A new data set is one module or one row, imported here.
"""

from core.data.datasets import kermany, phantom  # isort: skip  (shown first)
from core.data.datasets import chexpert, covid, ham10000, isic, medmnist, nih, small_public
from core.data.specs import DATASETS
