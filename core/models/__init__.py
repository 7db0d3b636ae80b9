"""Models: encoder -> tap -> head, the three families and their controls, and where weights come from.

Importing the package fills `MODELS`: a new model is one row in a module imported here.
"""

from core.models import lite0, scratch
from core.models.specs import FAMILY_TITLES, MODELS

__all__ = ["FAMILY_TITLES", "MODELS", "lite0", "scratch"]
