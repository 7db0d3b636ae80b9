"""Models: encoder -> tap -> head, the three families and their controls, and the sources of weights.

Importing the package fills `MODELS` from `core.models.table`, where a new model is one row, and loads no PyTorch.
"""

from core.models import table  # fills MODELS
from core.models.specs import BASELINE_COLOR, FAMILY_COLORS, FAMILY_LETTERS, FAMILY_TITLES, MODELS
