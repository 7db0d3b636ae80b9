"""One image with all that is said of it: answers, doubts, the sentence that sums them up, and its report."""

from core.inference.case import Answer, Case, ClassSet, SeedInterval, pixels_hash

__all__ = ["Answer", "Case", "ClassSet", "SeedInterval", "pixels_hash"]
