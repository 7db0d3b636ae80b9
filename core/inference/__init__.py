"""Inference on one image: image check, predictions with their uncertainty, summary sentence, report."""

from core.inference.case import Case, NetworkResult
from core.inference.uncertainty import PredictionSet, SeedInterval
