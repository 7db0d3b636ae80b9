"""Models: encoder -> tap -> head, the three families and their controls, and where weights come from.

Importing the package fills `MODELS`: a new model is one row in a module imported here. Rows are listed, and get their
colours, in the order of the imports.
"""

from core.models import lite0, scratch

# isort: split
from core.models import medsiglip, pretrained, volumes, xrv

# isort: split
from core.models import dinov2

# isort: split
from core.models import joined
from core.models.specs import FAMILY_LETTERS, FAMILY_TITLES, MODELS

__all__ = [
    "FAMILY_LETTERS",
    "FAMILY_TITLES",
    "MODELS",
    "dinov2",
    "joined",
    "lite0",
    "medsiglip",
    "pretrained",
    "scratch",
    "volumes",
    "xrv",
]
