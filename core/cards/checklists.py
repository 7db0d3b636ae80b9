"""The table of reporting guidelines."""

from __future__ import annotations

from core.cards.claim import CLAIM
from core.cards.items import Guideline
from core.cards.tripod import TRIPOD
from core.registry import Registry

GUIDELINES: Registry[Guideline] = Registry("reporting guideline")
GUIDELINES.add(Guideline("claim-2024", "CLAIM 2024", "Tejani et al. 2024, doi:10.1148/ryai.240300", CLAIM))
GUIDELINES.add(Guideline("tripod-ai", "TRIPOD+AI", "Collins et al. 2024, doi:10.1136/bmj-2023-078378", TRIPOD))
