"""Classifier metrics from stored predictions: discrimination, calibration, thresholds, intervals, comparisons."""

from core.metrics.bootstrap import Estimate, SeriesEstimate, Spread, between_seeds, bootstrap, wilson
from core.metrics.measures import METRICS, Metric, measure
from core.metrics.scores import Scores
