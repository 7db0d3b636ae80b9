"""Data sets: from a publisher's files to arrays of pixels, labels and groups, split so that nothing leaks.

Importing the package fills `DATASETS`: a new set is one module or row, imported here.
"""

from core.data import corpus, kermany, phantom
from core.data.specs import DATASETS

__all__ = ["DATASETS", "corpus", "kermany", "phantom"]
