"""Measures of a classifier from stored predictions: discrimination, calibration, thresholds, intervals."""

from core.metrics.intervals import Estimate, bootstrap, bootstrap_difference
from core.metrics.measures import METRICS, Metric, Scores, measure

__all__ = ["METRICS", "Estimate", "Metric", "Scores", "bootstrap", "bootstrap_difference", "measure"]
