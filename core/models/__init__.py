"""Models: encoder -> tap -> head, the three families and their controls, and the sources of weights.

Importing the package fills `MODELS`. A new model is one row in a module imported here. The order of the imports is the
order in which models are listed and get their colors.
"""

from core.models import efficientnet_lite0, scratch

# isort: split
from core.models import medsiglip, timm_models, volume_models, xrv

# isort: split
from core.models import dinov2

# isort: split
from core.models import astra, concatenated_encoders, custom_weights
from core.models.specs import BASELINE_COLOR, FAMILY_COLORS, FAMILY_LETTERS, FAMILY_TITLES, MODELS
