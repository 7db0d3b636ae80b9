"""Measures of a classifier from stored predictions: discrimination, calibration, thresholds, intervals, comparisons."""

from core.metrics.intervals import Estimate, Spread, between_seeds, bootstrap, bootstrap_difference, wilson
from core.metrics.measures import METRICS, Metric, measure, measure_by_class
from core.metrics.scores import Scores

__all__ = [
    "METRICS",
    "Estimate",
    "Metric",
    "Scores",
    "Spread",
    "between_seeds",
    "bootstrap",
    "bootstrap_difference",
    "measure",
    "measure_by_class",
    "wilson",
]
