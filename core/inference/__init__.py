"""Inference on one image: input check, predictions with their uncertainty, summary sentence, report."""

from core.inference.case import Answer, Case, ClassSet, SeedInterval, pixels_hash

__all__ = ["Answer", "Case", "ClassSet", "SeedInterval", "pixels_hash"]
