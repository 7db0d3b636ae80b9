"""Where a classifier found its evidence: attribution methods on the tap, and overlays. Only here is captum used."""

from core.explain.methods import EXPLAINERS, Explainer, Explanation

__all__ = ["EXPLAINERS", "Explainer", "Explanation"]
