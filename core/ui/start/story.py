"""Sentences and table of the start page, computed from stored runs; the finding is in `core.analysis.contest`."""

from collections.abc import Mapping

from core.analysis.contest import LOOP, listed, way_of
from core.metrics import Metric, SeriesEstimate
from core.runs.series import Series

INTRODUCTIONS = {  # family -> what it is, as a sentence
    "A": "**From scratch.** The network learns everything from the labeled images.",
    "B": "**ImageNet or generic transfer.** An encoder pretrained on everyday photographs describes each image, and a "
    "classifier learns from its descriptions.",
    "C": "**Medical transfer.** The same encoder, trained further on other medical images first.",
}


def meaning_text(
    size: float, metric: Metric, summaries: Mapping[str, SeriesEstimate], names: Mapping[str, Series]
) -> str:
    """Return what to expect at one training-set size, best family first.

    Args:
        size: labeled images per class.
        metric: the metric.
        summaries: family -> its estimate at that size.
        names: family -> its series.
    """
    ordered = sorted(summaries.items(), key=lambda row: row[1].value, reverse=metric.higher_is_better)
    values = [f"{estimate.value:.3f} {way_of(names[family])}" for family, estimate in ordered if family != LOOP]
    return f"With {size:g} labeled images per class, the measured {metric.title} is {listed(values)}."


def size_table(
    summaries: Mapping[str, SeriesEstimate], titles: Mapping[str, str], metric: Metric
) -> list[dict[str, str]]:
    """Return a row per family at one size: the mean with its intervals over test patients and over seeds."""
    return [
        {
            "Family": titles[family],
            metric.title: f"{estimate.value:.3f}",
            "Other test patients": estimate.patients.ends,
            "Other training images": estimate.seeds.ends,
        }
        for family, estimate in summaries.items()
    ]
