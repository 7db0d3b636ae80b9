"""Classifier metrics from stored predictions: discrimination, calibration, thresholds, intervals, comparisons."""

from core.metrics.bootstrap import Estimate, SeriesEstimate, Spread, between_seeds, bootstrap, series_estimate, wilson
from core.metrics.measures import METRICS, Metric, measure
from core.metrics.scores import Scores

__all__ = [
    "METRICS",
    "Estimate",
    "Metric",
    "Scores",
    "SeriesEstimate",
    "Spread",
    "between_seeds",
    "bootstrap",
    "measure",
    "series_estimate",
    "wilson",
]
