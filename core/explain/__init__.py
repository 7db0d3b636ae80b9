"""Attribution methods, their quality, and overlays. Only this package uses captum."""

from core.explain import inputs  # registers its explainers
from core.explain.methods import EXPLAINERS, Explainer, ExplainerInput, Explanation, explain
