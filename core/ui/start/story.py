"""Sentences and table of the start page, computed from stored runs."""

from collections.abc import Mapping

from core.analysis.contest import LOOP, Headline
from core.metrics import Metric, SeriesEstimate
from core.models import MODELS
from core.runs.series import Series

WAYS = {  # family of a model -> how its networks are trained, as the end of a sentence
    "scratch": "trained from scratch",
    "imagenet": "with ImageNet pretraining",
    "generic": "with generic self-supervised pretraining",
    "medical": "with medical pretraining",
}
INTRODUCTIONS = {  # family -> what it is, as a sentence
    "A": "**From scratch.** The network learns everything from the labeled images.",
    "B": "**ImageNet or generic transfer.** An encoder pretrained on everyday photographs describes each image, and a "
    "classifier learns from its descriptions.",
    "C": "**Medical transfer.** The same encoder, trained further on other medical images first.",
}


def finding_text(title: str, metric: Metric, finding: Headline, names: Mapping[str, Series]) -> str:
    """Return the finding as one sentence: the images per class that each family needs for the same performance.

    Args:
        title: of the data set.
        metric: the metric of the curves.
        finding: the headline.
        names: family -> its series.
    """
    needs = [f"{size.text()} {_way(names[family])}" for family, size in finding.needed.items() if family != LOOP]
    return f"{title}: {metric.title} {finding.target:.3f} needs this many labeled images per class: {_listed(needs)}."


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
    values = [f"{estimate.value:.3f} {_way(names[family])}" for family, estimate in ordered if family != LOOP]
    return f"With {size:g} labeled images per class, the measured {metric.title} is {_listed(values)}."


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


def _way(name: Series) -> str:
    return WAYS[MODELS[name.model].family]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
