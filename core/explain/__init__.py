"""Where a classifier found its evidence: attribution methods, their quality, and overlays. Only here is captum used."""

from core.explain import inputs  # noqa: F401 (fills the table)
from core.explain.methods import EXPLAINERS, Explainer, Explanation, Question, explain

__all__ = ["EXPLAINERS", "Explainer", "Explanation", "Question", "explain"]
